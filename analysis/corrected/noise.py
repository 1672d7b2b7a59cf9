"""Sampling noise of deltas: measured over the questions, or assumed where no outcome of a question is known.

Adapters of one model share its baseline run and the target's questions, so their deltas on a target err together. Per
(model, target), with the sources' changes z per question, the noise is K = Cov(z) / Q; its mean diagonal is v, its mean
off-diagonal c.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.measures.answers import StudyOutcomes, TargetOutcomes
from registry.errors import Refused
from registry.tracking.columns import BLOCK

__all__ = [
    "CORRELATION", "MEASURED", "NoiseTable", "QuestionNoise", "SamplingNoise", "assumed_noise",
    "assumed_question_noise", "assumed_variance", "measured_noise", "measured_question_noise",
]  # fmt: skip

Array = NDArray[np.float64]

#: What outputs say of noise that the outcomes of questions show.
MEASURED = "measured over questions"

#: Correlation of the answers of two runs of one model that is assumed where none can be measured.
#: With 400 questions, 3 seeds and a score of a half it means a noise of 0.91 pp; measured cells have 0.6 to 1.25 pp.
CORRELATION = 0.9

_PP2 = 100.0**2


@dataclass(frozen=True)
class NoiseTable:
    """Noise of every (model, target).

    Attributes
    ----------
    table
        One row per ``model, target_task, target_language``: ``n_sources``, ``n_questions``, ``v`` (mean variance of a
        delta) and ``c`` (mean covariance of two sources' deltas, 0 for a single source), in pp².
    note
        How it is known; every output that rests on it repeats this.
    """

    table: pd.DataFrame
    note: str

    def mean(self) -> SamplingNoise:
        """Mean over blocks; the covariance over those with two sources or more."""
        shared = self.table.loc[self.table["n_sources"] > 1, "c"]
        return SamplingNoise(v=float(self.table["v"].mean()), c=float(shared.mean()) if len(shared) else 0.0)

    def of(self, cells: pd.DataFrame) -> tuple[Array, Array]:
        """Return v and c of the block of every cell, (cells,) each.

        Raises
        ------
        Refused
            If a cell's noise is not known, as with a single question.
        """
        found = cells[BLOCK].merge(self.table[[*BLOCK, "v", "c"]], on=BLOCK, how="left", validate="many_to_one")
        lacking = found["v"].isna() | found["c"].isna()
        if lacking.any():
            first = "/".join(str(name) for name in found.loc[lacking, BLOCK].iloc[0])
            raise Refused(
                f"the sampling noise of {int(lacking.sum()):,} cells is not known, first of {first}: leave them out, "
                "or measure at least two questions of the target"
            )
        return found["v"].to_numpy(dtype=np.float64), found["c"].to_numpy(dtype=np.float64)


def measured_noise(outcomes: StudyOutcomes) -> NoiseTable:
    """Estimate the noise of every (model, target) from the outcomes of its questions.

    Seeds are averaged first: what differs between seeds belongs to the adapters that were trained, not to sampling.
    """
    return NoiseTable(pd.DataFrame([_measured(block) for block in outcomes]), MEASURED)


def _measured(block: TargetOutcomes) -> dict[str, object]:
    """Return one row of the noise table."""
    z = np.stack([changes.mean(axis=0) for changes in block.changes().values()])
    sources, questions = z.shape
    known = questions > 1
    covariance = _PP2 * np.atleast_2d(np.cov(z)) / questions if known else np.full((sources, sources), np.nan)
    return _row((block.model, block.target.task, block.target.language), questions, covariance)


def _row(block: tuple[str, str, str], questions: int, covariance: Array) -> dict[str, object]:
    """Return one row of the noise table from the covariance of the sources' deltas, (sources, sources)."""
    sources, trace = len(covariance), float(np.trace(covariance))
    shared = (float(covariance.sum()) - trace) / (sources * (sources - 1)) if sources > 1 else 0.0
    sizes = {"n_sources": sources, "n_questions": questions}
    return dict(zip(BLOCK, block, strict=True)) | sizes | {"v": trace / sources, "c": shared}


def assumed_variance(
    score: NDArray[np.float64],
    baseline: NDArray[np.float64],
    n_questions: NDArray[np.int64],
    n_seeds: NDArray[np.int64],
    *,
    correlation: float = CORRELATION,
) -> Array:
    """Variance of deltas in pp² if answers are binomial and those of any two runs of a model correlate alike.

    Parameters
    ----------
    score, baseline
        Proportions correct; the score is a mean over ``n_seeds`` adapters, the baseline one run.
    correlation
        Of two runs' correctness over the questions, in [0, 1).

    Notes
    -----
    With p the score, b the baseline, R seeds and Q questions:
    [p(1−p)(1 + (R−1)ρ)/R + b(1−b) − 2ρ √(p(1−p) b(1−b))] / Q.
    """
    _check_correlation(correlation)
    own, base = score * (1 - score), baseline * (1 - baseline)
    spread = own * (1 + (n_seeds - 1) * correlation) / n_seeds + base - 2 * correlation * np.sqrt(own * base)
    return np.asarray(_PP2 * spread / n_questions, dtype=np.float64)


def assumed_noise(
    cells: pd.DataFrame, *, n_questions: int | Mapping[str, int], correlation: float = CORRELATION
) -> NoiseTable:
    """Noise of every (model, target) under the assumptions of :func:`assumed_variance`.

    Parameters
    ----------
    cells
        One row per (model, source, target): ``score`` and ``baseline`` (proportions) and ``n_seeds``.
    n_questions
        Test items of every target, or by task.
    """
    questions = questions_of(cells, n_questions)
    rows = []
    for block, part in cells.assign(n_questions=questions).groupby(BLOCK, sort=True):
        covariance = _assumed(part, correlation)
        rows.append(_row((str(block[0]), str(block[1]), str(block[2])), int(part["n_questions"].iloc[0]), covariance))
    sizes = "/".join(map(str, sorted(set(questions.tolist()))))
    note = (
        f"ASSUMED, not measured, as no question's outcome is known: binomial from the scores, {sizes} questions, "
        f"correlation {correlation:g} between runs"
    )
    return NoiseTable(pd.DataFrame(rows), note)


def _assumed(part: pd.DataFrame, correlation: float) -> Array:
    """Return the covariance of the sources' deltas on one (model, target), (sources, sources)."""
    score, baseline = part["score"].to_numpy(dtype=np.float64), part["baseline"].to_numpy(dtype=np.float64)
    questions, seeds = part["n_questions"].to_numpy(dtype=np.int64), part["n_seeds"].to_numpy(dtype=np.int64)
    own, base = np.sqrt(score * (1 - score)), np.sqrt(baseline * (1 - baseline))
    crossed = correlation * (np.outer(own, own) - np.outer(own, base) - np.outer(base, own)) + np.outer(base, base)
    covariance: Array = _PP2 * crossed / questions[0]
    np.fill_diagonal(covariance, assumed_variance(score, baseline, questions, seeds, correlation=correlation))
    return covariance


def questions_of(cells: pd.DataFrame, n_questions: int | Mapping[str, int]) -> NDArray[np.int64]:
    """Return the number of test items of every cell's target, given one number or one per task."""
    tasks = cells["target_task"].astype(str)
    if isinstance(n_questions, int):
        return np.full(len(cells), _checked(n_questions), dtype=np.int64)
    if lacking := sorted(set(tasks) - set(n_questions)):
        raise Refused(f"the number of test items is given by task, but not of {', '.join(lacking)}")
    by_task = {task: _checked(number) for task, number in n_questions.items()}
    return np.array([by_task[task] for task in tasks], dtype=np.int64)


def _checked(number: int) -> int:
    if number < 1:
        raise Refused(f"a target has at least one test item, not {number}")
    return number


def _check_correlation(correlation: float) -> None:
    if not 0 <= correlation < 1:
        raise Refused(f"the assumed correlation of answers must be in [0, 1), not {correlation:g}")


# --- how far chance in the test questions moves one delta, and how much of that two sources share


_ROUNDING = 1 + 1e-9


@dataclass(frozen=True)
class SamplingNoise:
    """Variances in pp², averaged over (model, target).

    Attributes
    ----------
    v
        Mean sampling variance of one delta.
    c
        Mean sampling covariance of two sources' deltas on the same (model, target). They share the baseline's run and
        the questions, so it is usually positive.

    Raises
    ------
    Refused
        If ``v`` is negative or not finite, or ``c`` exceeds ``v`` in size.
    """

    v: float
    c: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.v) and math.isfinite(self.c) and self.v >= 0 and abs(self.c) <= self.v * _ROUNDING):
            raise Refused(
                f"sampling noise v={self.v}, c={self.c} is impossible: v is a variance in pp², c a covariance of at "
                "most that size; compute both from the same questions' outcomes"
            )

    @property
    def own(self) -> float:
        """The part of ``v`` that no other source shares; it lands in the residual."""
        return self.v - self.c


