"""The mixed model of the effects of cells, and the shrunken estimates that it gives.

delta = mean + model + source + target + model:source + model:target + source:target + residual + noise.
All terms but the mean are normal. They are independent, except the noise: on one (model, target) it has variance v and,
between two sources, covariance c, because all adapters are compared with one baseline on the same questions. The best
linear unbiased predictor of a cell's true effect is delta − R P delta (Henderson 1975; Robinson 1991), with R the
covariance of the noise, V that of the deltas, X the design of the means and P = V⁻¹ − V⁻¹X(X'V⁻¹X)⁻¹X'V⁻¹.
`analysis.recommend.prediction` predicts cells that were not measured from the same model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from analysis.corrected.noise import NoiseTable, SamplingNoise
from analysis.corrected.variance.model import OVERALL, scope_components
from analysis.corrected.variance.terms import CELL, RESIDUAL, TERMS, crossing
from registry.errors import Refused, unknown

__all__ = ["MixedModel", "Posterior", "regime_components", "shrink"]

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

#: Effects that cells of different targets share.
_SHARED = ("model", "source", "model:source")

# Variance in pp² that a residual has at least, so that V can be inverted where no component is above 0 and all adapters
# answer alike. Its root, 0.001 pp, is far below the 0.08 pp of one answer in 400 questions and 3 seeds.
_LEAST_RESIDUAL = 1e-6


@dataclass(frozen=True)
class Posterior:
    """True effects of cells, in pp, given their deltas; the variance components and the noise are taken as known.

    Attributes
    ----------
    mean, sd
        Shrunken estimate of each cell and its standard deviation, in the order of the cells, (cells,).
    noise
        How the sampling noise is known.
    """

    mean: Array
    sd: Array
    noise: str
    _model: MixedModel = field(repr=False)

    def draws(self, count: int, random: np.random.Generator) -> Array:
        """Draw the true effects of all cells jointly, (cells, count).

        Effects and noise are drawn from the model, and the draw is their error of prediction put on the estimate.
        """
        effects, noise = self._model.draw(count, random)
        return self.mean[:, None] + effects - self._model.predict(effects + noise)


def regime_components(cells: pd.DataFrame, noise: SamplingNoise) -> dict[str, float]:
    """Return the variance components about the means of regimes, as :func:`shrink` takes them, in pp².

    The trained cell gains far more than others. About one mean that difference would count as variance of
    source:target, and every other cell would be shrunken too little.

    Parameters
    ----------
    cells
        One row per (model, source, target): the key columns, ``regime`` and ``delta`` (pp).
    noise
        Mean sampling noise of the cells.
    """
    about = cells["delta"] - cells.groupby("regime")["delta"].transform("mean")
    table = scope_components(OVERALL, cells.assign(delta=about), noise=noise)
    found = table.set_index("component")["variance"].astype(float)
    if CELL in found:  # source and target are one factor: its effects go by the source
        found["source"] = found[CELL]
    return {name: float(variance) for name, variance in found.reindex([*TERMS, RESIDUAL]).items()}


def shrink(
    cells: pd.DataFrame, components: Mapping[str, float], noise: NoiseTable, *, means_by: str | None = None
) -> Posterior:
    """Shrink the deltas of cells towards what their model, source and target make likely.

    Parameters
    ----------
    cells
        One row per (model, source, target): the key columns and ``delta`` (pp). Cells may be missing.
    components
        Variances in pp² of ``model``, ``source``, ``target``, ``model:source``, ``model:target``, ``source:target`` and
        ``residual``, the sampling noise taken off. A negative one, or NaN for one not identified, counts as 0.
    noise
        Sampling noise per (model, target).
    means_by
        Column whose values have means of their own, such as ``regime``; by default there is one mean.

    Raises
    ------
    Refused
        If a component is unknown or missing, a cell has no noise or no finite delta, or appears twice.
    """
    design = np.ones((len(cells), 1)) if means_by is None else _indicators(cells[means_by])
    model = MixedModel(cells, components, noise, design)
    return Posterior(model.predict(model.delta[:, None])[:, 0], np.sqrt(model.error_variance()), noise.note, model)


def _checked(components: Mapping[str, float]) -> dict[str, float]:
    """Return the variances of all terms, none below 0."""
    names = [*TERMS, RESIDUAL]
    for name in components:
        if name not in names:
            raise unknown("variance component", name, names)
    if lacking := [name for name in names if name not in components]:
        raise Refused(f"shrinkage needs the variance of {', '.join(lacking)}; give 0 for a term that has no effect")
    return {name: 0.0 if math.isnan(components[name]) else max(float(components[name]), 0.0) for name in names}


def _crossed(factors: list[Codes]) -> Codes:
    """Return codes of the combinations of factors that occur, from 0."""
    return np.asarray(np.unique(np.stack(factors), axis=1, return_inverse=True)[1].ravel(), dtype=np.int64)


def _indicators(labels: pd.Series) -> Array:
    codes = pd.factorize(labels)[0]
    return np.asarray(codes[:, None] == np.arange(codes.max() + 1), dtype=np.float64)


def _incidence(codes: Codes) -> sparse.csr_array:
    """Return the matrix that gives every row its level, (rows, levels)."""
    entries = (np.ones(len(codes)), (np.arange(len(codes)), codes))
    return sparse.csr_array(entries, shape=(len(codes), int(codes.max()) + 1))


class _NoiseCovariance:
    """Covariance R of the sampling noise: v on the diagonal, c between cells of one (model, target).

    ``pairs`` gives every cell its (model, target), (cells, pairs).
    """

    def __init__(self, v: Array, c: Array, block: Codes) -> None:
        self.own, self.shared = np.maximum(v - c, 0.0)[:, None], c[:, None]
        self.pairs = _incidence(block)
        self._size = np.bincount(block)[block][:, None]
        whole = self.own + self._size * self.shared
        if (whole < -1e-9).any():
            raise Refused("the sampling noise is impossible: sources covary more negatively than their number allows")
        self._whole = np.maximum(whole, 0.0)

    def times(self, right: Array) -> Array:
        """Return R times a matrix of (cells, columns)."""
        return np.asarray(self.own * right + self.shared * self._sums(right))

    def within(self, rows: Codes, same_block: NDArray[np.bool_]) -> Array:
        """Return the part of R among some cells."""
        part: Array = np.where(same_block, self.shared[rows], 0.0)
        part[np.diag_indices_from(part)] += self.own[rows, 0]
        return part

    def draw(self, count: int, random: np.random.Generator) -> Array:
        """Draw noise, (cells, count)."""
        normal = random.standard_normal((len(self.own), count))
        mean = self._sums(normal) / self._size
        return np.asarray(np.sqrt(self.own) * (normal - mean) + np.sqrt(self._whole) * mean)

    def _sums(self, right: Array) -> Array:
        return np.asarray(self.pairs @ (self.pairs.T @ right))


class MixedModel:
    """Covariance V of the deltas of a study's cells, and what follows from it.

    Cells of different targets share only model, source and model:source. Given these few effects, V consists of one
    matrix of (models × sources) per target, small enough to be factored as it is; the effects themselves are added by
    the Woodbury identity.

    Parameters
    ----------
    cells
        One row per (model, source, target): the key columns and ``delta`` (pp). Cells may be missing.
    components, noise
        See :func:`shrink`; both are taken as known.
    design
        Of the means, (cells, columns), of full rank.

    Attributes
    ----------
    delta
        Of the cells, in pp, (cells,).
    variances
        Of every term and the residual, in pp², none below 0.
    targets
        The rows of each target.
    weighted_design, information
        V⁻¹X, and X'V⁻¹X factored.
    """

    def __init__(self, cells: pd.DataFrame, components: Mapping[str, float], noise: NoiseTable, design: Array) -> None:
        rows, variances = crossing(cells), _checked(components)
        self.delta, self.design = rows.delta, design
        self.levels = {name: _crossed([rows.factors[factor] for factor in factors]) for name, factors in TERMS.items()}
        self.noise = _NoiseCovariance(*noise.of(cells), self.levels["model:target"])
        self.variances = variances | {RESIDUAL: max(variances[RESIDUAL], _LEAST_RESIDUAL)}
        parts = [_incidence(self.levels[name]) * math.sqrt(variances[name]) for name in _SHARED if variances[name] > 0]
        self._spread = sparse.csr_array(sparse.hstack([sparse.csr_array((len(design), 0)), *parts]))
        self.targets = [_TargetRows(part, self) for part in _rows_of(rows.factors["target"])]
        core = np.eye(self._spread.shape[1])
        for target in self.targets:
            core += target.spread.T @ target.solved_spread
        self._core = cho_factor(core, lower=True)
        self.weighted_design = self._solve(design)
        self.information = cho_factor(design.T @ self.weighted_design, lower=True)

    def means(self, delta: Array) -> Array:
        """Return the means by generalised least squares, (columns of the design, columns of deltas)."""
        found: Array = cho_solve(self.information, self.weighted_design.T @ delta)
        return found

    def explained(self, delta: Array) -> Array:
        """Return P times every column of deltas, (cells, columns)."""
        return self._solve(delta - self.design @ self.means(delta))

    def predict(self, delta: Array) -> Array:
        """Return the predictor of the true effects for every column of deltas, (cells, columns)."""
        return delta - self.noise.times(self.explained(delta))

    @cached_property
    def shared(self) -> Array:
        """The root S of what the effects shared between targets take off: V⁻¹ = A⁻¹ − SS', A being V without them."""
        rooted = np.empty(self._spread.shape)
        for target in self.targets:
            rooted[target.rows] = solve_triangular(self._core[0], target.solved_spread.T, lower=True).T
        return rooted

    @cached_property
    def removed(self) -> Array:
        """The same for P = A⁻¹ − SS': `shared`, and beside it the root of what the means take off."""
        by_means = solve_triangular(self.information[0], self.weighted_design.T, lower=True).T
        return np.hstack([self.shared, by_means])

    def within_targets(self, right: Array) -> Array:
        """Return a matrix of (cells, columns) solved within every target alone."""
        solved = np.empty_like(right)
        for target in self.targets:
            solved[target.rows] = cho_solve(target.factor, right[target.rows])
        return solved

    def error_variance(self) -> Array:
        """Return the variance of the predictor's error, (cells,)."""
        variance = np.empty(len(self.design))
        for target in self.targets:
            noise = self.noise.within(target.rows, target.same_model)
            by_spread = solve_triangular(self._core[0], (noise @ target.solved_spread).T, lower=True)
            explained = (noise * cho_solve(target.factor, noise)).sum(axis=0) - (by_spread**2).sum(axis=0)
            variance[target.rows] = np.diag(noise) - explained
        by_means = solve_triangular(self.information[0], self.noise.times(self.weighted_design).T, lower=True)
        # With no noise it is 0, but for rounding.
        error: Array = np.maximum(variance + (by_means**2).sum(axis=0), 0.0)
        return error

    def draw(self, count: int, random: np.random.Generator) -> tuple[Array, Array]:
        """Draw effects, about a mean of 0, and noise from the model, (cells, count) each."""
        effects = math.sqrt(self.variances[RESIDUAL]) * random.standard_normal((len(self.design), count))
        for name, codes in self.levels.items():
            if self.variances[name] > 0:
                drawn = random.standard_normal((int(codes.max()) + 1, count))
                effects += math.sqrt(self.variances[name]) * drawn[codes]
        return effects, self.noise.draw(count, random)

    def covariance_within(self, rows: Codes, same_model: NDArray[np.bool_]) -> Array:
        """Return the covariance of one target's deltas, given model, source and model:source."""
        source = self.levels["source"][rows]
        covariance = self.noise.within(rows, same_model)
        covariance += self.variances["target"] + self.variances["model:target"] * same_model
        covariance += self.variances["source:target"] * (source[:, None] == source[None, :])
        covariance[np.diag_indices_from(covariance)] += self.variances[RESIDUAL]
        return covariance

    def spread_of(self, rows: Codes) -> Array:
        """Return what the effects shared between targets add to some cells, (cells, levels)."""
        return np.asarray(self._spread[rows].toarray())

    def _solve(self, right: Array) -> Array:
        """Return V⁻¹ times a matrix of (cells, columns)."""
        solved = self.within_targets(right)
        shared = np.zeros((self._spread.shape[1], right.shape[1]))
        for target in self.targets:
            shared += target.spread.T @ solved[target.rows]
        shared = cho_solve(self._core, shared)
        for target in self.targets:
            solved[target.rows] -= target.solved_spread @ shared
        return solved


class _TargetRows:
    """The cells of one target: their covariance given the effects shared between targets, factored."""

    def __init__(self, rows: Codes, model: MixedModel) -> None:
        self.rows = rows
        of_model = model.levels["model"][rows]
        self.same_model: NDArray[np.bool_] = of_model[:, None] == of_model[None, :]
        self.factor = cho_factor(model.covariance_within(rows, self.same_model), lower=True)
        self.spread = model.spread_of(rows)
        self.solved_spread = cho_solve(self.factor, self.spread)

    @cached_property
    def inverse(self) -> Array:
        """The inverse of that covariance, (cells, cells)."""
        inverted: Array = cho_solve(self.factor, np.eye(len(self.rows)))
        return inverted


def _rows_of(codes: Codes) -> list[Codes]:
    return [np.flatnonzero(codes == level) for level in range(int(codes.max()) + 1)]
