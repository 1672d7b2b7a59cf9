"""Intervals for variance components and their shares: generalised confidence intervals.

A mean square times its degrees of freedom over its expectation is chi-square distributed. Dividing the observed mean
squares by draws of chi-square over degrees of freedom gives draws of their expectations, and solving these for the
components draws of the components, and of whatever is computed from them (Weerahandi, Exact Statistical Methods for
Data Analysis, 1995, chapter 5). Negative values are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, ndtr

from analysis.corrected.variance.estimate import Estimate
from analysis.measures.levels import CONFIDENCE

__all__ = ["Intervals", "generalised_intervals"]

Array = NDArray[np.float64]

_DRAWS = 10_000
# With fewer, a mean square says next to nothing of its expectation, and quantiles leave what a float can hold.
_FEWEST_DEGREES = 0.2
_SEED = 20_251_116
# Mean squares that correlate less than this are drawn independently.
_INDEPENDENT = 1e-6


@dataclass(frozen=True)
class Intervals:
    """Lower and upper ends, (components, 2): of variances in pp², of shares, and of the sampling share, (2,)."""

    variances: Array
    shares: Array
    sampling_share: Array


def generalised_intervals(estimate: Estimate, *, noise: Array, sampling: float) -> Intervals:
    """Draw components and take quantiles.

    Parameters
    ----------
    estimate
        A fit before sampling noise is taken off.
    noise
        (components,), the sampling noise in each component's variance, taken as known.
    sampling
        Its sum, the sampling variance of one delta; part of the total that shares refer to.

    Returns
    -------
    Intervals
        NaN throughout where the cells are so few that a mean square is not positive or has hardly a degree of freedom.
    """
    if estimate.degrees.min() < _FEWEST_DEGREES or (estimate.mean_squares <= 0).any():
        count = len(estimate.names)
        return Intervals(np.full((count, 2), np.nan), np.full((count, 2), np.nan), np.full(2, np.nan))
    ratios = _chi_square_ratios(estimate)
    drawn = np.linalg.solve(estimate.expectations, estimate.mean_squares[:, None] / ratios) - noise[:, None]
    shares = np.vstack([drawn, np.full(drawn.shape[1], sampling)]) / (drawn.sum(axis=0) + sampling)
    tail = (1 - CONFIDENCE) / 2
    ends = np.quantile(np.vstack([drawn, shares]), [tail, 1 - tail], axis=1).T
    count = len(drawn)
    return Intervals(ends[:count], ends[count:-1], ends[-1])


def _chi_square_ratios(estimate: Estimate) -> Array:
    """Draw chi-square over degrees of freedom for every mean square, (components, draws), correlated as they are."""
    random, degrees = np.random.default_rng(_SEED), estimate.degrees[:, None]
    correlation = estimate.correlation
    if np.abs(correlation - np.diag(np.diag(correlation))).max() < _INDEPENDENT:
        return random.chisquare(degrees, (len(degrees), _DRAWS)) / degrees
    values, vectors = np.linalg.eigh(correlation)  # rounding may leave it just not positive definite
    normal = (vectors * np.sqrt(np.maximum(values, 0.0))) @ random.standard_normal((len(degrees), _DRAWS))
    # Quantiles cost far more than draws: they are taken on a grid of the normal, between which they are smooth.
    grid = np.linspace(-6, 6, 601)
    logarithms = np.log(chdtri(degrees, ndtr(-grid)) / degrees)
    return np.exp([np.interp(row, grid, known) for row, known in zip(normal, logarithms, strict=True)])
