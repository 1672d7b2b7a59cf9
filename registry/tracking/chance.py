"""Whether a score lies below what guessing would score, tested exactly: a score is a count over questions.

A model that guesses lands below chance about half of the time, and by a standard error one time in six. What points to
broken data is a score that guessing would hardly give, on any of the targets looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from registry.tracking.columns import BASELINE_COLUMNS, TEST_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CHANCE_Q", "chance_p", "chance_q", "compared_with_chance"]

#: A score is below chance if its adjusted p-value is this or lower.
CHANCE_Q = 0.05


def chance_p(correct: int, chances: ArrayLike) -> float:
    """Return the exact one-sided p-value of a score: the probability that guessing has as many answers right, or fewer.

    Parameters
    ----------
    correct
        Questions answered correctly.
    chances
        Probability of guessing each question, such as 1 / its number of options.
    """
    from scipy import stats  # takes a second, and most commands score nothing

    values, counts = np.unique(np.asarray(chances, dtype=np.float64), return_counts=True)
    numbers = np.ones(1)  # probability of each number of right answers among the questions so far
    for value, count in zip(values, counts, strict=True):
        numbers = np.convolve(numbers, stats.binom.pmf(np.arange(count + 1), count, value))
    return float(min(1.0, numbers[: correct + 1].sum()))


def chance_q(p: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjust p-values over all the targets looked at (Benjamini and Hochberg 1995); NaN, of no test, stays NaN."""
    from scipy import stats

    given = np.asarray(p, dtype=np.float64)
    q, tested = np.full(given.shape, np.nan), ~np.isnan(given)
    if tested.any():
        q[tested] = stats.false_discovery_control(given[tested], method="bh")
    return q


def compared_with_chance(table: pd.DataFrame) -> pd.DataFrame:
    """Return baselines with `registry.tracking.columns.BASELINE_COLUMNS` and `TEST_COLUMNS`: which are below chance.

    Parameters
    ----------
    table
        ``model``, ``task``, ``language``, ``score``, ``chance``, and ``chance_p``, NaN where it is not known.
    """
    q = chance_q(table["chance_p"].to_numpy(dtype=np.float64))
    tested = table.assign(below_chance=q <= CHANCE_Q, chance_q=q)
    return tested[[*BASELINE_COLUMNS, *TEST_COLUMNS]]
