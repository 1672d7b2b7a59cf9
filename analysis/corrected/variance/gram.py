"""Rows of crossed random effects as Gram matrices of their indicators.

A block is y ~ N(x mu, phi_0 I + sum over k of phi_k Z_k Z_k'), with Z_k the indicator of a term's levels. Its
covariance is never formed: with A = phi_0 I + phi_f Z_f Z_f' for one term f, which is diagonal in f's levels, and U the
indicators of the others side by side, Woodbury's identity leaves matrices of U's width. Rows enter through counts and
sums over levels alone. Everything is in units of phi_0: gamma = phi / phi_0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.sparse import csr_array, hstack

__all__ = ["Block", "Eliminated", "Factorised"]

Array = NDArray[np.float64]
Codes = NDArray[np.int64]


class Eliminated:
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
class Factorised:
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


class Block:
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
        self.eliminated = None if eliminated is None else Eliminated(eliminated, design, values)

    def factorise(self, gamma: Array) -> Factorised | None:
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
        return Factorised(gram, products, squares, logdet + of_inner, of_column, c, lift, within)


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
