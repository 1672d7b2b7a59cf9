"""The variance decomposition as published: a mixed model of delta, fitted by REML with statsmodels.

``groups=model`` with variance components "source" and "target" makes both components nested in the model: the fit is
lme4's ``(1|model) + (1|model:source) + (1|model:target)``. Its Source share is source plus model:source, and so for
Target; it cannot tell donors that all models share from donors that each model has for itself.
"""

from __future__ import annotations

import warnings
from typing import Any, Final

import numpy as np
import pandas as pd
from tqdm import tqdm

from analysis.measures.levels import LeftOut
from analysis.measures.transfer import TRANSFER, by_regime
from analysis.reading.observations import cell_names
from registry.cells import Regime

__all__ = ["COLUMNS", "COMPONENTS", "VARIANTS", "decompose", "variance"]

COMPONENTS = ("Model", "Source", "Target", "Residual")

#: The two fits that statsmodels gives: name of the variant → ``re_formula``.
VARIANTS: Final[dict[str, str | None]] = {"without model intercept": None, "with model intercept": "1"}

COLUMNS = ["cells", "variant", "component", "variance", "share_pct", "n", "converged", "warnings", "note"]

_PART = "Variance decomposition"
_FEWEST_CELLS = 4
_NOT_IDENTIFIED = (
    "not identified: source and target are the same cell here, each with one value per model, so that how source, "
    "target and residual share what is left is arbitrary"
)


def variance(cells: pd.DataFrame) -> tuple[pd.DataFrame, list[LeftOut]]:
    """Decompose delta over all transfer cells and per regime, in both variants.

    Returns
    -------
    table, left_out
        `COLUMNS`, one row per component: ``cells`` (a regime, or ``transfer``), ``variance`` (pp²) and its share of the
        sum in percent, ``n`` cells, whether the optimiser ``converged``, its ``warnings`` as text, and a ``note`` where
        the fit is not identified. A variant without model intercept has no Model variance: NaN. Regimes that cannot be
        fitted are left out.
    """
    if (models := cells["model"].nunique()) < 2:
        return _table([]), [LeftOut(_PART, f"it takes at least two base models; there is {models or 'none'}.")]
    rows: list[dict[str, object]] = []
    left_out: list[LeftOut] = []
    groups = sorted(by_regime(cells), key=lambda group: group[0] != TRANSFER)
    with tqdm(
        total=len(groups) * len(VARIANTS), desc="mixed models", unit="fit", delay=2, leave=False, disable=None
    ) as bar:
        for label, of_group in groups:
            reason = _unfit(of_group)
            note = _NOT_IDENTIFIED if label == str(Regime.MT_ML) else ""
            for variant in VARIANTS:
                fitted = reason or decompose(of_group, variant)
                bar.update()
                if isinstance(fitted, str):
                    left_out.append(LeftOut(f"{_PART}, {label}", f"{fitted} ({note})" if note else fitted))
                    break
                rows += [{"cells": label, "variant": variant, **row, "note": note} for row in fitted]
    return _table(rows), left_out


def _table(rows: list[dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COLUMNS)


def _unfit(rows: pd.DataFrame) -> str:
    """Say why a group of cells cannot be decomposed; empty if it can."""
    if len(rows) < _FEWEST_CELLS or rows["model"].nunique() < 2:
        return f"there are {len(rows)} cells of {rows['model'].nunique()} base models, too few for a fit."
    if rows["delta"].nunique() == 1:
        return "delta does not vary."
    for end in ("source", "target"):
        if cell_names(rows, end).nunique() < 2:
            return f"there is only one {end} cell."
    if not (rows.groupby("model").size() > 1).any():
        return "no base model has more than one cell."
    return ""


def decompose(rows: pd.DataFrame, variant: str) -> list[dict[str, object]] | str:
    """Fit one variant to some cells.

    Parameters
    ----------
    rows
        Cells with ``model``, source, target and ``delta`` (pp).
    variant
        One of `VARIANTS`.

    Returns
    -------
    list or str
        One row per component without ``cells``, ``variant`` and ``note``; or why there is no fit.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fit = _fit(rows, VARIANTS[variant])
        except np.linalg.LinAlgError as error:
            return f"statsmodels found no fit {variant} ({error})."
    said = "; ".join(dict.fromkeys(f"{item.category.__name__}: {item.message}" for item in caught))
    parts = _components(fit)
    total = float(np.nansum(list(parts.values())))
    if not np.isfinite(total) or total <= 0:
        return f"statsmodels' fit {variant} has no variance to share out. {said}".strip()
    about = {"n": len(rows), "converged": bool(fit.converged), "warnings": said}
    return [
        {"component": name, "variance": parts[name], "share_pct": 100 * parts[name] / total, **about}
        for name in COMPONENTS
    ]


def _fit(rows: pd.DataFrame, re_formula: str | None) -> Any:
    """Return statsmodels' result of the intercept-only model."""
    # It takes over a second to import, and an analysis without mixed models has no need of it.
    import statsmodels.formula.api as smf

    data = pd.DataFrame(
        {
            "delta": rows["delta"].to_numpy(dtype=np.float64),
            "model": rows["model"].astype(str).to_numpy(dtype=object),
            "source": cell_names(rows, "source").to_numpy(dtype=object),
            "target": cell_names(rows, "target").to_numpy(dtype=object),
        }
    )
    parts = {"source": "0 + C(source)", "target": "0 + C(target)"}
    return smf.mixedlm("delta ~ 1", data, groups="model", vc_formula=parts, re_formula=re_formula).fit(reml=True)


def _components(fit: Any) -> dict[str, float]:
    """Return the variances of a fit by component, in pp²; the model's is NaN where the fit has none."""
    intercept = np.asarray(fit.cov_re, dtype=np.float64)
    of = dict(zip(fit.model.exog_vc.names, np.asarray(fit.vcomp, dtype=np.float64), strict=True))
    return {
        "Model": float(intercept[0, 0]) if intercept.size else float("nan"),
        "Source": float(of["source"]),
        "Target": float(of["target"]),
        "Residual": float(fit.scale),
    }
