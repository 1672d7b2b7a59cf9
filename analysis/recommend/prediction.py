"""Best linear unbiased prediction of any cell, measured or not, from all cells of a study.

The model is `analysis.corrected.effects.MixedModel`. The prediction of a measured cell is its shrunken estimate. Of a
cell that was not measured, its own effects are known as far as other cells share them.

With P as defined there, y the deltas, X the design of the means and b the means: the prediction from covariances k is
x'b + k'Py, and the deltas of a group g predicted without them are y_g − (P_gg)⁻¹(Py)_g, exactly (the block form of the
leave-one-out identity; Christensen, Pearson and Johnson 1992). The noise that g shares with other cells is taken off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from analysis.corrected.effects import MixedModel
from analysis.corrected.noise import NoiseTable
from analysis.corrected.variance.terms import RESIDUAL
from analysis.reading.observations import cell_names

__all__ = ["EffectPredictor", "ExpectedEffects"]

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
Mask = NDArray[np.bool_]


class ExpectedEffects(NamedTuple):
    """True effects of one source on several targets, in pp: mean (targets,) and covariance (targets, targets)."""

    mean: Array
    covariance: Array


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


class EffectPredictor:
    """Predictions of a study's cells, measured or not, by :class:`analysis.corrected.effects.MixedModel`.

    Parameters
    ----------
    cells, components, noise, design
        Of the mixed model.
    """

    def __init__(self, cells: pd.DataFrame, components: Mapping[str, float], noise: NoiseTable, design: Array) -> None:
        self._model = model = MixedModel(cells, components, noise, design)
        self._variances = model.variances
        self.models, self.sources = cells["model"].astype(str).to_numpy(), cell_names(cells, "source").to_numpy()
        names = cell_names(cells, "target").to_numpy()
        self._at = {str(names[target.rows[0]]): target for target in model.targets}
        self._means, explained = model.means(model.delta[:, None])[:, 0], model.explained(model.delta[:, None])
        self._explained = explained[:, 0]
        pairs = model.noise.pairs.T
        self._explained_by_pair, self._removed_by_pair = pairs @ self._explained, pairs @ model.removed

    def expected(
        self, model: str, sources: Sequence[str], targets: Sequence[str], designs: Sequence[Array]
    ) -> list[ExpectedEffects]:
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
        own = self._variances["target"] + own + self._variances[RESIDUAL] * (of_model & of_source)
        solved = self._model.within_targets(shared)
        common = self._products(slice(None), shared, solved)
        on_targets, crossed = [], []
        for target in map(self._at.get, targets):
            rows = np.zeros(0, dtype=np.int64) if target is None else target.rows
            inverted = own[rows] if target is None else target.inverse @ own[rows]
            on_targets.append(self._products(rows, own[rows], inverted))
            crossed.append((own[rows] * solved[rows]).sum(axis=0))
        return [
            self._joined(place, design, common, on_targets, np.array([one[place] for one in crossed]))
            for place, design in enumerate(designs)
        ]

    def _products(self, rows: Codes | slice, covariances: Array, solved: Array) -> _Products:
        """Return the products of covariances with some rows, given A⁻¹ times them."""
        return _Products(
            (covariances * solved).sum(axis=0),
            covariances.T @ self._explained[rows],
            self._model.shared[rows].T @ covariances,
            self._model.weighted_design[rows].T @ covariances,
        )

    def _joined(
        self, place: int, design: Array, common: _Products, of_targets: Sequence[_Products], crossed: Array
    ) -> ExpectedEffects:
        """Return the effects of the source at a place."""
        reduced = np.stack([common.reduced[:, place] + one.reduced[:, place] for one in of_targets], axis=1)
        weighted = np.stack([common.weighted[:, place] + one.weighted[:, place] for one in of_targets], axis=1)
        known = common.solved[place] + crossed[:, None] + crossed[None, :] - reduced.T @ reduced
        known = known + np.diag([one.solved[place] for one in of_targets])
        off_means = design - weighted.T
        prior = sum(self._variances[name] for name in ("model", "source", "model:source"))
        of_target = sum(self._variances[name] for name in ("target", "model:target", "source:target", RESIDUAL))
        covariance = prior + of_target * np.eye(len(of_targets)) - known
        covariance += off_means @ cho_solve(self._model.information, off_means.T)
        explained = common.explained[place] + np.array([one.explained[place] for one in of_targets])
        return ExpectedEffects(design @ self._means + explained, (covariance + covariance.T) / 2)

    def left_out(self, group: Mask) -> Array:
        """Return what :meth:`expected` would return for a group of cells without them, (cells in the group,).

        NaN if the other cells do not determine the means.
        """
        model, design = self._model, self._model.design
        rest = design.T @ design - design[group].T @ design[group]
        if np.linalg.matrix_rank(rest, hermitian=True) < design.shape[1]:
            return np.full(int(group.sum()), np.nan)
        rows = np.flatnonzero(group)
        place = np.full(len(group), -1)
        place[rows] = np.arange(len(rows))
        projection = -(model.removed[rows] @ model.removed[rows].T)
        for target in model.targets:
            inside = group[target.rows]
            if inside.any():
                at = place[target.rows[inside]]
                projection[np.ix_(at, at)] += target.inverse[np.ix_(inside, inside)]
        error = cho_solve(cho_factor(projection, lower=True), self._explained[rows])
        return np.asarray(model.delta[rows] - error - self._shared_noise(rows, error), dtype=np.float64)

    def _shared_noise(self, rows: Codes, error: Array) -> Array:
        """Return the part of a group's predicted deltas that is noise which other sources of the base model share.

        With e the group's error, it is c times the sum over a (model, target) of what P y becomes without the group,
        which is P y − P e.
        """
        noise, whole = self._model.noise, np.zeros((len(self._explained), 1))
        whole[rows, 0] = error
        left = self._explained_by_pair + self._removed_by_pair @ (self._model.removed[rows].T @ error)
        left = left - noise.pairs.T @ self._model.within_targets(whole)[:, 0]
        return np.asarray(noise.shared[rows, 0] * (noise.pairs @ left)[rows], dtype=np.float64)
