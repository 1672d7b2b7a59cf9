"""The headline table of deltas per regime, and the differences between regimes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import starmap
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.corrected.rates import HARM, OVERALL, POSITIVE
from analysis.corrected.variance.model import decompose
from analysis.corrected.variance.terms import Crossing, crossing, identify
from analysis.measures.levels import CONFIDENCE
from analysis.measures.numerals import aligned, fixed, intervals, pp, quantity
from analysis.measures.statistics import few_models, two_way
from analysis.measures.transfer import TRANSFER, by_regime, summary
from analysis.reading.observations import cell_names
from registry.cells import Regime
from registry.tracking.columns import SOURCE, TARGET

__all__ = [
    "AT_LARGE", "COLUMNS", "CONTRASTS", "ONE_MODEL", "RUN_MODELS", "contrasts", "regimes", "regimes_as_text",
    "scoped_intervals", "written_intervals",
]  # fmt: skip

COLUMNS = [
    "regime", "n", "mean", "se", "low", "high", "df", "interval_note", "run_se", "run_se_note", "median",
    "positive_pct", "positive_by_chance_pct", "positive_posterior_pct", "positive_low_pct", "positive_high_pct",
    "harm_pct", "harm_by_chance_pct", "harm_posterior_pct", "harm_low_pct", "harm_high_pct",
]  # fmt: skip

#: What an interval of a mean holds for.
ONE_MODEL, RUN_MODELS, AT_LARGE = "this model", "these models", "models at large"

_RUN_SE = 1.96  # standard errors to each side of an interval that holds for the models that were run
_ONE = "one model"


class _Interval(NamedTuple):
    """Error of a mean in pp, its 95% interval and degrees of freedom; NaN with a note that says why."""

    se: float
    low: float
    high: float
    df: float
    note: str


def regimes(cells: pd.DataFrame, rates: pd.DataFrame) -> pd.DataFrame:
    """Summarise delta per regime and over all transfer.

    Parameters
    ----------
    cells
        One row per (model, source, target), as `analysis.reading.observations.cells` gives it.
    rates
        Table of `analysis.corrected.rates.rates`; empty where the noise is not known.

    Returns
    -------
    DataFrame
        `COLUMNS`, one row per regime, then ``transfer``; a regime without cells has n 0 and NaN. ``mean``, ``median``,
        ``positive_pct``, ``harm_pct`` are the published summary. ``se``, ``low``, ``high`` (95%, pp) hold for models,
        sources and targets at large: models, cells and their interactions are random
        (`analysis.corrected.variance.model`), with models − 1 degrees of freedom. ``run_se`` is clustered
        by source and target cell and holds for the models that were run. Rates (percent): ``by_chance`` is expected
        without any transfer, ``posterior`` is corrected for noise, with a 95% interval.
    """
    rows = list(starmap(_mean, by_regime(cells)))
    return pd.DataFrame([row | _rates(str(row["regime"]), rates) for row in rows]).reindex(columns=COLUMNS)


def _mean(label: str, rows: pd.DataFrame) -> dict[str, object]:
    """Return the summary of one regime with its errors."""
    interval = _interval(rows)
    names = ("source cell", "target cell")
    run = two_way(rows["delta"], cell_names(rows, "source"), cell_names(rows, "target"), names=names)
    errors = {"se": interval.se, "low": interval.low, "high": interval.high, "df": interval.df}
    own = {"interval_note": interval.note, "run_se": run.value, "run_se_note": run.note}
    return {"regime": label, **summary(rows["delta"]), **errors, **own}


def _interval(rows: pd.DataFrame) -> _Interval:
    """Return the interval of a mean under random models, sources, targets and all their interactions."""
    if len(rows) < 2 or rows["delta"].nunique() == 1:
        reason = "delta does not vary" if len(rows) > 1 else "one cell" if len(rows) else "nothing was measured"
        return _no_interval(reason)
    levels = crossing(rows)
    se = _mean_se(levels)
    if not se > 0:
        return _no_interval("these cells give the mean no variance above 0")
    models, df, note = _degrees(levels)
    if df < 1:
        return _no_interval(f"only one {models}")
    half = float(stats.t.isf((1 - CONFIDENCE) / 2, df)) * se
    mean = float(rows["delta"].mean())
    return _Interval(se, mean - half, mean + half, float(df), note)


def _no_interval(reason: str) -> _Interval:
    return _Interval(math.nan, math.nan, math.nan, math.nan, f"no interval: {reason}")


def _mean_se(rows: Crossing) -> float:
    """Return the standard error of the grand mean; constrained where the unconstrained fit gives none."""
    identified = identify(rows)
    for constrained in (False, True):
        try:
            found = decompose(rows, identified, constrained=constrained)
        except np.linalg.LinAlgError:  # so few cells that their equations have no single solution
            continue
        if math.isfinite(found.mean_se) and (constrained or not found.notes):
            return found.mean_se
    return math.nan


def _degrees(rows: Crossing) -> tuple[str, int, str]:
    """Return what there are few of, the degrees of freedom, and what a reader must know of the interval."""
    levels = {name: int(codes.max()) + 1 for name, codes in rows.factors.items()}
    if levels["model"] > 1:
        return "model", levels["model"] - 1, few_models(levels["model"])
    fewest = min(levels["source"], levels["target"])
    if fewest < 2:
        fewest = max(levels["source"], levels["target"])
    said = f"{_ONE}: for this model only, over {quantity(fewest, 'cell')}"
    return "cell", fewest - 1, said


def _rates(label: str, rates: pd.DataFrame) -> dict[str, float]:
    """Return the columns of the rates of one regime; nothing where they are not known."""
    if rates.empty:
        return {}
    group = (OVERALL, TRANSFER) if label == TRANSFER else ("regime", label)
    found: dict[str, float] = {}
    for rate in (POSITIVE, HARM):
        row = rates[(rates["group"] == group[0]) & (rates["name"] == group[1]) & (rates["rate"] == rate)].iloc[0]
        for name in ("by_chance", "posterior", "low", "high"):
            found[f"{rate}_{name}_pct"] = float(row[name])
    return found


def scoped_intervals(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the 95% intervals of a regime table's means by what they hold for, the widest last.

    Returns
    -------
    dict
        ``low`` and ``high`` in pp, a row for each of the table's: of a table of one model `ONE_MODEL` alone, otherwise
        `RUN_MODELS` and `AT_LARGE`; NaN where the regime has no such interval.
    """
    ends = table[["low", "high"]]
    of_one = table["interval_note"].str.startswith(_ONE)
    if of_one.any() and not ends[~of_one].notna().any(axis=None):
        return {ONE_MODEL: ends}
    half = _RUN_SE * table["run_se"]
    run = pd.DataFrame({"low": table["mean"] - half, "high": table["mean"] + half})
    return {RUN_MODELS: run, AT_LARGE: ends.mask(of_one)}


