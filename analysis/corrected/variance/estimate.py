"""What a fit of the decomposition found, its intervals, and the closed form for a complete cube.

Intervals are generalised confidence intervals: a mean square times its degrees of freedom over its expectation is
chi-square distributed. Dividing the observed mean squares by draws of chi-square over degrees of freedom gives draws of
their expectations, and solving these for the components gives draws of the components, and of whatever is computed from
them (Weerahandi, Exact Statistical Methods for Data Analysis, 1995, chapter 5). Negative values are kept.

With one delta in every cell of models × sources × targets, the restricted-likelihood estimates are those that make
every mean square equal its expectation (Searle, Casella and McCulloch, Variance Components, 1992, section 4.4), unless
one of them is negative.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, ndtr

from analysis.corrected.variance.terms import RESIDUAL, TERMS, Crossing, IdentifiedTerms
from analysis.measures.levels import CONFIDENCE

__all__ = [
    "ComponentEstimate", "ComponentIntervals", "complete_cube", "component_names", "cube_of",
    "expected_mean_squares", "generalised_intervals", "mean_squares",
]  # fmt: skip

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ComponentEstimate:
    """Variance components in pp² and how well they are known.

    Attributes
    ----------
    names
        Components, the residual last; the arrays follow their order.
    variances
        (components,), possibly negative.
    expectations
        (components, components): row i has the coefficients of the variances in the expectation of mean square i.
    degrees
        (components,), degrees of freedom of these mean squares. They need not be whole numbers; 0 where the cells say
        nothing of one.
    correlation
        (components, components), of the mean squares.
    criterion
        −2 log of the restricted likelihood at ``variances``, constants included, as lme4's ``REMLcrit``.
    mean, mean_se
        Grand mean in pp and its standard error.
    notes
        What the fit has to say, such as that it did not converge.
    """

    names: tuple[str, ...]
    variances: Array
    expectations: Array
    degrees: Array
    correlation: Array
    criterion: float
    mean: float
    mean_se: float
    notes: tuple[str, ...] = ()

    @property
    def mean_squares(self) -> Array:
        """The mean squares whose expectations the variances solve."""
        return np.asarray(self.expectations @ self.variances)


def expected_mean_squares(identified: IdentifiedTerms, n: int) -> Array:
    """Return the coefficients of the variances in the expected mean squares, the residual last.

    A mean square holds the variances of every term that crosses all of its factors, each times the rows per level of
    that term. Exact where every level has as many rows as the others, otherwise with the mean number.
    """
    terms = identified.terms
    matrix = np.zeros((len(terms) + 1, len(terms) + 1))
    matrix[:, -1] = 1.0
    for column, inner in enumerate(terms):
        for row, outer in enumerate(terms):
            if inner.factors >= outer.factors:
                matrix[row, column] = n / inner.levels
    return matrix


def component_names(identified: IdentifiedTerms) -> tuple[str, ...]:
    """Return the names of the components that get a variance, the residual last."""
    return (*(term.name for term in identified.terms), RESIDUAL)


# --- intervals of components and of their shares


_DRAWS = 10_000
# With fewer, a mean square says next to nothing of its expectation, and quantiles leave what a float can hold.
_FEWEST_DEGREES = 0.2
_SEED = 20_251_116
# Mean squares that correlate less than this are drawn independently.
_INDEPENDENT = 1e-6


@dataclass(frozen=True)
class ComponentIntervals:
    """Lower and upper ends, (components, 2): of variances in pp², of shares, and of the sampling share, (2,)."""

    variances: Array
    shares: Array
    sampling_share: Array


def generalised_intervals(estimate: ComponentEstimate, *, noise: Array, sampling: float) -> ComponentIntervals:
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
        return ComponentIntervals(np.full((count, 2), np.nan), np.full((count, 2), np.nan), np.full(2, np.nan))
    ratios = _chi_square_ratios(estimate)
    drawn = np.linalg.solve(estimate.expectations, estimate.mean_squares[:, None] / ratios) - noise[:, None]
    shares = np.vstack([drawn, np.full(drawn.shape[1], sampling)]) / (drawn.sum(axis=0) + sampling)
    tail = (1 - CONFIDENCE) / 2
    ends = np.quantile(np.vstack([drawn, shares]), [tail, 1 - tail], axis=1).T
    count = len(drawn)
    return ComponentIntervals(ends[:count], ends[count:-1], ends[-1])


def _chi_square_ratios(estimate: ComponentEstimate) -> Array:
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


# --- the closed form for a complete cube


_AXES = {"model": 0, "source": 1, "target": 2}


def cube_of(rows: Crossing) -> Array | None:
    """Return the deltas as (models, sources, targets), or None if a cell is missing or a factor has one level."""
    shape = tuple(int(rows.factors[name].max(initial=-1)) + 1 for name in _AXES)
    if min(shape) < 2 or math.prod(shape) != len(rows):
        return None
    cube = np.empty(shape)
    cube[tuple(rows.factors[name] for name in _AXES)] = rows.delta
    return cube


def mean_squares(cube: Array) -> tuple[Array, Array]:
    """Return the mean squares of the six terms and the residual, and their degrees of freedom, (7,) each."""
    squares, degrees = [], []
    for factors in [*TERMS.values(), tuple(_AXES)]:
        effect = _effect(cube, {_AXES[name] for name in factors})
        dof = math.prod(cube.shape[_AXES[name]] - 1 for name in factors)
        squares.append(float((effect**2).sum()) * cube.size / effect.size / dof)
        degrees.append(float(dof))
    return np.array(squares), np.array(degrees)


def _effect(cube: Array, axes: set[int]) -> Array:
    """Return the interaction effect over axes: the alternating sum of means, one axis of length 1 per absent factor."""
    effect = np.zeros(1)
    for size in range(len(axes) + 1):
        for kept in itertools.combinations(sorted(axes), size):
            gone = tuple(axis for axis in range(cube.ndim) if axis not in kept)
            sign = (-1) ** (len(axes) - size)
            effect = effect + sign * cube.mean(axis=gone, keepdims=True)
    return np.asarray(effect)


def complete_cube(cube: Array, identified: IdentifiedTerms) -> ComponentEstimate:
    """Fit a complete cube.

    Parameters
    ----------
    cube
        Deltas in pp, (models, sources, targets), at least two of each.
    identified
        The cube's terms; all six.
    """
    squares, degrees = mean_squares(cube)
    expectations = expected_mean_squares(identified, cube.size)
    variances = np.asarray(np.linalg.solve(expectations, squares), dtype=np.float64)
    # The mean's variance: that of a mean square that would cross no factor, and so holds every variance.
    of_mean = float(expectations.max(axis=0) @ variances) / cube.size
    return ComponentEstimate(
        names=component_names(identified),
        variances=variances,
        expectations=expectations,
        degrees=degrees,
        correlation=np.eye(len(squares)),
        criterion=_criterion(squares, degrees, cube.size),
        mean=float(cube.mean()),
        mean_se=math.sqrt(of_mean) if of_mean > 0 else math.nan,
        notes=() if of_mean > 0 else ("the grand mean's variance came out negative, so it has no standard error",),
    )


def _criterion(squares: Array, degrees: Array, n: int) -> float:
    """Return −2 log of the restricted likelihood; NaN where a mean square is 0, as it then has no maximum."""
    if (squares <= 0).any():
        return math.nan
    return (n - 1) * (math.log(2 * math.pi) + 1) + math.log(n) + float(degrees @ np.log(squares))
