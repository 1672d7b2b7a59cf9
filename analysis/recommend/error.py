"""How far predictions of untrained sources can be trusted: every source left out once, predicted, and compared."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.reading.observations import cell_names
from analysis.recommend.expectation import Expectation

__all__ = ["COLUMNS", "EVERYWHERE", "HERE", "leave_one_source_out", "trust"]

Array = NDArray[np.float64]

#: What is left out with a source: its cells of the base alone, or those of every base.
HERE, EVERYWHERE = "of this base", "of every base"

EFFECTS, REGIME_MEAN = "effects", "regime mean"

COLUMNS = ["left_out", "predictor", "n_sources", "n_cells", "rmse", "rank_correlation", "rank_within_targets"]


def leave_one_source_out(expected: Expectation, model: str) -> pd.DataFrame:
    """Predict every source of a base without its own cells, and measure by how much that is wrong.

    Returns
    -------
    DataFrame
        `COLUMNS`: for what is left out with a source (`HERE` only where other bases were trained on it, `EVERYWHERE`)
        and each predictor: ``rmse``, the root of the mean squared difference to the measured deltas in pp;
        ``rank_correlation``, Spearman's over all cells; ``rank_within_targets``, Spearman's over the sources of one
        target, 0 where either does not vary, averaged over targets. NaN if there is nothing to compare.

    Notes
    -----
    The regime mean is that of the base's other sources. Leaving sources out in turn puts equal predictions in the order
    opposite to what was measured: what is left lacks the best. So within targets the regime mean is that of all
    sources, and for sources left out of every base, which only regimes and distances distinguish, there is no such
    correlation. The variance components are those of all cells.
    """
    cells, of_model = expected.cells, (expected.cells["model"] == model).to_numpy()
    sources = cell_names(cells, "source").to_numpy()
    elsewhere = set(sources[~of_model])
    predicted = {HERE: np.full(len(cells), np.nan), EVERYWHERE: np.full(len(cells), np.nan)}
    for source in np.unique(sources[of_model]):
        of_source = sources == source
        here = of_source & of_model
        predicted[EVERYWHERE][of_source] = expected.effects.left_out(of_source)
        if source in elsewhere:
            predicted[HERE][here] = expected.effects.left_out(here)
    own = cells[of_model].assign(source=sources[of_model], target=cell_names(cells, "target")[of_model])
    rows = []
    for left_out, values in predicted.items():
        table = own.assign(predicted=values[of_model], mean=_other_means(own), all_mean=_means(own))
        table = table.dropna(subset=["predicted", "mean"])
        for predictor, column, ranked in ((EFFECTS, "predicted", "predicted"), (REGIME_MEAN, "mean", "all_mean")):
            row = {"left_out": left_out, "predictor": predictor, "n_sources": table["source"].nunique()}
            row |= {"n_cells": len(table), **_compared(table[column], table["delta"])}
            within = _within_targets(table, ranked) if left_out == HERE else math.nan
            rows.append(row | {"rank_within_targets": within})
    return pd.DataFrame(rows, columns=COLUMNS)


def _compared(predicted: pd.Series, delta: pd.Series) -> dict[str, float]:
    """Return the root mean squared error, and the rank correlation over all cells."""
    if predicted.empty:
        return {"rmse": math.nan, "rank_correlation": math.nan}
    ranks = _correlation(predicted.rank().to_numpy(), delta.rank().to_numpy())
    return {"rmse": math.sqrt(((predicted - delta) ** 2).mean()), "rank_correlation": ranks}


def trust(errors: pd.DataFrame) -> list[str]:
    """Say in sentences how predictions compare with the regime mean."""
    said = []
    for left_out, rows in errors.groupby("left_out", sort=False):
        own, mean = (rows[rows["predictor"] == name].iloc[0] for name in (EFFECTS, REGIME_MEAN))
        which = "trained on other bases alone" if left_out == HERE else "trained on no base"
        if math.isnan(own["rmse"]):
            said.append(f"Sources {which}: nothing here allows a comparison.")
            continue
        said.append(f"Sources {which}: {_verdict(own, mean, left_out == HERE)}, {own['n_sources']} left out in turn.")
    return said


def _verdict(own: pd.Series, mean: pd.Series, ordered: bool) -> str:
    """Word how the effects compare with the regime mean."""
    names = {"rmse": "error (RMSE, pp)", "rank_correlation": "rank correlation over cells"}
    names |= {"rank_within_targets": "over sources within targets"} if ordered else {}
    numbers = ", ".join(f"{word} {own[name]:.2f} against {mean[name]:.2f}" for name, word in names.items())
    if own["rmse"] >= mean["rmse"]:
        verdict = "predictions are NO BETTER than the regime mean"
    elif ordered and own["rank_within_targets"] <= mean["rank_within_targets"]:
        verdict = "predictions are closer than the regime mean, but rank sources NO BETTER"
    else:
        verdict = "predictions are better than the regime mean"
    same = "" if ordered else "; sources of equal regime and distance get equal predictions"
    return f"{verdict}: {numbers}{same}"


def _other_means(own: pd.DataFrame) -> pd.Series:
    """Return, for every cell of a base, the mean of its regime over the other sources; NaN if there is none."""
    of_regime = own.groupby("regime")["delta"].transform("sum"), own.groupby("regime")["delta"].transform("size")
    both = own.groupby(["regime", "source"])["delta"]
    total, count = of_regime[0] - both.transform("sum"), of_regime[1] - both.transform("size")
    return (total / count.where(count > 0)).astype(np.float64)


def _means(own: pd.DataFrame) -> pd.Series:
    return own.groupby("regime")["delta"].transform("mean")


def _within_targets(table: pd.DataFrame, column: str) -> float:
    """Return Spearman's correlation over sources, averaged over the targets that have two or more."""
    found = [
        _correlation(part[column].rank().to_numpy(), part["delta"].rank().to_numpy())
        for _, part in table.groupby("target")
        if len(part) > 1
    ]
    return float(np.mean(found)) if found else math.nan


def _correlation(left: Array, right: Array) -> float:
    left, right = left - left.mean(), right - right.mean()
    scale = math.sqrt(float(left @ left) * float(right @ right))
    return float(left @ right) / scale if scale > 0 else 0.0
