"""The restricted likelihood of rows with crossed random effects, from Gram matrices of their indicators.

A block is y ~ N(x mu, phi_0 I + sum over k of phi_k Z_k Z_k'), with Z_k the indicator of a term's levels. Its
covariance is never formed: with A = phi_0 I + phi_f Z_f Z_f' for one term f, which is diagonal in f's levels, and U the
indicators of the others side by side, Woodbury's identity leaves matrices of U's width. Rows enter through counts and
sums over levels alone. Everything is in units of phi_0: gamma = phi / phi_0.

With P = V⁻¹ - V⁻¹x(x'V⁻¹x)⁻¹x'V⁻¹ and V_k = Z_k Z_k': the score of phi_k is (y'P V_k P y - tr P V_k) / 2, the
information of phi_k and phi_l tr(P V_k P V_l) / 2 (Searle, Casella and McCulloch, Variance Components, 1992,
section 6.6).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.sparse import csr_array, hstack

__all__ = ["EffectsBlock", "EliminatedTerm", "FactorisedCovariance", "Likelihood", "likelihood"]

Array = NDArray[np.float64]
Codes = NDArray[np.int64]


class EliminatedTerm:
    """The term whose levels make A diagonal.

    Attributes
    ----------
    n
        (levels,), rows of each level.
    sums
        (levels, columns), sums of the values.
    crossed
        (levels, width of U), rows that each level shares with each level of the other terms; sparse.
    distinct
        The values that n takes. Weights per level are functions of n, so Gram matrices are kept per value of n.
    """

    def __init__(self, codes: Codes, design: csr_array, values: Array) -> None:
        indicator = _indicator(codes)
        crossed = csr_array(indicator.T @ design)
        self.crossed = crossed[:, :-1]
        self.sums: Array = np.asarray(indicator.T @ values)
        self.n: Array = np.bincount(codes).astype(float)
        self.distinct, group = np.unique(self.n, return_inverse=True)
        self._grams: list[Array] = []
        self._products: list[Array] = []
        self._squares: list[float] = []
        for level in range(len(self.distinct)):
            part, sums = crossed[np.flatnonzero(group == level)], self.sums[group == level]
            self._grams.append((part.T @ part).toarray())
            self._products.append(part.T @ sums)
            self._squares.append(float((sums**2).sum()))

    def gram(self, weights: Array) -> Array:
        """Return the sum over levels of w(n) b b', with b = (U, 1)'z of a level; (width + 1, width + 1)."""
        total: Array = np.zeros_like(self._grams[0])
        for weight, gram in zip(weights, self._grams, strict=True):
            total += weight * gram
        return total

    def products(self, weights: Array) -> Array:
        """Return the sum over levels of w(n) b s', with s the level's sums; (width + 1, columns)."""
        return np.asarray(np.tensordot(weights, np.array(self._products), axes=1))

    def squares(self, weights: Array) -> float:
        """Return the sum over levels of w(n) s's."""
        return float(weights @ np.array(self._squares))


@dataclass(frozen=True)
class FactorisedCovariance:
    """V in units of the residual, solved.

    Attributes
    ----------
    gram, products, squares
        (U, 1)'A⁻¹(U, 1), (U, 1)'A⁻¹y and y'A⁻¹y.
    logdet
        log|V|.
    gamma
        Of every column of U.
    c, lift
        With K = U'A⁻¹U, (gamma⁻¹ + K)⁻¹ and gamma⁻¹ times it: U'V⁻¹b = lift U'A⁻¹b.
    within
        U'V⁻¹U.
    """

    gram: Array
    products: Array
    squares: float
    logdet: float
    gamma: Array
    c: Array
    lift: Array
    within: Array


