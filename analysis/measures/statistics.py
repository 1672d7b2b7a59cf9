"""Standard errors of means whose observations share source or target cells, and correlations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import stdtrit

from analysis.measures.levels import CONFIDENCE

__all__ = [
    "FEWEST",
    "BootstrapErrors",
    "Correlation",
    "Replicates",
    "StandardError",
    "correlate",
    "errors",
    "few_models",
    "half_widths",
    "replicate",
    "scores",
    "simultaneous",
    "two_way",
]

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


# --- two-way bootstrap over models and partners: the pigeonhole bootstrap of Owen (2007) in its reweighted form


Array = NDArray[np.float64]

# A shape of 0, which two levels would take, puts all weight on one of them; this one is as good and can be drawn.
_LEAST_SHAPE = 0.02

_SMALLEST_ERROR = 1e-9


@dataclass(frozen=True)
class Replicates:
    """Scores formed again, (draws, scores) each.

    Attributes
    ----------
    both, by_model, by_partner
        With models and partners reweighted, with models alone, with partners alone.
    n_models, n_partners
        Levels behind every score, (scores,).
    """

    both: Array
    by_model: Array
    by_partner: Array
    n_models: NDArray[np.int64]
    n_partners: NDArray[np.int64]

    def differences(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> Replicates:
        """Return the replicates of differences between scores, given by their places."""
        return Replicates(
            both=self.both[:, one] - self.both[:, other],
            by_model=self.by_model[:, one] - self.by_model[:, other],
            by_partner=self.by_partner[:, one] - self.by_partner[:, other],
            n_models=np.minimum(self.n_models[one], self.n_models[other]),
            n_partners=np.minimum(self.n_partners[one], self.n_partners[other]),
        )


@dataclass(frozen=True)
class BootstrapErrors:
    """Standard errors of scores (their unit) and degrees of freedom, (scores,) each; NaN where there is none."""

    se: Array
    df: Array


def scores(total: Array, count: Array) -> Array:
    """Return the score of every name: the mean over models of each model's mean over cells.

    Parameters
    ----------
    total, count : (models, names, partners)
        Sum and number of the cells' deltas.
    """
    ones = np.ones((1, total.shape[0])), np.ones((1, total.shape[2]))
    return np.asarray(_weighted(total, count, *ones)[0])


def replicate(total: Array, count: Array, *, draws: int, random: np.random.Generator) -> Replicates:
    """Draw weights and form the scores with them; ``total`` and ``count`` as in :func:`scores`.

    Where there is one model only its weight is always 1, and what is drawn is the partners'.
    """
    n_models, n_partners = (count.sum(axis=2) > 0).sum(axis=0), (count.sum(axis=0) > 0).sum(axis=1)
    of_models = _weights(n_models, (draws, total.shape[0]), random)
    of_partners = _weights(n_partners, (draws, total.shape[2]), random)
    same_models, same_partners = np.ones((1, total.shape[0])), np.ones((1, total.shape[2]))
    return Replicates(
        both=_weighted(total, count, of_models, of_partners),
        by_model=_weighted(total, count, of_models, same_partners),
        by_partner=_weighted(total, count, same_models, of_partners),
        n_models=n_models.astype(np.int64),
        n_partners=n_partners.astype(np.int64),
    )


def _weights(levels: NDArray[np.int64], shape: tuple[int, int], random: np.random.Generator) -> Array:
    """Draw weights at whose shape k the means over n levels vary by their sum of squares / (n (n − 1)): k = 1 − 2 / n.

    Normalised gamma weights are Dirichlet, and so are those of any part of the levels; their means vary by the sum of
    squares / (n (n k + 1)).
    """
    if shape[1] < 2:
        return np.ones(shape)
    n = float(np.median(levels[levels > 0])) if (levels > 0).any() else 1.0
    return random.standard_gamma(max(1 - 2 / max(n, 1.0), _LEAST_SHAPE), shape)


def _weighted(total: Array, count: Array, of_models: Array, of_partners: Array) -> Array:
    """Return the scores under weights, (draws or 1, models) and (draws or 1, partners)."""
    models, names, partners = total.shape
    means = [
        (of_partners @ part.reshape(models * names, partners).T).reshape(-1, models, names) for part in (total, count)
    ]
    there = means[1] > 0
    of_model = np.divide(means[0], means[1], out=np.zeros_like(means[0]), where=there)
    weights = of_models[:, :, None] * there
    sums = weights.sum(axis=1)
    weighted = (weights * of_model).sum(axis=1)
    return np.asarray(np.divide(weighted, sums, out=np.full_like(weighted, np.nan), where=sums > 0))


def errors(replicates: Replicates) -> BootstrapErrors:
    """Return standard errors, and degrees of freedom after Satterthwaite.

    Notes
    -----
    Reweighting both ways counts what belongs to a single (model, partner) three times (Owen 2007), reweighting one way
    counts it once. So the variance taken is that by model plus that by partner less what is left of that by both, and
    at least the larger of the first two.
    """
    by_both, by_model, by_partner = (
        np.var(part, axis=0, ddof=1) for part in (replicates.both, replicates.by_model, replicates.by_partner)
    )
    single = np.maximum(by_both - by_model - by_partner, 0.0)
    variance = np.maximum(by_model + by_partner - single, np.maximum(by_model, by_partner))
    spread = _per_degree(by_model, replicates.n_models) + _per_degree(by_partner, replicates.n_partners)
    df = np.divide((by_model + by_partner) ** 2, spread, out=np.full_like(spread, np.nan), where=spread > 0)
    none = (replicates.n_partners < 2) | ~np.isfinite(variance)
    return BootstrapErrors(np.where(none, np.nan, np.sqrt(variance)), np.where(none, np.nan, df))


def _per_degree(variance: Array, levels: NDArray[np.int64]) -> Array:
    """Return the squared variance over its degrees of freedom; 0 for a single level, which was not reweighted."""
    return np.asarray(variance**2 / np.maximum(levels - 1, 1), dtype=np.float64)


def half_widths(found: BootstrapErrors) -> Array:
    """Return half the widths of the 95% intervals, each on its own."""
    return np.asarray(stdtrit(found.df, (1 + CONFIDENCE) / 2) * found.se, dtype=np.float64)


def simultaneous(
    estimates: Array, replicates: Replicates, found: BootstrapErrors, random: np.random.Generator
) -> tuple[Array, Array]:
    """Compare all estimates with 0 at once, by the distribution of the largest standardised deviation (max-t).

    Returns
    -------
    half_widths, p
        Half the widths of the simultaneous 95% intervals, and p-values adjusted for all comparisons (Westfall and
        Young 1993, single step), (estimates,) each.

    Notes
    -----
    Deviations of the replicates are near normal. Dividing each by the root of a chi-square over its degrees of freedom
    makes them t, as errors of few levels call for, and each comparison has an error of its own: with one chi-square for
    all comparisons of a draw, the intervals of 9 models and 11 languages held together in 92% of simulated studies,
    with one each in 96%.
    """
    half, p = np.full(len(estimates), np.nan), np.full(len(estimates), np.nan)
    usable = np.flatnonzero(found.se > _SMALLEST_ERROR)
    if not len(usable):
        return half, p
    deviations = replicates.both[:, usable] - replicates.both[:, usable].mean(axis=0)
    standard = np.abs(deviations) / replicates.both[:, usable].std(axis=0, ddof=1)
    df = np.maximum(found.df[usable], 1.0)
    largest = (standard / np.sqrt(random.chisquare(df, standard.shape) / df)).max(axis=1)
    t = np.abs(estimates[usable]) / found.se[usable]
    half[usable] = np.quantile(largest, CONFIDENCE) * found.se[usable]
    p[usable] = (1 + (largest[:, None] >= t).sum(axis=0)) / (len(largest) + 1)
    return half, p
