"""The Consistency Index as published: do models agree on which recipients a source cell helps most?

For every source cell a table recipients × raters is made (raters: models, families, or sizes); the index is the mean of
Kendall's tau-b (Kendall 1945) over pairs of raters, each over the recipients that both have.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.measures.levels import LeftOut
from analysis.measures.transfer import families, of_regime, size_buckets
from analysis.reading.observations import DELTA_DECIMALS, cell_names
from registry.cells import Regime
from registry.tracking.columns import SOURCE

__all__ = ["FEWEST_RECIPIENTS", "RATERS", "consistency", "summarise", "tau_b"]

#: A pair of raters is compared over at least this many shared recipients.
FEWEST_RECIPIENTS = 3

#: What takes the place of the judges: base models, their families, their size buckets.
RATERS = ("model", "family", "size")

_RECIPIENT: Final = {Regime.MT_CL: "target_language", Regime.CT_ML: "target_task", Regime.CT_CL: "target_cell"}
_COLUMNS = ["raters", "regime", *SOURCE, "n_raters", "n_recipients", "n_pairs", "index"]


def tau_b(table: NDArray[np.float64], *, fewest: int = FEWEST_RECIPIENTS) -> NDArray[np.float64]:
    """Return Kendall's tau-b between all pairs of columns, each over the rows where both have a number.

    With S the signs of the differences between all pairs of rows (0 where a number lacks) and V whether both rows have
    numbers, tau-b is ``S'S / sqrt((|S|'V) * (V'|S|))``: concordant minus discordant pairs, over the geometric mean of
    the pairs that each column does not tie.

    Parameters
    ----------
    table : (…, recipients, raters)
        NaN where nothing was measured; several tables at once along axes before.
    fewest
        Pairs of columns that share fewer rows get NaN.

    Returns
    -------
    ndarray
        (…, raters, raters), symmetric; NaN too where a column is constant over the shared rows.
    """
    there = np.isfinite(table)
    first, second = np.triu_indices(table.shape[-2], k=1)
    valid = (there[..., first, :] & there[..., second, :]).astype(np.float64)
    filled = np.where(there, table, 0.0)
    signs = np.sign(filled[..., first, :] - filled[..., second, :]) * valid
    untied = np.abs(signs).mT @ valid
    product = untied * untied.mT
    concordance = signs.mT @ signs
    counted = there.astype(np.float64)  # whole numbers: exact, and multiplied faster than integers are
    usable = (counted.mT @ counted >= fewest) & (product > 0)
    taus = np.full(concordance.shape, np.nan)
    taus[usable] = concordance[usable] / np.sqrt(product[usable])
    return taus


def consistency(cells: pd.DataFrame) -> pd.DataFrame:
    """Compute the index of every source cell, per regime and kind of rater.

    Returns
    -------
    DataFrame
        ``raters`` (one of `RATERS`), ``regime``, ``source_task``, ``source_language``, ``n_raters``, ``n_recipients``,
        ``n_pairs`` (pairs of raters with a tau-b) and ``index``, their mean tau-b; NaN where there is no pair.
    """
    named = cells.assign(family=families(cells), size=size_buckets(cells), target_cell=cell_names(cells, "target"))
    found = []
    for raters in RATERS:
        for regime, recipient in _RECIPIENT.items():
            keys = [*SOURCE, recipient, raters]
            means = of_regime(named, regime).groupby(keys)["delta"].mean().round(DELTA_DECIMALS)
            if means.empty:
                continue
            for (task, language), table in means.unstack(raters).groupby(level=[0, 1]):
                found.append((raters, str(regime), task, language, *_index(table.dropna(axis=1, how="all"))))
    return pd.DataFrame(found, columns=_COLUMNS)


def _index(table: pd.DataFrame) -> tuple[int, int, int, float]:
    """Return the numbers of raters, recipients and pairs, and the mean tau-b over pairs."""
    taus = tau_b(table.to_numpy(dtype=np.float64))
    pairs = taus[np.triu_indices(len(taus), k=1)]
    pairs = pairs[np.isfinite(pairs)]
    return table.shape[1], table.shape[0], len(pairs), float(pairs.mean()) if len(pairs) else float("nan")


def summarise(table: pd.DataFrame) -> tuple[pd.DataFrame, list[LeftOut]]:
    """Return median and quartiles of the index over source cells.

    Returns
    -------
    table, left_out
        ``raters``, ``regime``, ``n_sources`` (that have an index), ``median``, ``q1``, ``q3``; rows without any index
        are left out, with the reason.
    """
    found, left_out = [], []
    for raters in RATERS:
        missing = []
        for regime in _RECIPIENT:
            of_both = table[(table["raters"] == raters) & (table["regime"] == str(regime))]
            index = of_both["index"].dropna()
            if index.empty:
                missing.append(str(regime))
                continue
            q1, median, q3 = np.quantile(index, [0.25, 0.5, 0.75])
            found.append((raters, str(regime), len(index), median, q1, q3))
        if missing:
            left_out.append(LeftOut(f"Consistency between {_PLURAL[raters]}, {', '.join(missing)}", _reason(raters)))
    return pd.DataFrame(found, columns=["raters", "regime", "n_sources", "median", "q1", "q3"]), left_out


_PLURAL: Final = {"model": "models", "family": "families", "size": "size buckets"}


def _reason(raters: str) -> str:
    return (
        f"it takes a source cell on which two {_PLURAL[raters]} share {FEWEST_RECIPIENTS} recipients with more than "
        "one value; there is none."
    )