def written_intervals(table: pd.DataFrame) -> dict[str, list[str]]:
    """Write the intervals of :func:`scoped_intervals`."""
    return {scope: intervals(ends["low"], ends["high"]) for scope, ends in scoped_intervals(table).items()}


def regimes_as_text(table: pd.DataFrame) -> str:
    """Return the regime table as aligned text for a terminal; a dash stands for a number that does not exist."""
    written = written_intervals(table)
    headings = (f"95%, {what}" for what in written)
    shares = ("positive %", "corrected", "harm %", "corrected")
    lines = [["regime", "cells", "mean Δ pp", *headings, "median", *shares]]
    names = ("positive_pct", "positive_posterior_pct", "harm_pct", "harm_posterior_pct")
    for row, ends in zip(table.to_dict("records"), zip(*written.values(), strict=True), strict=True):
        rates = [fixed(row[name], 1) for name in names]
        lines.append([row["regime"], f"{row['n']:,}", pp(row["mean"]), *ends, pp(row["median"]), *rates])
    return aligned(lines, right=True)


# --- contrasts: differences at equal models, sources and targets, with errors that hold for other models too


Array = NDArray[np.float64]

#: Minuend and subtrahend: what training on the cell itself, on its task, on its language adds.
CONTRASTS = (
    (Regime.MT_ML, Regime.MT_CL),
    (Regime.MT_CL, Regime.CT_ML),
    (Regime.MT_CL, Regime.CT_CL),
    (Regime.CT_ML, Regime.CT_CL),
)

