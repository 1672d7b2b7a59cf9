"""How much one question adds to the noise of a delta, so that the noise of other numbers of items and seeds follows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.corrected.noise import MEASURED, measured_noise
from analysis.corrected.noise_model import SamplingNoise
from analysis.corrected.outcomes import StudyOutcomes
from registry.refusal import Refused

__all__ = ["QuestionNoise", "assumed_question_noise", "measured_question_noise"]

_PP2 = 100.0**2


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
