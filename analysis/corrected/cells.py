"""What is known of every cell: its delta with a standard error over questions and seeds, a test, and the test adjusted.

The estimand is the mean change of accuracy over the questions a task could ask and, where seeds disagree by more than
their questions explain, over the seeds that could have been drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.corrected.noise import CORRELATION, MEASURED, assumed_noise, assumed_variance, questions_of
from analysis.corrected.rates import no_transfer, no_transfer_normal
from analysis.measures.answers import StudyOutcomes, TargetOutcomes
from analysis.measures.levels import CONFIDENCE
from analysis.reading.observations import DELTA_DECIMALS
from registry.cells import Cell, Regime, regime_of
from registry.errors import Refused
from registry.tracking.columns import CELL_KEY

__all__ = ["ChangeStatistics", "adjusted", "assumed_cells", "change_statistics", "measured_cells"]

Array = NDArray[np.float64]

BY_QUESTION = "question"
BY_QUESTION_AND_SEED = "question + seed"

# An error below this many pp is the rounding of none.
_NO_SPREAD = 1e-9


class ChangeStatistics(NamedTuple):
    """Mean change of several cells and its error, (cells,) each.

    ``delta`` and ``se`` in pp; ``by_seed`` says where the error is clustered by seed too.
    """

    delta: Array
    se: Array
    df: Array
    by_seed: NDArray[np.bool_]


def change_statistics(changes: NDArray[np.int8]) -> ChangeStatistics:
    """Mean change with a standard error clustered by question, and by seed where seeds vary.

    Parameters
    ----------
    changes : (cells, seeds, questions)
        1 for newly right, −1 for newly wrong, 0 for neither.

    Notes
    -----
    Two-way clustering adds the variance by question and the variance by seed, and takes off that of their intersection
    (Cameron, Gelbach and Miller 2011), each unbiased, G / (G − 1). The intersection's is that of the residuals of both
    margins: taken about the mean alone, with three seeds, it takes off a third of the questions' variance as well, and
    the error comes out too small. Where the variance by seed is not above that of the intersection, which is
    wherever a two-way variance might not be positive, the question-clustered variance stands alone. Degrees of freedom
    are Satterthwaite's: questions − 1, falling towards seeds − 1 as seeds disagree.
    """
    cells, seeds, questions = changes.shape
    values = changes.astype(np.float64)
    by_question = values.mean(axis=1)
    delta = by_question.mean(axis=1)
    if questions < 2:
        unknown = np.full(cells, np.nan)
        return ChangeStatistics(100 * delta, unknown, unknown, np.zeros(cells, dtype=bool))
    variance, df = by_question.var(axis=1, ddof=1) / questions, np.full(cells, questions - 1.0)
    varies = np.zeros(cells, dtype=bool)
    if seeds > 1:
        two_way, two_way_df, varies = _two_way(values, variance)
        variance, df = np.where(varies, two_way, variance), np.where(varies, two_way_df, df)
    return ChangeStatistics(100 * delta, 100 * np.sqrt(variance), df, varies)


def _two_way(values: Array, by_question: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Return the variance of the mean by question and seed, its degrees of freedom, and where it is the one to take."""
    _, seeds, questions = values.shape
    seed_means, grand = values.mean(axis=2), values.mean(axis=(1, 2))
    rest = values - values.mean(axis=1, keepdims=True) - seed_means[:, :, None] + grand[:, None, None]
    rest_df = (seeds - 1) * (questions - 1)
    by_seed = seed_means.var(axis=1, ddof=1) / seeds
    by_both = (rest**2).sum(axis=(1, 2)) / rest_df / (seeds * questions)
    variance = by_question + by_seed - by_both
    spread = by_question**2 / (questions - 1) + by_seed**2 / (seeds - 1) + by_both**2 / rest_df
    varies = by_seed > by_both
    df = np.divide(variance**2, spread, out=np.full(len(values), np.nan), where=varies)
    return variance, df, varies


def measured_cells(outcomes: StudyOutcomes) -> pd.DataFrame:
    """Test every cell of a study by the outcomes of its questions.

    Returns
    -------
    DataFrame
        One row per (model, source, target), sorted: the key columns, ``regime``, ``n_questions``, ``n_seeds``,
        ``delta``, ``se`` (pp), ``clusters``, ``df``, ``low``, ``high`` (95%, pp), ``p`` (two-sided, of no change),
        ``q`` (Benjamini–Hochberg over all transfer cells; NaN for MT-ML, which is not transfer),
        ``positive_by_chance`` and ``harm_by_chance`` (probability of a delta above 0, at or below −1 pp, without any
        transfer), ``noise`` (how the error is known) and ``note``.
    """
    parts = [part for block in outcomes for part in _parts(block)]
    if not parts:
        raise Refused("there is no outcome of any adapter to test; collect those of adapters and of their baselines")
    table = pd.DataFrame([key for part in parts for key in part.keys], columns=[*CELL_KEY, "regime"])
    sizes = [len(part.keys) for part in parts]
    table["n_questions"] = np.repeat([part.n_questions for part in parts], sizes)
    table["n_seeds"] = np.repeat([part.changed.shape[1] for part in parts], sizes)
    for name in ChangeStatistics._fields:
        table[name] = np.concatenate([getattr(part.statistics, name) for part in parts])
    changed = np.zeros((len(table), table["n_seeds"].max()), dtype=np.int64)
    for part, end in zip(parts, np.cumsum(sizes), strict=True):
        changed[end - len(part.keys) : end, : part.changed.shape[1]] = part.changed
    answers = (table["n_questions"] * table["n_seeds"]).to_numpy(dtype=np.int64)
    table["positive_by_chance"], table["harm_by_chance"] = no_transfer(changed, answers)
    return _finished(table, MEASURED)


