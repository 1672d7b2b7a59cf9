"""Where the variance of delta lies: seven components and the sampling noise, for all cells and per regime.

delta = mu + model + source + target + model:source + model:target + source:target + residual, all but mu random.
The published decomposition (`analysis.published.variance`) has no interaction: its source is source plus model:source.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from analysis.corrected.noise import SamplingNoise
from analysis.corrected.variance.estimate import ComponentEstimate, complete_cube, cube_of, generalised_intervals
from analysis.corrected.variance.reml import fit_reml
from analysis.corrected.variance.terms import CELL, RESIDUAL, TERMS, Crossing, IdentifiedTerms, crossing, identify
from registry.cells import Regime

__all__ = [
    "COLUMNS", "CORRECTED", "OVERALL", "PUBLISHED", "SAMPLING", "TRANSFER", "decompose", "scope_components",
    "stacked", "variance_components",
]  # fmt: skip

OVERALL, TRANSFER = "overall", "transfer"
CORRECTED, PUBLISHED = "corrected", "published"

#: The noise of a finite number of test questions, which every delta has.
SAMPLING = "sampling"

COLUMNS = ["scope", "component", "layer", "variance", "low", "high", "share", "share_low", "share_high", "note"]

_NO_OUTCOMES = "not separated: without the outcomes of single questions it is part of residual and model:target"
_KNOWN = "measured on its own and taken as known"
_NO_INTERVALS = "no intervals: too few cells to say how well the components are known"
_NEGATIVE = "negative: no sign of this component"

Array = NDArray[np.float64]


def variance_components(
    cells: pd.DataFrame, *, noise: SamplingNoise | None = None, noise_note: str = _KNOWN
) -> pd.DataFrame:
    """Decompose delta over every cell, over transfer alone, and per regime.

    The scope ``overall`` is every cell, the trained ones (MT-ML) included: only so is it a complete cube, which has a
    closed form. ``transfer`` leaves MT-ML out.

    Parameters
    ----------
    cells
        One row per (model, source, target), as `analysis.reading.observations.cells` gives it.
    noise
        Sampling noise of a delta, which is taken out of residual, model:target and, through them, all others; None
        where no question's outcome is known.
    noise_note
        How it is known.

    Returns
    -------
    DataFrame
        `COLUMNS`, one row per scope and component: ``variance`` in pp² with ``low`` and ``high``, ``share`` of the
        sum of all (between 0 and 1) with ``share_low`` and ``share_high``, 95% intervals. Negative estimates are
        reported as they are: cut off at zero they would be too large on average. A component that the cells do not
        identify has NaN, and a ``note`` with the reason.

    Raises
    ------
    Refused
        If a delta is not a number, or a cell has several rows.
    """
    tables = [scope_components(scope, rows, noise=noise, noise_note=noise_note) for scope, rows in _scopes(cells)]
    return pd.concat(tables, ignore_index=True)


def _scopes(cells: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the scopes' rows; a terminal shows progress if that takes seconds."""
    trained = cells["regime"] == str(Regime.MT_ML)
    scopes = {OVERALL: cells, TRANSFER: cells[~trained]}
    scopes |= {str(regime): cells[cells["regime"] == str(regime)] for regime in Regime}
    yield from tqdm(scopes.items(), desc="variance components", unit="fit", delay=2, leave=False, disable=None)


def decompose(rows: Crossing, identified: IdentifiedTerms, *, constrained: bool = False) -> ComponentEstimate:
    """Fit one set of cells: in closed form if it is a complete cube, by restricted maximum likelihood otherwise.

    Parameters
    ----------
    constrained
        Keep components at or above 0, as lme4 does; never in closed form then.
    """
    cube = None if constrained else cube_of(rows)
    if cube is not None:
        return complete_cube(cube, identified)
    return fit_reml(rows, identified, constrained=constrained)


