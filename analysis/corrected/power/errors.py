"""Standard errors that scores and contrasts of a complete study will have, from its components of variance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.corrected.contrasts import CONTRASTS
from analysis.corrected.noise import SamplingNoise
from analysis.corrected.variance.terms import RESIDUAL
from analysis.published.roles import DONOR
from registry.cells import Grid, Regime, regime_of

__all__ = ["Spread", "error", "role_spreads", "squared_weights"]

Array = NDArray[np.float64]


class Spread(NamedTuple):
    """Variance of an estimate that goes with models, with partners, and with single (model, partner)."""

    by_model: float
    by_partner: float
    single: float


def role_spreads(
    role: str, models: int, fixed: int, partners: int, variances: Mapping[str, float], sampling: SamplingNoise
) -> tuple[Spread, Spread]:
    """Return the spread of one score and of the difference of two.

    A score averages (models, fixed, partners) cells: ``fixed`` tasks of a language or languages of a task. Sources on
    one (model, target) share the noise c: donors' partners are targets, recipients' partners sources.
    """
    own, other = ("source", "target") if role == DONOR else ("target", "source")
    of_models, of_partners = models * fixed, fixed * partners
    cells = models * of_partners
    own_model, other_model = variances[f"model:{own}"], variances[f"model:{other}"]
    pair, residual = variances["source:target"], variances[RESIDUAL]
    if role == DONOR:
        other_model += sampling.c
    else:
        own_model += sampling.c
    score = Spread(
        by_model=variances["model"] / models + own_model / of_models,
        by_partner=(variances[other] + pair) / of_partners,
        single=(other_model + residual + sampling.own) / cells,
    )
    # Two names share their partners but for each other.
    unshared = (variances[other] + other_model / models) / (fixed * partners**2)
    difference = Spread(
        by_model=2 * own_model / of_models,
        by_partner=2 * pair / of_partners + 2 * unshared,
        single=2 * (residual + sampling.own) / cells,
    )
    return score, difference


def error(spread: Spread, models: int, partners: int) -> tuple[float, float]:
    """Return standard error and Satterthwaite's degrees of freedom; one model's own share is not error then."""
    of_partner = spread.by_partner + spread.single
    if models == 1:
        return float(np.sqrt(of_partner)), partners - 1.0
    of_model = spread.by_model + spread.single
    per_degree = of_model**2 / (models - 1) + of_partner**2 / (partners - 1)
    df = (of_model + of_partner) ** 2 / per_degree if per_degree > 0 else float(models - 1)
    return float(np.sqrt(spread.by_model + of_partner)), df


def squared_weights(tasks: int, languages: int) -> dict[tuple[Regime, Regime], float]:
    """Return for every contrast the sum of squares of the weights that least squares gives the pairs of cells.

    Effects of source and target are absorbed, so that weights sum to 0 over either: of the components, only that of the
    pairs and the residual remain. Contrasts that cannot be estimated are absent.
    """
    cells = list(Grid(tuple(f"t{i}" for i in range(tasks)), tuple(f"l{i}" for i in range(languages))))
    regimes = np.array([[str(regime_of(source, target)) for target in cells] for source in cells])
    present = [regime for regime in Regime if (regimes == str(regime)).any()]
    dummies = [(regimes == str(regime)).astype(np.float64) for regime in present]
    within = np.stack([_centred(dummy).ravel() for dummy in dummies], axis=1)
    gram = within.T @ within
    inverse = np.linalg.pinv(gram, rcond=1e-9, hermitian=True)
    found = {}
    for left, right in CONTRASTS:
        if left in present and right in present:
            weights = np.array([(regime == left) - (regime == right) for regime in present], dtype=np.float64)
            if np.allclose(gram @ inverse @ weights, weights, atol=1e-6):
                found[left, right] = float(weights @ inverse @ weights)
    return found


def _centred(square: Array) -> Array:
    """Take the means of rows and columns off a matrix."""
    return np.asarray(square - square.mean(axis=0) - square.mean(axis=1, keepdims=True) + square.mean())
