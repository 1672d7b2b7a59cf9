"""What a fit of the decomposition found, whichever way it was fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.corrected.variance.terms import RESIDUAL, Identified

__all__ = ["Estimate", "component_names", "expected_mean_squares"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
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


def expected_mean_squares(identified: Identified, n: int) -> Array:
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


def component_names(identified: Identified) -> tuple[str, ...]:
    """Return the names of the components that get a variance, the residual last."""
    return (*(term.name for term in identified.terms), RESIDUAL)