def stacked(corrected: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Put the published fits under the corrected table.

    Parameters
    ----------
    corrected
        From :func:`variance_components`.
    published
        Table of `analysis.published.variance.variance`: ``cells``, ``variant``, ``component``, ``variance``,
        ``share_pct``, ``converged``, ``warnings``, ``note``. It has no intervals.
    """
    holds = {"Source": "holds model:source", "Target": "holds model:target", "Residual": "holds source:target"}
    notes = [
        "; ".join(filter(None, [row.variant, holds.get(row.component, ""), _optimiser(row), row.note]))
        for row in published.itertuples(index=False)
    ]
    rows = pd.DataFrame(
        {
            "scope": published["cells"],
            "component": published["component"].str.lower(),
            "layer": PUBLISHED,
            "variance": published["variance"],
            "share": published["share_pct"] / 100,
            "note": notes,
        }
    ).reindex(columns=COLUMNS)
    return rows if corrected.empty else pd.concat([corrected, rows.astype(corrected.dtypes)], ignore_index=True)


def _optimiser(row: object) -> str:
    """Word what statsmodels' optimiser said of a fit."""
    converged, warnings = bool(getattr(row, "converged", True)), str(getattr(row, "warnings", ""))
    return "; ".join(filter(None, ["" if converged else "did not converge", warnings]))


# --- one scope


def scope_components(
    scope: str, cells: pd.DataFrame, *, noise: SamplingNoise | None = None, noise_note: str = _KNOWN
) -> pd.DataFrame:
    """Decompose one set of cells, under the name ``scope``; otherwise as :func:`variance_components`."""
    rows = crossing(cells)
    identified = identify(rows)
    fitted: list[dict[str, object]] = []
    reason = _unfit(rows)
    if not reason:
        try:
            fitted = _fitted(identified, *_fit(rows, identified), noise, noise_note)
        except np.linalg.LinAlgError:  # so few cells that the equations have no single solution
            reason = "there are too few cells for so many components"
    if reason:
        identified = IdentifiedTerms((), dict.fromkeys(_names(rows), f"not identified: {reason}"), {})
    absent = [{"component": name, "note": note} for name, note in identified.lost.items()]
    order = [*_names(rows), SAMPLING]
    table = pd.DataFrame([*fitted, *absent]).assign(scope=scope, layer=CORRECTED).reindex(columns=COLUMNS)
    numbers = {column: float for column in COLUMNS if column not in ("scope", "component", "layer", "note")}
    return table.sort_values("component", key=lambda names: names.map(order.index), ignore_index=True).astype(numbers)


def _names(rows: Crossing) -> list[str]:
    """Return the components in the order of the table, without the sampling noise."""
    cell = [CELL] if rows.diagonal and len(rows) else []
    return ["model", *cell, *(name for name in TERMS if name != "model"), RESIDUAL]


def _unfit(rows: Crossing) -> str:
    """Say why nothing can be estimated; empty if something can."""
    if len(rows) < 2:
        return "there is only one cell" if len(rows) else "there are no cells"
    return "" if np.ptp(rows.delta) > 0 else "delta does not vary"


def _fit(rows: Crossing, identified: IdentifiedTerms) -> tuple[ComponentEstimate, str]:
    """Fit without constraint or, where that does not converge, constrained; return also what to say of it."""
    estimate = decompose(rows, identified)
    if not estimate.notes:
        return estimate, ""
    constrained = decompose(rows, identified, constrained=True)
    how = "the unconstrained fit did not converge, so no component may be negative here"
    return constrained, "; ".join([how, *constrained.notes])


def _fitted(
    identified: IdentifiedTerms, estimate: ComponentEstimate, said: str, noise: SamplingNoise | None, noise_note: str
) -> list[dict[str, object]]:
    """Return the rows of the components that have a variance, and of the sampling noise."""
    taken = _noise_by_component(identified, estimate, noise)
    sampling = noise.v if noise else 0.0
    variances = estimate.variances - taken
    shares = variances / (variances.sum() + sampling)
    ends = generalised_intervals(estimate, noise=taken, sampling=sampling)
    said = "; ".join(filter(None, [said, _NO_INTERVALS if np.isnan(ends.variances).any() else ""]))
    rows: list[dict[str, object]] = []
    for i, name in enumerate(estimate.names):
        also = ", ".join(identified.also_holds(name))
        notes = [f"holds {also}" if also else "", _NEGATIVE if variances[i] < 0 else "", said]
        row = {"component": name, "variance": variances[i], "share": shares[i], "note": "; ".join(filter(None, notes))}
        low_high = dict(zip(("low", "high"), ends.variances[i], strict=True))
        rows.append(row | low_high | dict(zip(("share_low", "share_high"), ends.shares[i], strict=True)))
    if noise is None:
        return [*rows, {"component": SAMPLING, "note": _NO_OUTCOMES}]
    share = sampling / (variances.sum() + sampling)
    own = {"component": SAMPLING, "variance": sampling, "share": share, "note": noise_note}
    return [*rows, own | dict(zip(("share_low", "share_high"), ends.sampling_share, strict=True))]


def _noise_by_component(identified: IdentifiedTerms, estimate: ComponentEstimate, noise: SamplingNoise | None) -> Array:
    """Return the sampling noise in each component: what sources share in model:target, the rest in the residual.

    In mean squares this is v − c less for source, model:source, source:target and residual, and v + (sources − 1) c
    less for model, target and model:target.
    """
    taken = np.zeros(len(estimate.names))
    if noise is not None:
        taken[estimate.names.index(RESIDUAL)] = noise.own
        if (holder := identified.holder("model:target")) is not None:
            taken[estimate.names.index(holder)] += noise.c
    return taken
