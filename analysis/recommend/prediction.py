"""Best linear unbiased prediction of any cell, measured or not, from all cells of a study.

The model is that of `analysis.corrected.effects`: delta = means + model + source + target + model:source +
model:target + source:target + residual + noise. Where a cell was measured, its prediction is the shrunken estimate
given there. Where it was not, its own effects are known as far as other cells share them.

With V the covariance of the deltas y and X the design of the means, P = V⁻¹ − V⁻¹X(X'V⁻¹X)⁻¹X'V⁻¹ holds everything:
prediction from covariances k is x'b + k'Py, and the deltas of a group g are predicted without them to be
y_g − (P_gg)⁻¹(Py)_g, exactly (the block form of the leave-one-out identity; Christensen, Pearson and Johnson 1992); the
noise that g shares with other cells is taken off that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from analysis.corrected.noise import NoiseTable
from analysis.corrected.variance.terms import RESIDUAL
from analysis.reading.observations import cell_names

__all__ = ["Effects", "Expected"]

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
Mask = NDArray[np.bool_]

# As in `analysis.corrected.effects`: 0.001 pp at least, so that V can be inverted.
_LEAST_RESIDUAL = 1e-6


class Expected(NamedTuple):
    """True effects of one source on several targets, in pp: mean (targets,) and covariance (targets, targets)."""

    mean: Array
    covariance: Array


@dataclass(frozen=True)
class _Block:
    """The rows of one target, the inverse of their covariance given model, source and model:source."""

    rows: Codes
    inverse: Array


class _Products(NamedTuple):
    """Products of the covariances k of every source, (rows, sources), with V⁻¹ and P times the deltas.

    Attributes
    ----------
    solved, explained
        k'A⁻¹k, A being V without what targets share, and k'Py: (sources,).
    reduced, weighted
        Of k with the square root of what A⁻¹ lacks to V⁻¹, and with V⁻¹X: (columns, sources).
    """

    solved: Array
    explained: Array
    reduced: Array
    weighted: Array


class Effects:
    """A fitted model of a study's cells; variance components and noise are taken as known.

    Parameters
    ----------
    cells
        One row per (model, source, target): the key columns and ``delta`` (pp). Cells may be missing.
    components
        Variances in pp² of all terms and ``residual``, none below 0.
    noise
        Sampling noise of every (model, target).
    design
        Of the means, (cells, columns), of full rank.
    """

    def __init__(self, cells: pd.DataFrame, components: Mapping[str, float], noise: NoiseTable, design: Array) -> None:
        self._variances = dict(components)
        self._residual = max(components[RESIDUAL], _LEAST_RESIDUAL)
        self.models, self.sources = cells["model"].astype(str).to_numpy(), cell_names(cells, "source").to_numpy()
        self.targets, self.delta = cell_names(cells, "target").to_numpy(), cells["delta"].to_numpy(dtype=np.float64)
        self._design = design
        self._model, self._source, self._target = (
            np.asarray(pd.factorize(names)[0], dtype=np.int64) for names in (self.models, self.sources, self.targets)
        )
        self._solve(*noise.of(cells))

    def _solve(self, v: Array, c: Array) -> None:
        """Invert V, and find the means and P times the deltas."""
        self._c = c
        self._blocks = [self._block(rows, v, c) for rows in _rows_of(self._target)]
        self._at = {str(self.targets[block.rows[0]]): place for place, block in enumerate(self._blocks)}
        spread = self._spread()
        solved = np.empty(spread.shape)
        for block in self._blocks:
            solved[block.rows] = (spread[block.rows].T @ block.inverse).T
        core = np.eye(spread.shape[1]) + spread.T @ solved
        lower = np.linalg.cholesky(core)
        self._shared = solve_triangular(lower, solved.T, lower=True).T
        self._weighted = self._by_block(self._design) - self._shared @ (self._shared.T @ self._design)
        self._information = cho_factor(self._design.T @ self._weighted, lower=True)
        by_means = solve_triangular(np.tril(self._information[0]), self._weighted.T, lower=True).T
        self._taken = np.hstack([self._shared, by_means])
        self.means = cho_solve(self._information, self._weighted.T @ self.delta)
        self._explained = self._by_block(self.delta[:, None])[:, 0] - self._taken @ (self._taken.T @ self.delta)
        self._pair = _paired(self._model, self._target)
        of_pair = _incidence(self._pair, 1.0).T
        self._explained_by_pair, self._taken_by_pair = of_pair @ self._explained, of_pair @ self._taken

    def _block(self, rows: Codes, v: Array, c: Array) -> _Block:
        """Return one target's rows and the inverse of their covariance, sources' and models' own effects given."""
        same_model = self._model[rows][:, None] == self._model[rows][None, :]
        same_source = self._source[rows][:, None] == self._source[rows][None, :]
        covariance = self._variances["target"] + self._variances["source:target"] * same_source
        covariance = covariance + np.where(same_model, self._variances["model:target"] + c[rows][:, None], 0.0)
        covariance[np.diag_indices_from(covariance)] += self._residual + np.maximum(v - c, 0.0)[rows]
        return _Block(rows, cho_solve(cho_factor(covariance, lower=True), np.eye(len(rows))))

    def _spread(self) -> sparse.csr_array:
        """Return what model, source and model:source add to the rows, (rows, levels)."""
        pairs = _paired(self._model, self._source)
        parts = [sparse.csr_array((len(pairs), 0))]
        for name, codes in (("model", self._model), ("source", self._source), ("model:source", pairs)):
            if self._variances[name] > 0:
                parts.append(_incidence(codes, float(np.sqrt(self._variances[name]))))
        return sparse.csr_array(sparse.hstack(parts))

    def _by_block(self, right: Array) -> Array:
        """Return a matrix of (rows, columns) solved within every target alone."""
        solved = np.empty_like(right)
        for block in self._blocks:
            solved[block.rows] = block.inverse @ right[block.rows]
        return solved

    def expected(
        self, model: str, sources: Sequence[str], targets: Sequence[str], designs: Sequence[Array]
    ) -> list[Expected]:
        """Predict the true effects of sources on a model's targets, those of one source jointly.

        Parameters
        ----------
        targets
            Each once.
        designs
            Of the means, by source: (targets, columns).
        """
        of_model = (self.models == model)[:, None]
        of_source = self.sources[:, None] == np.array(sources, dtype=object)[None, :]
        # Covariances with the rows, (rows, sources): those of every target's effect, and of a row's own target besides.
        shared = self._variances["model"] * of_model + self._variances["source"] * of_source
        shared = shared + self._variances["model:source"] * (of_model & of_source)
        own = self._variances["model:target"] * of_model + self._variances["source:target"] * of_source
        own = self._variances["target"] + own + self._residual * (of_model & of_source)
        solved = self._by_block(shared)
        common = _Products(
            (shared * solved).sum(axis=0),
            shared.T @ self._explained,
            self._shared.T @ shared,
            self._weighted.T @ shared,
        )
        of_targets = [self._on_target(target, own) for target in targets]
        crossed = [
            np.zeros(len(sources)) if rows is None else (own[rows] * solved[rows]).sum(axis=0)
            for rows in (self._rows_on(target) for target in targets)
        ]
        return [
            self._joined(place, design, common, of_targets, np.array([one[place] for one in crossed]))
            for place, design in enumerate(designs)
        ]

    def _joined(
        self, place: int, design: Array, common: _Products, of_targets: Sequence[_Products], crossed: Array
    ) -> Expected:
        """Return the effects of the source at a place."""
        reduced = np.stack([common.reduced[:, place] + one.reduced[:, place] for one in of_targets], axis=1)
        weighted = np.stack([common.weighted[:, place] + one.weighted[:, place] for one in of_targets], axis=1)
        known = common.solved[place] + crossed[:, None] + crossed[None, :] - reduced.T @ reduced
        known = known + np.diag([one.solved[place] for one in of_targets])
        off_means = design - weighted.T
        prior = sum(self._variances[name] for name in ("model", "source", "model:source"))
        of_target = sum(self._variances[name] for name in ("target", "model:target", "source:target")) + self._residual
        covariance = prior + of_target * np.eye(len(of_targets)) - known
        covariance += off_means @ cho_solve(self._information, off_means.T)
        explained = common.explained[place] + np.array([one.explained[place] for one in of_targets])
        return Expected(design @ self.means + explained, (covariance + covariance.T) / 2)

    def _rows_on(self, target: str) -> Codes | None:
        """Return the rows of a target; None if it has none."""
        found = self._at.get(target)
        return None if found is None else self._blocks[found].rows

    def _on_target(self, target: str, own: Array) -> _Products:
        """Return the products of what the effects on a target share with that target's own rows."""
        if target not in self._at:
            count = own.shape[1]
            zeros = np.zeros(count), np.zeros(count), np.zeros((self._shared.shape[1], count))
            return _Products(*zeros, np.zeros((self._design.shape[1], count)))
        block = self._blocks[self._at[target]]
        part = own[block.rows]
        return _Products(
            (part * (block.inverse @ part)).sum(axis=0),
            part.T @ self._explained[block.rows],
            self._shared[block.rows].T @ part,
            self._weighted[block.rows].T @ part,
        )

    def left_out(self, group: Mask) -> Array:
        """Return what :meth:`expected` would say of a group of cells without them, (cells in the group,).

        NaN if the other cells do not tell the means.
        """
        rest = self._design.T @ self._design - self._design[group].T @ self._design[group]
        if np.linalg.matrix_rank(rest, hermitian=True) < self._design.shape[1]:
            return np.full(int(group.sum()), np.nan)
        rows = np.flatnonzero(group)
        place = np.full(len(group), -1)
        place[rows] = np.arange(len(rows))
        projection = -(self._taken[rows] @ self._taken[rows].T)
        for block in self._blocks:
            inside = group[block.rows]
            if inside.any():
                at = place[block.rows[inside]]
                projection[np.ix_(at, at)] += block.inverse[np.ix_(inside, inside)]
        error = cho_solve(cho_factor(projection, lower=True), self._explained[rows])
        predicted = self.delta[rows] - error - self._shared_noise(group, rows, error)
        return np.asarray(predicted, dtype=np.float64)

    def _shared_noise(self, group: Mask, rows: Codes, error: Array) -> Array:
        """Return the part of a group's predicted deltas that is noise which other sources of the base share.

        With e the group's error, it is c times the sum over a (model, target) of what P y becomes without the group,
        which is P y − P e.
        """
        whole = np.zeros(len(group))
        whole[rows] = error
        left = self._explained_by_pair + self._taken_by_pair @ (self._taken[rows].T @ error)
        for block in self._blocks:
            inside = group[block.rows]
            if inside.any():
                solved = block.inverse[:, inside] @ whole[block.rows[inside]]
                left -= np.bincount(self._pair[block.rows], solved, len(left))
        return np.asarray(self._c[rows] * left[self._pair[rows]], dtype=np.float64)


def _rows_of(codes: Codes) -> list[Codes]:
    return [np.flatnonzero(codes == level) for level in range(int(codes.max()) + 1)]


def _paired(left: Codes, right: Codes) -> Codes:
    """Return codes of the pairs that occur, from 0."""
    return np.asarray(np.unique(np.stack([left, right]), axis=1, return_inverse=True)[1].ravel(), dtype=np.int64)


def _incidence(codes: Codes, value: float) -> sparse.csr_array:
    """Return the matrix that gives every row its level with a value, (rows, levels)."""
    entries = np.full(len(codes), value), (np.arange(len(codes)), codes)
    return sparse.csr_array(entries, shape=(len(codes), int(codes.max()) + 1))