class EffectsBlock:
    """Rows whose covariance is made of a residual and random terms.

    Parameters
    ----------
    values
        (rows, columns): columns are draws with one covariance.
    terms
        Level of each term in every row, from 0.
    eliminated
        Level of one more term; the one with most levels is worth it.
    copies
        Independent draws that the columns amount to: one fewer than columns if these were centred.
    mean_weight
        x in every row: 1 for rows with a mean, 0 for rows without one.
    """

    def __init__(
        self,
        values: Array,
        terms: Sequence[Codes],
        eliminated: Codes | None = None,
        *,
        copies: int = 1,
        mean_weight: float = 1.0,
    ) -> None:
        self.rows, self.copies, self.mean_weight = len(values), copies, mean_weight
        self.widths = [int(codes.max()) + 1 for codes in terms]
        design = csr_array(hstack([*map(_indicator, terms), csr_array(np.ones((self.rows, 1)))]))
        self._gram: Array = (design.T @ design).toarray()
        self._products: Array = np.asarray(design.T @ values)
        self._squares = float((values**2).sum())
        self.eliminated = None if eliminated is None else EliminatedTerm(eliminated, design, values)

    def factorise(self, gamma: Array) -> FactorisedCovariance | None:
        """Solve at gamma (terms, then the eliminated one), none of it exactly 0; None if V is not positive definite."""
        gram, products, squares, logdet = self._gram, self._products, self._squares, 0.0
        if (part := self.eliminated) is not None:
            if 1 + gamma[-1] * part.n.max() <= 0:
                return None
            weights = gamma[-1] / (1 + gamma[-1] * part.distinct)
            gram, products = gram - part.gram(weights), products - part.products(weights)
            squares -= part.squares(weights)
            logdet = float(np.log1p(gamma[-1] * part.n).sum())
        of_column = np.repeat(gamma[: len(self.widths)], self.widths)
        root, sign = np.sqrt(np.abs(of_column)), np.sign(of_column)
        inner = np.diag(sign) + root[:, None] * gram[:-1, :-1] * root
        of_inner = _logdet(inner, sign)
        if of_inner is None:
            return None
        inverse = np.linalg.inv(inner)
        up = sign / root
        within = np.diag(1 / of_column) - up[:, None] * inverse * up
        c, lift = root[:, None] * inverse * root, up[:, None] * inverse * root
        return FactorisedCovariance(gram, products, squares, logdet + of_inner, of_column, c, lift, within)


def _logdet(inner: Array, sign: Array) -> float | None:
    """Return log|V| - log|A| from S + root K root, or None if V is not positive definite.

    V is so if the part of the positive variances is positive definite, and what it leaves of the negative ones'
    negative definite.
    """
    plus, minus = np.flatnonzero(sign > 0), np.flatnonzero(sign < 0)
    try:
        factor = np.linalg.cholesky(inner[np.ix_(plus, plus)])
        logdet = 2 * float(np.log(np.diag(factor)).sum())
        if len(minus):
            shared = solve_triangular(factor, inner[np.ix_(plus, minus)], lower=True)
            rest = np.linalg.cholesky(shared.T @ shared - inner[np.ix_(minus, minus)])
            logdet += 2 * float(np.log(np.diag(rest)).sum())
    except np.linalg.LinAlgError:
        return None
    return logdet


def _indicator(codes: Codes) -> csr_array:
    n = len(codes)
    return csr_array((np.ones(n), codes, np.arange(n + 1)), shape=(n, int(codes.max()) + 1))


# --- the likelihood of a block, its derivatives and their expected information


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


def likelihood(block: EffectsBlock, phi: Array) -> Likelihood | None:
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


def _mean(block: EffectsBlock, at: FactorisedCovariance) -> _Mean | None:
    """Return None where rounding leaves the mean no precision."""
    ones = at.gram[:-1, -1]
    solved, lifted = at.c @ ones, at.lift @ ones
    if not block.mean_weight:
        return _Mean(np.zeros(at.products.shape[1]), solved, lifted, math.inf)
    precision = float(at.gram[-1, -1] - ones @ solved)
    if precision <= 0:
        return None
    return _Mean((at.products[-1] - solved @ at.products[:-1]) / precision, solved, lifted, precision)


def _moments(block: EffectsBlock, at: FactorisedCovariance, mean: _Mean, gamma: Array) -> _Moments:
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


def _last_moments(part: EliminatedTerm, at: FactorisedCovariance, mean: _Mean, rest: Array, gamma: Array) -> _Moments:
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
