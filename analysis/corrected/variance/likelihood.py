"""The restricted likelihood of a block, its derivatives and their expected information.

With P = V⁻¹ - V⁻¹x(x'V⁻¹x)⁻¹x'V⁻¹ and V_k = Z_k Z_k': the score of phi_k is (y'P V_k P y - tr P V_k) / 2, the
information of phi_k and phi_l tr(P V_k P V_l) / 2 (Searle, Casella and McCulloch, Variance Components,
1992, section 6.6).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.corrected.variance.gram import Block, Eliminated, Factorised

__all__ = ["Likelihood", "likelihood"]

Array = NDArray[np.float64]

# A variance of exactly 0 has no inverse. This share of the residual stands in for it; it moves the criterion by less
# than 1e-5 in a frame of 17,424 rows.
_ZERO = 1e-9


@dataclass(frozen=True)
class Likelihood:
    """The restricted likelihood at given variances.

    Attributes
    ----------
    criterion
        -2 log of it, constants included.
    score
        (k,), derivative of its logarithm by each variance, the residual's first.
    information
        (k, k), expected information.
    mean, mean_variance
        Generalised least squares estimate of mu, and its variance; NaN where the rows have no mean.
    """

    criterion: float
    score: Array
    information: Array
    mean: float
    mean_variance: float


@dataclass(frozen=True)
class _Mean:
    """What projecting the mean out takes: its estimates, C U'A⁻¹1, U'V⁻¹1 and 1'V⁻¹1 (infinite without a mean)."""

    estimates: Array
    solved: Array
    lifted: Array
    precision: float


@dataclass(frozen=True)
class _Moments:
    """Per term: y'P V_k P y and tr P V_k; for each pair of terms tr P V_k P V_l."""

    quadratic: Array
    trace: Array
    products: Array


def likelihood(block: Block, phi: Array) -> Likelihood | None:
    """Evaluate a block at variances: the residual's, the terms', the eliminated term's.

    Returns None where the covariance is not positive definite.
    """
    if not phi[0] > 0:
        return None
    gamma = np.where(np.abs(phi[1:]) < _ZERO * phi[0], _ZERO, phi[1:] / phi[0])
    at = block.factorise(gamma)
    if at is None:
        return None
    mean = _mean(block, at)
    if mean is None:
        return None
    rows, has_mean, scale = block.rows * block.copies, block.mean_weight != 0, float(phi[0])
    of_values = float((at.products[:-1] * (at.c @ at.products[:-1])).sum())
    residuals = at.squares - of_values
    if has_mean:
        residuals -= mean.precision * float(mean.estimates @ mean.estimates)
    if residuals < 0:  # a covariance so near singular that rounding decides
        return None
    moments = _moments(block, at, mean, gamma)
    moments = _with_residual(moments, gamma, block.rows - has_mean, residuals)
    criterion = block.copies * (block.rows * math.log(scale) + at.logdet) + residuals / scale
    criterion += (rows - has_mean) * math.log(2 * math.pi)
    if has_mean:
        criterion += math.log(mean.precision * block.mean_weight**2 / scale)
    return Likelihood(
        criterion=criterion,
        score=(moments.quadratic / scale**2 - block.copies * moments.trace / scale) / 2,
        information=block.copies * moments.products / scale**2 / 2,
        mean=float(mean.estimates[0]) / block.mean_weight if has_mean else math.nan,
        mean_variance=scale / (mean.precision * block.mean_weight**2) if has_mean else math.nan,
    )


def _mean(block: Block, at: Factorised) -> _Mean | None:
    """Return None where rounding leaves the mean no precision."""
    ones = at.gram[:-1, -1]
    solved, lifted = at.c @ ones, at.lift @ ones
    if not block.mean_weight:
        return _Mean(np.zeros(at.products.shape[1]), solved, lifted, math.inf)
    precision = float(at.gram[-1, -1] - ones @ solved)
    if precision <= 0:
        return None
    return _Mean((at.products[-1] - solved @ at.products[:-1]) / precision, solved, lifted, precision)


def _moments(block: Block, at: Factorised, mean: _Mean, gamma: Array) -> _Moments:
    """Return the moments of every term but the residual."""
    stops = np.cumsum(block.widths)
    spans = [slice(stop - width, stop) for stop, width in zip(stops, block.widths, strict=True)]
    rest = at.products[:-1] - np.outer(at.gram[:-1, -1], mean.estimates)
    effects = at.lift @ rest
    projected = at.within - np.outer(mean.lifted, mean.lifted) / mean.precision
    quadratic = [float((effects[span] ** 2).sum()) for span in spans]
    trace = [float(np.trace(projected[span, span])) for span in spans]
    products = np.array([[float((projected[row, column] ** 2).sum()) for column in spans] for row in spans])
    if block.eliminated is None:
        return _Moments(np.array(quadratic), np.array(trace), products.reshape(len(spans), len(spans)))
    last = _last_moments(block.eliminated, at, mean, rest, gamma)
    columns = [float(last.products[span].sum()) for span in spans]
    framed = np.block([[products, np.array(columns)[:, None]], [np.array(columns), last.products[-1:]]])
    return _Moments(np.append(quadratic, last.quadratic), np.append(trace, last.trace), framed)


def _last_moments(part: Eliminated, at: Factorised, mean: _Mean, rest: Array, gamma: Array) -> _Moments:
    """Return the moments of the eliminated term f: its products with every column of U, then with itself.

    Uses Z_f'V⁻¹U = D⁻¹B gamma⁻¹C and Z_f'V⁻¹Z_f = D⁻¹N - D⁻¹B C B'D⁻¹, with B = Z_f'U and D = 1 + gamma_f N.
    """
    d, d_of = 1 + gamma[-1] * part.n, 1 + gamma[-1] * part.distinct
    effects = (part.sums - np.outer(part.n, mean.estimates) - part.crossed @ (at.c @ rest)) / d[:, None]
    once, twice = part.gram(1 / d_of**2)[:-1, :-1], part.gram(part.distinct / d_of**3)[:-1, :-1]
    product = once @ at.c
    of_mean = (part.n - part.crossed @ mean.solved) / d
    back = part.crossed.T @ (of_mean / d)
    size, precision = float(of_mean @ of_mean), mean.precision
    columns = (at.lift * product.T).sum(axis=1) / at.gamma
    columns = columns - 2 * mean.lifted * (at.lift @ back) / precision + (mean.lifted / precision) ** 2 * size
    own = float(((part.n / d) ** 2).sum() - 2 * (at.c * twice).sum() + (product * product.T).sum())
    own += (size / precision) ** 2 - 2 * float(of_mean**2 @ (part.n / d) - back @ at.c @ back) / precision
    trace = float((part.n / d).sum() - (at.c * once).sum()) - size / precision
    return _Moments(np.array([float((effects**2).sum())]), np.array([trace]), np.append(columns, own))


def _with_residual(moments: _Moments, gamma: Array, degrees: int, quadratic: float) -> _Moments:
    """Add the residual's moments in front, from P V P = P and tr P V = degrees of freedom."""
    trace = degrees - float(gamma @ moments.trace)
    crossed = moments.trace - moments.products @ gamma
    products = np.block(
        [[np.array([[trace - float(gamma @ crossed)]]), crossed[None]], [crossed[:, None], moments.products]]
    )
    own = quadratic - float(gamma @ moments.quadratic)
    return _Moments(np.append(own, moments.quadratic), np.append(trace, moments.trace), products)
