"""Uplift, matrices and groupings of cells as published: how fine-tuning on one cell changes the others.

Definitions: "Donors and Recipients" (arXiv 2511.13368), section 3. All deltas are in percentage points. The family of a
language and how the items of a task were translated are facts, not results; whatever is not listed is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypedDict

import numpy as np
import pandas as pd

from registry.cells import HARM_PP, Regime

__all__ = [
    "BUCKETS", "CONSTRUCTION", "HUMAN", "MACHINE", "TRANSFER", "UNKNOWN", "UpliftSummary", "by_regime",
    "constructions", "families", "harm_pct", "language_family", "language_matrix", "long_form", "of_regime",
    "positive_pct", "size_bucket", "size_buckets", "summary", "task_matrix", "transfer_rows", "uplift",
]  # fmt: skip

#: Label of the row over all regimes but MT-ML.
TRANSFER = "transfer"


class UpliftSummary(TypedDict):
    """Number of cells, mean and median delta (pp), shares of positive transfer and of harm (percent)."""

    n: int
    mean: float
    median: float
    positive_pct: float
    harm_pct: float


def transfer_rows(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells that count as transfer: all but the trained cell itself (MT-ML)."""
    return cells[cells["regime"] != str(Regime.MT_ML)]


def of_regime(cells: pd.DataFrame, regime: Regime) -> pd.DataFrame:
    """Return the cells of one regime."""
    return cells[cells["regime"] == str(regime)]


def by_regime(cells: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return every regime with its cells, then `TRANSFER` with all that count as transfer."""
    return [*((str(regime), of_regime(cells, regime)) for regime in Regime), (TRANSFER, transfer_rows(cells))]


def positive_pct(delta: pd.Series) -> float:
    """Share of positive transfer, delta > 0, in percent; NaN for no cells."""
    return float((delta > 0).mean() * 100)


def harm_pct(delta: pd.Series) -> float:
    """Share of harm, delta <= -1 pp, in percent; NaN for no cells."""
    return float((delta <= HARM_PP).mean() * 100)


def summary(delta: pd.Series) -> UpliftSummary:
    """Summarise deltas (pp); for no cells ``n`` is 0 and the rest NaN."""
    return {
        "n": len(delta),
        "mean": float(delta.mean()),
        "median": float(delta.median()),
        "positive_pct": positive_pct(delta),
        "harm_pct": harm_pct(delta),
    }


def uplift(cells: pd.DataFrame) -> pd.DataFrame:
    """Summarise delta per regime and over all transfer.

    Returns
    -------
    DataFrame
        ``regime`` (the four, then ``transfer``) and the columns of `UpliftSummary`.
    """
    return pd.DataFrame([{"regime": label, **summary(rows["delta"])} for label, rows in by_regime(cells)])


# --- matrices of mean transfer between tasks and between languages


def task_matrix(cells: pd.DataFrame) -> pd.DataFrame:
    """Mean delta (pp) from task to task within a language, CT-ML cells only.

    Returns
    -------
    DataFrame
        Source tasks as rows, target tasks as columns; the diagonal, which has no CT-ML cells, is NaN.
    """
    matrix = _means(cells[cells["regime"] == str(Regime.CT_ML)], "task")
    rows, columns = matrix.index.to_numpy()[:, None], matrix.columns.to_numpy()[None, :]
    return matrix.mask(rows == columns)


def language_matrix(cells: pd.DataFrame) -> pd.DataFrame:
    """Mean delta (pp) by fine-tuned language and evaluated language, over all transfer cells.

    Off the diagonal this averages MT-CL and CT-CL; on it only CT-ML, because the trained cell itself (MT-ML) is left
    out.

    Returns
    -------
    DataFrame
        Fine-tuned languages as rows, evaluated languages as columns; NaN where nothing was measured.
    """
    return _means(transfer_rows(cells), "language")


def _means(rows: pd.DataFrame, factor: str) -> pd.DataFrame:
    """Average delta by source level (rows) and target level (columns) of a factor, both in alphabetical order."""
    source, target = f"source_{factor}", f"target_{factor}"
    means = rows.groupby([source, target])["delta"].mean().unstack()
    return means.sort_index(axis=0).sort_index(axis=1).astype(np.float64)


def long_form(matrices: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return matrices as one row per measured field: ``matrix`` (its key), ``source``, ``target``, ``mean`` (pp)."""
    parts = [
        matrix.rename_axis(index="source", columns="target").stack().dropna().rename("mean").reset_index()
        for matrix in matrices.values()
        if matrix.size
    ]
    if not parts:
        return pd.DataFrame(columns=["matrix", "source", "target", "mean"])
    keys = [name for name, matrix in matrices.items() if matrix.size]
    return pd.concat(parts, keys=keys, names=["matrix"]).reset_index("matrix").reset_index(drop=True)


# --- groupings: size buckets, families of models and of languages, human or machine translation


UNKNOWN = "unknown"

#: Size buckets, smallest first.
BUCKETS = ("S", "M", "L")

_LANGUAGE_FAMILIES = {"Romance": ("fr", "es", "pt", "it"), "Germanic": ("de", "en"), "Indic": ("hi", "bn")}

HUMAN, MACHINE = "human-translated", "machine-translated"

#: How the items of the paper's tasks came into other languages.
CONSTRUCTION = {"global_mmlu": HUMAN, "arc_challenge": MACHINE, "hellaswag": MACHINE, "truthfulqa": MACHINE}


def size_bucket(size_b: float) -> str:
    """Return S (up to 1.5), M or L (7 and more) for a size in billions of parameters; ``unknown`` for NaN."""
    if math.isnan(size_b):
        return UNKNOWN
    if size_b <= 1.5:
        return "S"
    return "L" if size_b >= 7 else "M"


def size_buckets(cells: pd.DataFrame) -> pd.Series:
    """Return the size bucket of every row's model."""
    sizes = pd.to_numeric(cells["model_size_b"])
    return sizes.map({size: size_bucket(size) for size in sizes.dropna().unique()}).astype(object).fillna(UNKNOWN)


def families(cells: pd.DataFrame) -> pd.Series:
    """Return the family of every row's model; ``unknown`` where none is recorded."""
    named = cells["model_family"].astype(object)
    return named.where(named.notna() & (named != ""), UNKNOWN)


def language_family(language: str) -> str:
    """Return the published family of a language; any other language, named or not in the paper, stands alone."""
    for family, members in _LANGUAGE_FAMILIES.items():
        if language in members:
            return family
    return language


def constructions(tasks: pd.Series) -> pd.Series:
    """Return for every task whether people or machines translated its items; ``unknown`` for tasks not in the paper."""
    return tasks.map(CONSTRUCTION).astype(object).fillna(UNKNOWN)
