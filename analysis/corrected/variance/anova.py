"""Variance components of a complete cube models × sources × targets, in closed form.

With one delta in every cell, the restricted-likelihood estimates are those that make every mean square equal its
expectation (Searle, Casella and McCulloch, Variance Components, 1992, section 4.4), unless one of them is negative.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from analysis.corrected.variance.estimate import Estimate, component_names, expected_mean_squares
from analysis.corrected.variance.terms import TERMS, Crossing, Identified

__all__ = ["complete_cube", "cube_of", "mean_squares"]

Array = NDArray[np.float64]

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


def complete_cube(cube: Array, identified: Identified) -> Estimate:
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
    return Estimate(
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