#: Below this many pairs of a regime its contrasts' errors are too small: with 9 models, planted differences between
#: MT-ML and MT-CL were covered in 87% of studies with 12 pairs in MT-ML, and in 90% with 20.
FEW_PAIRS = 30

_PAIR = [*SOURCE, *TARGET]
_COLUMNS = ["contrast", "estimate", "se", "low", "high", "p", "df", "clusters", "note"]


class _Clusters(NamedTuple):
    """How a fit's errors are clustered; counts by name, and what a reader must know of them."""

    codes: NDArray[np.int64]
    counts: dict[str, int]
    df: int
    note: str

    def __str__(self) -> str:
        return ", ".join(f"{count:,} {name}{'' if count == 1 else 's'}" for name, count in self.counts.items())


class _Fit(NamedTuple):
    """Coefficients of the regimes' dummies with their covariance; the reference regime's are 0.

    ``pairs`` has the number of (source, target) pairs of every regime present.
    """

    pairs: dict[str, int]
    coefficients: Array
    covariance: Array


def contrasts(cells: pd.DataFrame, pairs: Sequence[tuple[Regime, Regime]] = CONTRASTS) -> pd.DataFrame:
    """Compare regimes by least squares, with effects of every model, source and target absorbed.

    Parameters
    ----------
    cells
        One row per (model, source, target): the key columns, ``regime`` and ``delta`` (pp).

    Returns
    -------
    DataFrame
        One row per pair: ``contrast``, ``estimate``, ``se``, ``low``, ``high`` (95%, pp), ``p`` (two-sided), ``df``,
        ``clusters``, ``note``. Where there is no estimate or no error it is NaN, and the note says why.

    Notes
    -----
    Errors are clustered two ways, by model and by (source, target) pair, with linearmodels' correction for small
    samples; t has models − 1 degrees of freedom. With planted effects such intervals cover in 92 to 100% of
    studies, clustered by source and target in 23 to 43%, and without clusters in 34 to 72%.
    """
    clusters = _clusters(cells)
    fit = _fit(cells, clusters)
    return pd.DataFrame([_row(str(left), str(right), fit, clusters) for left, right in pairs], columns=_COLUMNS)


def _clusters(cells: pd.DataFrame) -> _Clusters:
    """Return the clusters of the cells: model and pair, or with one model the pair alone."""
    model = np.asarray(pd.factorize(cells["model"])[0], dtype=np.int64)
    pair = cells.groupby(_PAIR, sort=False, observed=True).ngroup().to_numpy(dtype=np.int64)
    models, pairs = len(np.unique(model)), len(np.unique(pair))
    counts = {"model": models, "source:target pair": pairs}
    if models > 1:
        return _Clusters(np.column_stack([model, pair]), counts, models - 1, few_models(models))
    alone = (
        "one model: this is a statement on it and on no other; clustered by source:target pair, of which each is one "
        "cell, so cells that share a source or a target count as independent and the error is probably too small"
    )
    return _Clusters(pair, counts, pairs - 1, alone)


