"""The adapter with the highest recorded delta on a target, and how much that says."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from registry.cells import Cell, Regime, regime_of
from registry.errors import Refused, unknown
from registry.tracking.client import existing
from registry.tracking.columns import CHECKED
from registry.tracking.duplicates import refuse_conflicts
from registry.tracking.evaluations import Evaluation, evaluations
from registry.tracking.names import Kind, Tag, headlines_of
from registry.tracking.store import all_runs

__all__ = ["SHRUNKEN", "SHRUNKEN_SD", "Best", "best_for"]

#: Columns of an analysis's table of cells with the shrunken estimate of a cell's true effect and its SD, in pp.
SHRUNKEN, SHRUNKEN_SD = "shrunken", "shrunken_sd"

_TABLE = "cells.parquet"


@dataclass(frozen=True)
class Best:
    """The version chosen, and what to say of the choice."""

    version: ModelVersion
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _TargetEvaluation:
    """One adapter's newest evaluation on the target; ``delta`` in pp."""

    run: Run
    version: str
    source: Cell
    regime: Regime
    delta: float


def best_for(client: MlflowClient, target: Cell, *, model: str = "", study: str = "") -> Best:
    """Return the registered version with the highest delta on a target among a base's finished evaluations.

    The highest of many noisy measurements is too high on average, and the notes say so.

    Raises
    ------
    Refused
        If nothing was evaluated on the target, adapters of several bases were and none is named, evaluations took
        different accuracies for its score, or runs of one fingerprint differ in their results.
    """
    found = evaluations(client, study=study, model=model)
    refuse_conflicts(found.conflicts, f"best_for={target}")
    if not found.found:
        raise _nothing(client, model, study, found.notes)
    ranked = _ranked(found.found, target)
    if not ranked:
        offered = {str(cell) for one in found.found for cell in one.scores}
        bases = _bases(one.run for one in found.found)
        raise unknown("evaluated target", str(target), offered, where=f"best_for, base {' and '.join(bases)}")
    bases = _bases(measured.run for measured in ranked)
    if len(bases) > 1:
        message = f"best_for={target}: adapters of {len(bases)} bases were evaluated on it"
        raise Refused(f"{message}; add {' or '.join(f'-P model={base}' for base in bases)}")
    _require_one_headline(ranked, target)
    for place, measured in enumerate(ranked, 1):
        name, _, number = measured.version.rpartition("/")
        version = existing(client.get_model_version, name, number)
        if version is not None:  # a better one may have been deleted since it was scored
            notes = (*_notes(target, ranked, place), *found.notes, *_shrunken_note(client, measured, target))
            return Best(version, notes)
    raise Refused(f"best_for={target}: every adapter that was evaluated on it has been deleted from the registry")


def _bases(runs: Iterable[Run]) -> list[str]:
    return sorted({run.data.tags[Tag.BASE_MODEL] for run in runs})


def _nothing(client: MlflowClient, model: str, study: str, notes: Sequence[str]) -> Refused:
    bases = _bases(one.run for one in evaluations(client, study=study).found)
    where = f"study {study}" if study else "the store"
    if model and bases:
        return unknown("base with evaluated adapters", model, bases, where=where)
    message = f"{where} holds no finished evaluation of an adapter; run -e evaluate, or -e study, first"
    return Refused("\n".join([message, *notes]))


def _ranked(found: Sequence[Evaluation], target: Cell) -> list[_TargetEvaluation]:
    """Return the newest evaluation of every adapter on the target, the highest delta first."""
    newest: dict[str, _TargetEvaluation] = {}
    for one in found:  # the oldest first
        if target in one.deltas:
            regime = regime_of(one.source, target)
            newest[one.version] = _TargetEvaluation(one.run, one.version, one.source, regime, one.deltas[target])
    # Where two are equal the name decides, so that the same question has the same answer.
    return sorted(newest.values(), key=lambda measured: (-measured.delta, measured.version))


def _require_one_headline(ranked: Sequence[_TargetEvaluation], target: Cell) -> None:
    """Refuse to rank deltas of different accuracies."""
    studies: dict[str, set[str]] = {}
    for measured in ranked:
        tags = measured.run.data.tags
        if headline := headlines_of(tags).get(target.task):
            studies.setdefault(headline, set()).add(tags.get(Tag.STUDY, ""))
    if len(studies) > 1:
        headlines = ", ".join(f"{name} in {' and '.join(sorted(names))}" for name, names in sorted(studies.items()))
        raise Refused(
            f"best_for={target}: its score is not the same accuracy in all evaluations ({headlines});"
            "\nadd -P study=<one of them>, or evaluate all by one: mlflow run . -e study --env-manager local -P study=…"
        )


def _notes(target: Cell, ranked: Sequence[_TargetEvaluation], place: int) -> list[str]:
    best = ranked[place - 1]
    same = [found.delta for found in ranked if found.source == best.source]
    notes = [
        f"delta on {target}: {best.delta:+.2f} pp ({best.regime}, source {best.source}, seed "
        f"{best.run.data.tags[Tag.SEED]}), rank {place} of {len(ranked)} evaluated adapters of this base",
        f"chosen as the highest of {len(ranked)} noisy measurements, so the true effect is likely smaller; "
        f"mean over this source's {len(same)} evaluated adapters {fmean(same):+.2f} pp",
    ]
    tied = sum(found.delta == best.delta for found in ranked) - 1
    if tied:
        notes.append(f"{tied} of the others measured the same; the first by name is taken")
    if place > 1:
        notes.append(f"{place - 1} with a higher delta left out: deleted from the registry")
    return notes


def _shrunken_note(client: MlflowClient, best: _TargetEvaluation, target: Cell) -> list[str]:
    """Say the shrunken estimate of the chosen source on the target, if the study's newest analysis wrote one."""
    wanted = f"tags.{Tag.KIND} = '{Kind.ANALYZE}' AND attributes.status = 'FINISHED'"
    analyses = all_runs(client, [best.run.info.experiment_id], wanted)
    if not analyses:
        return []
    newest = max(analyses, key=lambda run: run.info.start_time)
    model = best.run.data.tags[Tag.BASE_MODEL]
    try:
        value = _shrunken(client, newest.info.run_id, model, best.source, target)
    except (MlflowException, OSError, ValueError) as error:  # damaged, or not there any more
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        return [f"no shrunken estimate: {_TABLE} of the analysis {newest.info.run_id} cannot be read ({reason})"]
    if value is None:
        return []
    mean, deviation = value
    return [f"shrunken estimate of this source's true effect on {target}: {mean:+.2f} pp (SD {deviation:.2f})"]


def _shrunken(client: MlflowClient, run_id: str, model: str, source: Cell, target: Cell) -> tuple[float, float] | None:
    """Return a cell's shrunken estimate and its standard deviation."""
    import pandas as pd

    if _TABLE not in {file.path for file in client.list_artifacts(run_id)}:
        return None
    key = {
        "model": model,
        "source_task": source.task,
        "source_language": source.language,
        "target_task": target.task,
        "target_language": target.language,
    }
    with tempfile.TemporaryDirectory() as folder:
        table = pd.read_parquet(client.download_artifacts(run_id, _TABLE, folder), **CHECKED)
    if not {SHRUNKEN, SHRUNKEN_SD, *key} <= set(table):
        return None
    for column, value in key.items():
        table = table[table[column] == value]
    found = table[[SHRUNKEN, SHRUNKEN_SD]].dropna()
    return (float(found.iloc[0, 0]), float(found.iloc[0, 1])) if len(found) else None
