"""Two-way bootstrap over models and partners: the pigeonhole bootstrap of Owen (2007) in its reweighted form.

A score is a mean over models of means over partners. Each draw gives every model and every partner a random weight
(Owen and Eckles 2012) and forms the score again; a partner has one weight for all scores, so that what scores share
cancels in their differences. Weights are gamma variables of a shape at which the variance between levels is unbiased
for a small number of them too, and unlike counts they leave no mean without a level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from analysis.measures.levels import CONFIDENCE

__all__ = ["BootstrapErrors", "Replicates", "errors", "half_widths", "replicate", "scores", "simultaneous"]

Array = NDArray[np.float64]

# A shape of 0, which two levels would take, puts all weight on one of them; this one is as good and can be drawn.
_LEAST_SHAPE = 0.02

_ROUNDING = 1e-9


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
    usable = np.flatnonzero(found.se > _ROUNDING)
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