class _TargetCells(NamedTuple):
    """Cells of one (model, target) with equally many seeds; ``changed`` is what :func:`no_transfer` counts by."""

    keys: list[tuple[str, ...]]
    n_questions: int
    statistics: ChangeStatistics
    changed: NDArray[np.int64]


def _parts(block: TargetOutcomes) -> list[_TargetCells]:
    """Return the cells of one (model, target), without what needs the whole study."""
    by_seeds: dict[int, dict[Cell, NDArray[np.int8]]] = {}
    for source, changes in block.changes().items():
        by_seeds.setdefault(len(changes), {})[source] = changes
    parts = []
    for n_seeds, found in by_seeds.items():
        changes = np.stack(list(found.values()))
        net = np.abs(changes.sum(axis=1, dtype=np.int64))
        changed = np.stack([(net == times).sum(axis=1) for times in range(1, n_seeds + 1)], axis=1)
        keys = [_key(block, source) for source in found]
        parts.append(_TargetCells(keys, changes.shape[2], change_statistics(changes), changed))
    return parts


def _key(block: TargetOutcomes, source: Cell) -> tuple[str, ...]:
    """Return the names and the regime of a cell."""
    target = block.target
    return (block.model, source.task, source.language, target.task, target.language, str(regime_of(source, target)))


def assumed_cells(
    cells: pd.DataFrame, *, n_questions: int | Mapping[str, int], correlation: float = CORRELATION
) -> pd.DataFrame:
    """Test every cell of an imported frame, whose questions' outcomes are not known, by an assumed noise.

    Parameters
    ----------
    cells
        Key columns, ``regime``, ``n_seeds``, ``score`` and ``baseline`` (proportions), ``delta`` (pp).
    n_questions, correlation
        See :func:`analysis.corrected.noise.assumed_noise`.

    Returns
    -------
    DataFrame
        The columns of :func:`measured_cells`; ``noise`` says in every row what was assumed. Errors hold no variation
        between seeds beyond sampling.
    """
    questions, seeds = questions_of(cells, n_questions), cells["n_seeds"].to_numpy(dtype=np.int64)
    score, baseline = (cells[name].to_numpy(dtype=np.float64) for name in ("score", "baseline"))
    se = np.sqrt(assumed_variance(score, baseline, questions, seeds, correlation=correlation))
    table = cells[[*CELL_KEY, "regime"]].reset_index(drop=True)
    table = table.assign(n_questions=questions, n_seeds=seeds, delta=cells["delta"].to_numpy(), se=se, df=np.inf)
    table["positive_by_chance"], table["harm_by_chance"] = no_transfer_normal(se, questions * seeds)
    note = assumed_noise(cells, n_questions=n_questions, correlation=correlation).note
    return _finished(table.assign(by_seed=False), note)


def _finished(table: pd.DataFrame, noise: str) -> pd.DataFrame:
    """Add intervals and tests, name the clusters and sort."""
    # As in the cells of `analysis.reading.observations`: binary fractions miss an exact 0 or −1 pp by 1e-15.
    table["delta"] = table["delta"].round(DELTA_DECIMALS)
    table["clusters"] = np.where(table.pop("by_seed"), BY_QUESTION_AND_SEED, BY_QUESTION)
    table["low"], table["high"], table["p"], table["note"] = _tests(table)
    table["q"] = adjusted(table["p"], table["regime"] != str(Regime.MT_ML))
    table["noise"] = noise
    sizes = ["n_questions", "n_seeds"]
    tests = ["delta", "se", "clusters", "df", "low", "high", "p", "q"]
    columns = [*CELL_KEY, "regime", *sizes, *tests, "positive_by_chance", "harm_by_chance", "noise", "note"]
    return table[columns].sort_values(CELL_KEY).reset_index(drop=True)


def _tests(table: pd.DataFrame) -> tuple[Array, Array, Array, list[str]]:
    """Return the limits of the intervals, the p-values of no change, and notes."""
    delta, se, df = (table[name].to_numpy(dtype=np.float64) for name in ("delta", "se", "df"))
    questions = table["n_questions"].to_numpy(dtype=np.float64)
    tail = (1 - CONFIDENCE) / 2
    t = np.divide(np.abs(delta), se, out=np.full(len(table), np.nan), where=se > 0)
    half, p = stats.t.isf(tail, df) * se, 2 * stats.t.sf(t, df)
    # Where every question changed alike, mostly not at all, the spread says nothing. A change of more than this share
    # of all questions would leave none among those asked with less than the tail's probability.
    alike = se < _NO_SPREAD
    half = np.where(alike, 100 * (1 - tail ** (1 / questions)), half)
    p = np.where(alike, np.where(delta == 0, 1.0, 2 * 0.5**questions), p)
    notes = np.select([np.isnan(se), alike], ["a single question: no error", "every question changed alike"], "")
    return np.maximum(delta - half, -100), np.minimum(delta + half, 100), p, list(notes)


def adjusted(p: pd.Series, family: pd.Series) -> Array:
    """Adjust the p-values of a family after Benjamini and Hochberg (1995); NaN outside it and where p is NaN."""
    tested = (family & p.notna()).to_numpy(dtype=bool)
    q = np.full(len(p), np.nan)
    if tested.any():
        q[tested] = stats.false_discovery_control(p.to_numpy(dtype=np.float64)[tested], method="bh")
    return q