# --- how much one question adds to the noise of a delta, so that the noise of other numbers of items and seeds follows


@dataclass(frozen=True)
class QuestionNoise:
    """Variance over questions of the change z from baseline to adapter, in pp².

    A delta over Q questions and R seeds has the sampling variance (``lasting`` + ``by_seed`` / R) / Q, and two sources'
    deltas on one (model, target) the covariance ``shared`` / Q. More seeds do not help against ``lasting``: the
    questions and the baseline's one run are the same for all.

    Attributes
    ----------
    note
        How it is known.
    """

    lasting: float
    by_seed: float
    shared: float
    note: str

    def __post_init__(self) -> None:
        parts = (self.lasting, self.by_seed, self.shared)
        if not np.isfinite(parts).all() or self.lasting < 0 or self.by_seed < 0 or abs(self.shared) > self.lasting:
            raise Refused(
                f"the noise of a question is impossible: lasting {self.lasting:g}, by seed {self.by_seed:g}, shared "
                f"{self.shared:g}; the first two are variances in pp², the third at most the first in size"
            )

    def sampling(self, items: int, seeds: int) -> SamplingNoise:
        """Return the noise of deltas over so many questions and seeds."""
        return SamplingNoise(v=(self.lasting + self.by_seed / seeds) / items, c=self.shared / items)


