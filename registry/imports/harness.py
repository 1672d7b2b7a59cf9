"""Results that EleutherAI's lm-evaluation-harness wrote, put together: adapters beside the baselines of their bases.

Follows its version 0.4, run with ``--output_path`` and, better, ``--log_samples``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from registry.cells import Cell, regime_of
from registry.errors import Refused, unknown
from registry.evaluation.metrics import delta_metrics
from registry.imports.harness_files import Results, results_below
from registry.imports.harness_scores import Reading, TargetMeasurement, format_names, measure
from registry.imports.harness_settings import differences
from registry.imports.imported import ImportedResults
from registry.imports.manifest import Manifest, ManifestRun
from registry.imports.naming import family_and_size
from registry.sources import Source
from registry.tracking import metric_names
from registry.tracking.chance import compared_with_chance
from registry.tracking.columns import BASELINE_COLUMNS, CELL_KEY, STORED_COLUMNS

__all__ = ["read_harness"]


def read_harness(manifest: Manifest, families: Mapping[str, str], staging: Path) -> ImportedResults:
    """Read every folder of a manifest.

    Parameters
    ----------
    families
        Model → family, beside what the manifest says.
    staging
        Folder for the questions' outcomes.

    Raises
    ------
    Refused
        If results are missing, a task is not recognised, a target lacks its baseline, or a baseline was measured on
        other questions or with another prompt than an adapter.
    """
    reading = Reading(staging)
    reading.read(manifest.path)
    reading.digest.update(repr(sorted(families.items())).encode())
    models: dict[str, tuple[str, float]] = {}
    measured: dict[ManifestRun, dict[Cell, TargetMeasurement]] = {}
    for run in tqdm(manifest.runs, desc="reading results", unit="run", delay=2, leave=False):
        found = results_below(run)
        if run.source is None:
            models[run.model] = _describe(run, manifest, families, found)
        measured[run] = measure(run, manifest, found, reading)
    bases = {run.model: targets for run, targets in measured.items() if run.source is None}
    rows = [
        row
        for run, targets in measured.items()
        if run.source is not None
        for row in _rows(run, run.source, targets, bases[run.model], models[run.model], manifest.protocol, reading)
    ]
    headlines = _headlines(measured, manifest)
    mixed = [
        f"The score of {task} is acc_norm where the harness gave it, acc in other languages, and means mix the two: "
        f"headline: {{{task}: acc}} in the manifest takes one for all."
        for task, names in headlines.items()
        if len(names) > 1
    ]
    observations = pd.DataFrame(rows, columns=STORED_COLUMNS).sort_values([*CELL_KEY, "seed"])
    return ImportedResults(
        name=manifest.path.name,
        format="lm_eval",
        digest=reading.digest.hexdigest(),
        observations=observations.reset_index(drop=True),
        baselines=_baselines(bases),
        seed_averaged=False,
        outcomes=staging if any(staging.rglob("*.parquet")) else None,
        headlines={task: next(iter(names)) for task, names in headlines.items() if len(names) == 1},
        notes=(*reading.notes(), *mixed),
    )


def _headlines(
    measured: Mapping[ManifestRun, Mapping[Cell, TargetMeasurement]], manifest: Manifest
) -> dict[str, set[str]]:
    """Return the accuracies that are each task's score: two where some of its cells have no acc_norm."""
    found: dict[str, set[str]] = {}
    for targets in measured.values():
        for cell, one in targets.items():
            found.setdefault(cell.task, set()).add(one.score.headline)
    for task in manifest.headlines:
        if task not in found:
            raise unknown("task", task, found, where=f"{manifest.path}: headline")
    return found


def _describe(
    run: ManifestRun, manifest: Manifest, families: Mapping[str, str], found: list[Results]
) -> tuple[str, float]:
    """Return a model's family and size: known, or the manifest's, the size also as the harness counted it."""
    family, size = manifest.models.get(run.model, (None, None))
    given = dict(families) if family is None else {run.model: family}
    counted = found[0].content.get("config", {}).get("model_num_parameters")
    if size is None and isinstance(counted, int) and counted > 0:
        size = counted / 1e9
    remedy = f"say it in the manifest: models: {{{run.model}: {{family: …, size_b: …}}}}"
    return family_and_size(run.model, given, size, where=run.where, remedy=remedy)


def _rows(
    run: ManifestRun,
    source: Cell,
    targets: Mapping[Cell, TargetMeasurement],
    base: Mapping[Cell, TargetMeasurement],
    model: tuple[str, float],
    protocol: str,
    reading: Reading,
) -> Iterator[dict[str, Any]]:
    """Yield an adapter's observations."""
    lacking = sorted(str(cell) for cell in targets.keys() - base.keys())
    if lacking:
        raise Refused(
            f"{run.where}: {run.model} has no baseline on {format_names(lacking)}; "
            "evaluate the untouched model there too"
        )
    for cell, found in targets.items():
        _require_same(run, cell, found, base[cell], reading)
    scores = {cell: found.score.score for cell, found in targets.items()}
    deltas = delta_metrics(Source.of_cell(source), scores, {cell: found.score.score for cell, found in base.items()})
    for target, found in targets.items():
        regime = regime_of(source, target)
        yield {
            "model": run.model,
            "model_family": model[0],
            "model_size_b": model[1],
            "source_task": source.task,
            "source_language": source.language,
            "target_task": target.task,
            "target_language": target.language,
            "regime": str(regime),
            "seed": run.seed,
            "score": found.score.score,
            "acc": found.score.acc,
            "acc_norm": found.score.acc_norm,
            "baseline": base[target].score.score,
            "delta": deltas[metric_names.delta(regime, target)],
            "protocol": protocol,
        }


def _require_same(
    run: ManifestRun, cell: Cell, found: TargetMeasurement, base: TargetMeasurement, reading: Reading
) -> None:
    """Refuse a delta between two different measurements, and note what differs without harm."""
    if found.score.headline != base.score.headline:
        raise Refused(f"{run.where}: {cell} has acc_norm in only one of {found.file} and its baseline {base.file}")
    for one in differences(found.settings, base.settings):
        if one.effect == "deciding":
            raise Refused(
                f"{run.where}: the {one.what} of {cell} differs between {found.file} and its baseline {base.file}"
                f"{one.shown}; a delta needs the same questions, asked in the same way: evaluate one of them again"
            )
        (reading.harmless if one.effect == "harmless" else reading.unknown).add(one.name)
    if found.answers is not None and found.answers == base.answers:
        reading.unchanged.add(f"{run} on {cell}")


def _baselines(bases: Mapping[str, Mapping[Cell, TargetMeasurement]]) -> pd.DataFrame:
    rows = [
        (model, cell.task, cell.language, found.score.score, found.score.chance, found.score.chance_p)
        for model, targets in bases.items()
        for cell, found in targets.items()
    ]
    table = compared_with_chance(pd.DataFrame(rows, columns=[*BASELINE_COLUMNS[:5], "chance_p"]))
    return table.sort_values(BASELINE_COLUMNS[:3]).reset_index(drop=True)