def _fit(cells: pd.DataFrame, clusters: _Clusters) -> _Fit | str:
    """Fit the regimes' dummies, the last regime present being the reference; or say why that cannot be done."""
    present = tuple(str(regime) for regime in Regime if (cells["regime"] == str(regime)).any())
    if len(present) < 2:
        return "there is only " + (f"regime {present[0]}" if present else "an empty frame") + ": nothing to compare"
    # They take a while to import, and an analysis without this layer has no need of them.
    from linearmodels.iv import AbsorbingLS
    from linearmodels.panel.utility import AbsorbingEffectError

    effects = _effects(cells)
    parameters = len(present) - 1 + sum(effects.nunique()) - (effects.shape[1] - 1)
    if len(cells) <= parameters:
        return f"too few cells: {len(cells):,} for {parameters:,} effects of models, sources, targets and regimes"
    dummies = pd.DataFrame({regime: (cells["regime"] == regime).to_numpy(dtype=np.float64) for regime in present[:-1]})
    model = AbsorbingLS(cells["delta"].to_numpy(dtype=np.float64), dummies, absorb=effects)
    try:
        fitted = model.fit(cov_type="clustered", clusters=clusters.codes, debiased=True)
    except AbsorbingEffectError:
        return (
            "in these cells the regimes follow from model, source and target, so their effects cannot be distinguished"
        )
    covariance = np.zeros((len(present), len(present)))
    covariance[:-1, :-1] = fitted.cov.to_numpy()
    of_pair = cells.drop_duplicates(_PAIR)["regime"].value_counts()
    pairs = {regime: int(of_pair[regime]) for regime in present}
    return _Fit(pairs, np.append(fitted.params.to_numpy(dtype=np.float64), 0.0), covariance)


def _effects(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the factors to absorb, as categories; one with a single level is the constant, which another holds."""
    factors = {"model": cells["model"].astype(str)}
    for end in ("source", "target"):
        factors[end] = cell_names(cells, end)
    varied = {name: pd.Categorical(values) for name, values in factors.items() if values.nunique() > 1}
    return pd.DataFrame(varied)


def _row(left: str, right: str, fit: _Fit | str, clusters: _Clusters) -> dict[str, object]:
    """Return one row of the table."""
    row: dict[str, object] = dict.fromkeys(_COLUMNS, np.nan)
    row |= {"contrast": f"{left} − {right}", "df": clusters.df, "clusters": str(clusters)}
    if isinstance(fit, str):
        return row | {"note": fit}
    if lacking := [regime for regime in (left, right) if regime not in fit.pairs]:
        return row | {"note": f"no cell is {' or '.join(lacking)}"}
    weights = np.array([(regime == left) - (regime == right) for regime in fit.pairs], dtype=np.float64)
    estimate, variance = float(weights @ fit.coefficients), float(weights @ fit.covariance @ weights)
    row["estimate"] = estimate
    # Written as "not above" so that NaN is caught too.
    if not variance > 0:
        return row | {"note": _no_error(variance, clusters)}
    se = float(np.sqrt(variance))
    half = float(stats.t.isf((1 - CONFIDENCE) / 2, clusters.df)) * se
    p = 2 * float(stats.t.sf(abs(estimate) / se, clusters.df))
    rare = min((left, right), key=fit.pairs.__getitem__)
    few = f"only {fit.pairs[rare]} pairs are {rare}, so the error is too small" if fit.pairs[rare] < FEW_PAIRS else ""
    note = "; ".join(filter(None, [clusters.note, few]))
    return row | {"se": se, "low": estimate - half, "high": estimate + half, "p": p, "note": note}


def _no_error(variance: float, clusters: _Clusters) -> str:
    """Say why a contrast has no standard error, naming the clusters that are too few."""
    fewest = min(clusters.counts.items(), key=lambda named: named[1])
    found = "is not a number" if np.isnan(variance) else "is not positive"
    return f"no standard error: the clustered variance {found}, as {fewest[1]} {fewest[0]}s are too few clusters"
