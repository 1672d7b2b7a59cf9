"""Standard errors of means whose observations share source or target cells, and correlations."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

__all__ = ["FEWEST", "Correlation", "StandardError", "correlate", "few_models", "two_way"]

#: Below this many clusters a cluster-robust standard error is usually too small.
_FEW_CLUSTERS = 10

#: Below this many models an interval for models at large has so few degrees of freedom that it says little.
_FEW_MODELS = 5

# A two-way variance smaller than this share of its terms is rounding, not variance.
_ROUNDING = 1e-12


class StandardError(NamedTuple):
    """A standard error in the unit of the values, and how it was obtained or why there is none (then NaN)."""

    value: float
    note: str


def two_way(values: ArrayLike, first: pd.Series, second: pd.Series, *, names: tuple[str, str]) -> StandardError:
    """Standard error of a mean under two-way clustering.

    The variance is that of the first clustering plus that of the second minus that of their intersections (Cameron,
    Gelbach and Miller 2011, eq. 2.13), without small-sample correction. Where this is not positive, the largest of
    the three terms is used instead: never less than either one-way variance.
    """
    residuals = _residuals(values)
    groups = (_codes(first), _codes(second))
    for codes, name in zip(groups, names, strict=True):
        if (levels := _levels(codes)) < 2:
            return StandardError(np.nan, _too_few(levels, name))
    pairs = groups[0] * (int(groups[1].max()) + 1) + groups[1]
    terms = [_variance(residuals, codes) for codes in (*groups, pairs)]
    variance = terms[0] + terms[1] - terms[2]
    note = f"clustered by {names[0]} and {names[1]}"
    if variance <= _ROUNDING * max(terms):
        variance = max(terms)
        note = "two-way variance not positive: the largest one-way variance instead"
    fewest = min(zip(map(_levels, groups), names, strict=True))
    return StandardError(float(np.sqrt(variance)), note + _caution(*fewest))


def few_models(models: int) -> str:
    """Return a note on an interval that holds for models at large, nothing where there are models enough."""
    return f"only {models} models: the interval is wide because there are so few" if models < _FEW_MODELS else ""


def _residuals(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return array - array.mean() if len(array) else array


def _codes(clusters: pd.Series) -> NDArray[np.int64]:
    return np.asarray(pd.factorize(clusters)[0], dtype=np.int64)


def _levels(codes: NDArray[np.int64]) -> int:
    return len(np.unique(codes))


def _variance(residuals: NDArray[np.float64], codes: NDArray[np.int64]) -> float:
    """Cluster-robust variance of the mean of the values that left these residuals."""
    _, dense = np.unique(codes, return_inverse=True)
    sums = np.bincount(dense, weights=residuals)
    return float(sums @ sums) / len(residuals) ** 2


def _too_few(levels: int, name: str) -> str:
    return f"no standard error: only one {name}" if levels else "nothing was measured"


def _caution(levels: int, name: str) -> str:
    return f"; only {levels} {name}s, so probably too small" if levels < _FEW_CLUSTERS else ""


# --- correlations


#: Fewer pairs than this have no correlation worth a name: any two points lie on a line.
FEWEST = 3


class Correlation(NamedTuple):
    """Coefficient and two-sided p-value; NaN where one of the two does not vary or there are too few pairs."""

    value: float
    p: float


def correlate(x: ArrayLike, y: ArrayLike, *, ranks: bool) -> Correlation:
    """Return Spearman's (``ranks``) or Pearson's correlation of two series of equal length, without NaN."""
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(first) < FEWEST or np.ptp(first) == 0 or np.ptp(second) == 0:
        return Correlation(math.nan, math.nan)
    found = stats.spearmanr(first, second) if ranks else stats.pearsonr(first, second)
    return Correlation(float(found.statistic), float(found.pvalue))
