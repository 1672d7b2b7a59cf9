"""The published study's table: one row per model, source and target, scores and deltas averaged over seeds.

Columns as in the data release of "Donors and Recipients" (arXiv 2511.13368). ``score_*`` is ``acc``, ``score_norm_*``
``acc_norm``. The headline is ``acc_norm`` where the row has it, else ``acc``; ``delta_score_norm_mean`` is the delta of
the headline for every task. Deltas and their deviations are in percentage points, all else in proportions.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from registry.benchmarks.tables import read_table
from registry.errors import Refused
from registry.imports.findings import Findings
from registry.imports.imported import ImportedResults
from registry.imports.naming import describe_model, family_and_size, size_of
from registry.imports.published_checks import check_rows
from registry.tracking.chance import chance_p, compared_with_chance
from registry.tracking.columns import AVERAGED, BASELINE_COLUMNS, BLOCK, CELL_KEY, STORED_COLUMNS

__all__ = ["COLUMNS", "FAMILY", "read_published"]

_TEXTS = ("model_name", "model_size", "fine_tuned_dataset", "fine_tuned_language", "eval_dataset", "eval_language")

_NUMBERS = (
    *(f"score_{part}{moment}" for part in ("", "base_", "norm_", "norm_base_") for moment in ("mean", "std")),
    *(f"delta_score_{part}{moment}" for part in ("", "norm_") for moment in ("mean", "std")),
    "n_seeds",
    *(f"score_{part}se" for part in ("", "base_", "norm_", "norm_base_")),
    *(f"delta_score_{part}se" for part in ("", "norm_")),
)

#: The table's columns, all of which must be there; their order is free.
COLUMNS = (*_TEXTS, "regime", *_NUMBERS)

#: The one column that may stand besides, for models that are not known here.
FAMILY = "model_family"

#: Expected score of guessing where the number of options is known: four, of ARC all but a handful of questions.
_CHANCE = {"arc_challenge": 0.25, "global_mmlu": 0.25, "hellaswag": 0.25}

#: Test items of every target of the published study.
_ITEMS = 400

_MISSING = frozenset(("", "nan", "na", "n/a", "none", "null"))
_SEPARATORS = {";": "a semicolon", "\t": "a tab", "|": "a bar"}
_SIZES_DIFFER = 1.5  # sizes that differ by this factor are not two roundings of one


def read_published(path: Path, families: Mapping[str, str]) -> ImportedResults:
    """Read and check the published table.

    Parameters
    ----------
    families
        Model → family, for models that are neither of the paper nor given one in the column ``model_family``.

    Raises
    ------
    Refused
        If columns are missing or unknown, a value is impossible, a cell stands twice, a regime or delta contradicts its
        row, or a baseline is missing or differs within a (model, target).
    """
    texts, lines = _texts(path)
    findings = Findings(path, lines)
    numbers = pd.DataFrame({column: _numbers(texts[column], column, findings) for column in _NUMBERS})
    check_rows(texts, numbers, findings)
    findings.refuse()
    models, notes = _models(texts, families, path)
    observations = _observations(texts, numbers, models)
    seeds = sorted(observations["n_seeds"].unique())
    notes += [
        f"Each cell is a mean over {' or '.join(map(str, seeds))} seeds, taken before the import: of single seeds "
        "nothing is known but the standard deviation of their deltas.",
        "The import holds no outcomes of single questions.",
    ]
    digest = hashlib.sha256(path.read_bytes() + repr(sorted(families.items())).encode()).hexdigest()
    return ImportedResults(
        path.name, "published", digest, observations, _baselines(observations), seed_averaged=True, notes=tuple(notes)
    )


def _texts(path: Path) -> tuple[dict[str, list[str]], list[int]]:
    """Return the table column by column, as it stands there, and the line of every row."""
    if path.suffix != ".csv":
        raise Refused(f"{path}: the published table is a CSV file, its name ending in .csv")
    _require_commas(path)
    table = read_table(path)
    _check_columns(path, table.columns)
    texts = {column: [str(row.values[column]) for row in table.rows] for column in table.columns}
    return texts, [row.line for row in table.rows]


def _require_commas(path: Path) -> None:
    """Refuse another separator by its name; read on, it would look like every column missing."""
    with path.open("rb") as file:
        head = file.readline(10_000).decode("utf-8-sig", errors="replace")
    for separator, name in _SEPARATORS.items():
        if "," not in head and head.count(separator) > 1:
            raise Refused(
                f"{path}:1: columns are separated by {name}; save the file with commas, and points in numbers"
            )


def _check_columns(path: Path, columns: tuple[str, ...]) -> None:
    missing = [column for column in COLUMNS if column not in columns]
    extra = [column for column in columns if column not in (*COLUMNS, FAMILY)]
    parts = [f"missing: {', '.join(missing)}"] if missing else []
    for column in extra:
        near = difflib.get_close_matches(column.lower(), missing, n=1)
        remedy = f"is it {near[0]}?" if near else f"remove it; besides the table's own there may only be {FAMILY}"
        parts.append(f"not known: {column[:60]!r}; {remedy}")
    if parts:
        shown = parts[:10] + ([f"and {len(parts) - 10} more"] if len(parts) > 10 else [])
        raise Refused("\n  ".join([f"{path}:1: the columns are not those of the published table", *shown]))


def _numbers(texts: list[str], column: str, findings: Findings) -> np.ndarray:
    """Read a column of numbers; what is missing becomes NaN, what is no finite number is noted."""
    values, wrong = np.full(len(texts), np.nan), np.zeros(len(texts), dtype=bool)
    for row, text in enumerate(texts):
        try:
            # Python reads 1_000 as a number, nobody else does.
            values[row] = float("_" if "_" in text else text)
        except ValueError:
            wrong[row] = text.strip().lower() not in _MISSING
    infinite = np.isinf(values)
    values[infinite] = np.nan
    findings.add(wrong | infinite, f"{column} is not a number", lambda row: repr(texts[row]))
    return values


def _models(
    texts: Mapping[str, list[str]], families: Mapping[str, str], path: Path
) -> tuple[dict[str, tuple[str, float]], list[str]]:
    """Return family and size of every model, and notes on sizes that the table gives otherwise."""
    sizes: dict[str, set[str]] = {}
    given: dict[str, set[str]] = {}
    columns = (texts["model_name"], texts["model_size"], texts.get(FAMILY, [""] * len(texts["model_name"])))
    for model, size, family in set(zip(*columns, strict=True)):
        sizes.setdefault(model, set()).add(size)
        given.setdefault(model, set()).update({family.strip()} - {""})
    models, notes = {}, []
    for model in sorted(sizes):
        size = _one(sizes[model], f"{path}: model_size of {model!r}")
        own = {model: _one(given[model], f"{path}: {FAMILY} of {model!r}")} if given[model] else families
        models[model] = family_and_size(
            model,
            own,
            size_of(size),
            where=str(path),
            remedy=f"give families={model}=FAMILY or a column {FAMILY}, and billions of parameters in model_size",
        )
        stated, known = size_of(size), models[model][1]
        if describe_model(model) and stated and not 1 / _SIZES_DIFFER < stated / known < _SIZES_DIFFER:
            notes.append(
                f"The table gives {model} {size} billion parameters, this project {known:g}; the latter counts."
            )
    return models, notes


def _one(values: set[str], what: str) -> str:
    if len(values) > 1:
        raise Refused(f"{what} has several values: {', '.join(sorted(values)[:5])}; a model has one")
    return next(iter(values))


def _observations(
    texts: Mapping[str, list[str]], numbers: pd.DataFrame, models: Mapping[str, tuple[str, float]]
) -> pd.DataFrame:
    """Return the table as observations, sorted, headline scores chosen."""
    normed = numbers["score_norm_mean"].notna()
    headline = numbers["delta_score_norm_mean"].notna()
    table = pd.DataFrame(
        {
            "model": texts["model_name"],
            "model_family": [models[model][0] for model in texts["model_name"]],
            "model_size_b": [models[model][1] for model in texts["model_name"]],
            "source_task": texts["fine_tuned_dataset"],
            "source_language": texts["fine_tuned_language"],
            "target_task": texts["eval_dataset"],
            "target_language": texts["eval_language"],
            "regime": texts["regime"],
            "seed": AVERAGED,
            "score": numbers["score_norm_mean"].where(normed, numbers["score_mean"]),
            "acc": numbers["score_mean"],
            "acc_norm": numbers["score_norm_mean"],
            "baseline": numbers["score_norm_base_mean"].where(normed, numbers["score_base_mean"]),
            # As it stands there, unrounded: the published figures are defined on this column.
            "delta": numbers["delta_score_norm_mean"].where(headline, numbers["delta_score_mean"]),
            "protocol": "published",
            "delta_sd": numbers["delta_score_norm_std"].where(headline, numbers["delta_score_std"]),
            "n_seeds": numbers["n_seeds"].astype(np.int64),
        }
    )
    return table[[*STORED_COLUMNS, "delta_sd", "n_seeds"]].sort_values(CELL_KEY).reset_index(drop=True)


def _baselines(observations: pd.DataFrame) -> pd.DataFrame:
    """Return the bases' scores, one row per (model, target); that they agree was checked."""
    table = observations.drop_duplicates(BLOCK)[[*BLOCK, "baseline"]].sort_values(BLOCK).reset_index(drop=True)
    table.columns = pd.Index(BASELINE_COLUMNS[:4])
    table["chance"] = table["task"].map(_CHANCE).astype(np.float64)
    p = [
        math.nan if math.isnan(chance) else chance_p(round(score * _ITEMS), np.full(_ITEMS, chance))
        for score, chance in zip(table["score"], table["chance"], strict=True)
    ]
    return compared_with_chance(table.assign(chance_p=p))