def assumed_question_noise(sd: float, *, items: int = 400, seeds: int = 3) -> QuestionNoise:
    """Assume that deltas over ``items`` questions and ``seeds`` seeds have a sampling error of ``sd`` pp.

    All runs of a model are taken to err alike, the baseline being one run. Then the variance of a delta grows with
    1 + 1 / seeds, and the 1 is what sources share.
    """
    if not (np.isfinite(sd) and sd >= 0 and items >= 1 and seeds >= 1):
        raise Refused(f"a sampling error of {sd} pp over {items} items and {seeds} seeds is impossible; give sd >= 0")
    part = sd**2 * items * seeds / (seeds + 1)
    note = f"ASSUMED noise: {sd:g} pp per cell at {items} items and {seeds} seeds"
    return QuestionNoise(lasting=part, by_seed=part, shared=part, note=note)


def measured_question_noise(outcomes: StudyOutcomes) -> QuestionNoise:
    """Measure the noise of a question over all cells of a study.

    Raises
    ------
    Refused
        If no target has two questions.
    """
    found = [_parts(changes) for block in outcomes for changes in block.changes().values() if changes.shape[1] > 1]
    if not found:
        raise Refused("the noise of a question takes a target with at least two questions, of which there is none")
    total, by_seed, seeds = np.array(found).T
    if np.isfinite(by_seed).any():
        of_seeds, note = float(np.nanmean(by_seed)), MEASURED
    else:
        # One seed does not show the two apart; see assumed_question_noise.
        of_seeds, note = float(total.mean()) / 2, f"{MEASURED}; its half ASSUMED to differ by seed, as there is one"
    lasting = max(float((total - of_seeds / seeds).mean()), 0.0)
    table = measured_noise(outcomes).table.query("n_sources > 1").dropna(subset="c")
    shared = float((table["c"] * table["n_questions"]).mean()) if len(table) else 0.0
    return QuestionNoise(lasting, of_seeds, float(np.clip(shared, -lasting, lasting)), f"noise {note}")


def _parts(changes: NDArray[np.int8]) -> tuple[float, float, int]:
    """Return one cell's variance over questions, that between seeds within a question (pp²), and its seeds."""
    values = changes.astype(np.float64)
    seeds, questions = values.shape
    of_question = values.mean(axis=0)
    by_seed = np.nan
    if seeds > 1:
        rest = values - of_question - values.mean(axis=1, keepdims=True) + values.mean()
        by_seed = float((rest**2).sum()) / ((seeds - 1) * (questions - 1))
    return _PP2 * float(of_question.var(ddof=1)), _PP2 * by_seed, seeds
