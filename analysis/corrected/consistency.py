"""The Consistency Index beside its noise ceiling: what models that agree perfectly would score with noise like this.

Noise alone keeps the index below 1. The ceiling is that of a study in which all raters have one and the same true
profile, as spread out as theirs are beyond noise, and in which every delta errs as it does here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from analysis.measures.levels import TAILS
from analysis.measures.transfer import families, size_buckets
from analysis.published.consistency import consistency, summarise, tau_b
from analysis.reading.observations import DELTA_DECIMALS, cell_names
from registry.errors import Refused
from registry.tracking.columns import CELL_KEY, SOURCE

__all__ = ["COLUMNS", "CORRECTED", "DRAWS", "PUBLISHED", "ceiling_profile", "with_ceiling"]

Array = NDArray[np.float64]

COLUMNS = [
    "grouping", "regime", "layer", "median", "q1", "q3", "ceiling", "ceiling_low", "ceiling_high", "n_sources", "note",
]  # fmt: skip
PUBLISHED, CORRECTED = "published", "corrected"

#: Studies with identical profiles that are simulated.
DRAWS = 200

# Differences between rows, twice over, that one call of tau-b holds at once: what a processor's cache takes.
_NUMBERS_AT_ONCE = 400_000

_Row = dict[str, object]


class _Table(NamedTuple):
    """One source: deltas and variances of their noise, (targets, raters), NaN where nothing was measured.

    ``places`` are its targets' among all targets of the regime.
    """

    delta: Array
    variance: Array
    places: NDArray[np.int64]


def with_ceiling(
    cells: pd.DataFrame, noise: pd.DataFrame | float, *, shared: float | None = None, draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """Put the published index over source cells beside the ceiling that noise sets.

    Parameters
    ----------
    cells
        One row per (model, source, target), as `analysis.reading.observations.cells` gives it.
    noise
        Standard errors of the deltas in pp: a table with the key columns and ``se``, such as
        :func:`analysis.corrected.cells.measured_cells`, or one assumed for all.
    shared
        Share of that variance which the sources of one (model, target) have in common, c / v of
        :func:`analysis.corrected.noise.measured_noise`. It moves all sources' indices together and so widens the
        ceiling's range. By default it is assumed that all runs of a model err alike, the baseline being one run: it is
        then seeds / (seeds + 1).
    draws, seed
        Of the simulation.

    Returns
    -------
    DataFrame
        `COLUMNS`. Rows of the layer ``published`` have median and quartiles over source cells, as published; those of
        the layer ``corrected`` have beside them ``ceiling``, the mean over simulated studies of that median if all
        raters had one true profile, and the range of 95% of these. Groups without an index have no rows. Noise is
        taken as independent between targets and between models.

    Raises
    ------
    Refused
        If an assumed error is negative or not finite, or a share not between 0 and 1.
    """
    named, said = _with_noise(cells, noise)
    share, said_of_share = _share(cells, shared)
    assumed = "; ".join(filter(None, [said, said_of_share]))
    random, rows = np.random.default_rng(seed), list[_Row]()
    agreement = consistency(cells)
    summary, _ = summarise(agreement)
    groups = summary.rename(columns={"raters": "grouping"}).to_dict("records")
    for row in tqdm(groups, desc="consistency", unit="group", delay=2, leave=False, disable=None):
        of_both = (agreement["raters"] == row["grouping"]) & (agreement["regime"] == row["regime"])
        indexed = agreement[of_both].dropna(subset="index")
        tables = _tables(named, str(row["grouping"]), str(row["regime"]), indexed)
        found = _ceiling(tables, float(row["median"]), share, draws, random)
        note = "; ".join(filter(None, [str(found.pop("note")), assumed]))
        rows += [row | {"layer": PUBLISHED, "note": ""}, row | found | {"layer": CORRECTED, "note": note}]
    return pd.DataFrame(rows, columns=COLUMNS)


def _with_noise(cells: pd.DataFrame, noise: pd.DataFrame | float) -> tuple[pd.DataFrame, str]:
    """Return the cells with their raters, their targets and the ``variance`` of their noise (pp²); what is assumed."""
    named = cells.assign(family=families(cells), size=size_buckets(cells), target=cell_names(cells, "target"))
    if isinstance(noise, pd.DataFrame):
        errors = noise[CELL_KEY].assign(variance=noise["se"].astype(np.float64) ** 2)
        return named.merge(errors, on=CELL_KEY, how="left", validate="one_to_one"), ""
    if not (np.isfinite(noise) and noise >= 0):
        raise Refused(f"the assumed noise of a cell is a standard deviation in pp of 0 or more, not {noise}")
    return named.assign(variance=float(noise) ** 2), f"ASSUMED noise of {noise:g} pp per cell"


def _share(cells: pd.DataFrame, shared: float | None) -> tuple[float, str]:
    """Return the share of the noise that sources have in common, and what of it is assumed."""
    if shared is None:
        seeds = float(cells["n_seeds"].median())
        share = seeds / (seeds + 1)
        return share, f"{share:.0%} of the noise's variance ASSUMED common to all sources"
    if not 0 <= shared <= 1:
        raise Refused(f"the share of noise that sources have in common is between 0 and 1, not {shared}")
    return shared, ""


def _tables(named: pd.DataFrame, grouping: str, regime: str, indexed: pd.DataFrame) -> list[_Table]:
    """Return for every source that has an index its targets × raters, as the published index averages them.

    A source's recipients within a regime are its targets there. The variance of a mean is not known if that of any of
    its cells is not.
    """
    groups = named[named["regime"] == regime].groupby([*SOURCE, "target", grouping])
    size = groups["delta"].size()
    known = (groups["variance"].sum() / size**2).where(groups["variance"].count() == size)
    delta = groups["delta"].mean().round(DELTA_DECIMALS).unstack(grouping)
    variance = known.unstack(grouping).reindex_like(delta).to_numpy(dtype=np.float64)
    values, places = delta.to_numpy(dtype=np.float64), pd.factorize(delta.index.get_level_values("target"))[0]
    rows = delta.groupby(level=SOURCE).indices
    sources = zip(indexed["source_task"], indexed["source_language"], strict=True)
    return [_Table(values[of_source], variance[of_source], places[of_source]) for of_source in map(rows.get, sources)]


def _ceiling(tables: list[_Table], median: float, share: float, draws: int, random: np.random.Generator) -> _Row:
    """Return the ceiling and the note of one grouping and regime."""
    unknown = sum(int((np.isfinite(table.delta) & ~np.isfinite(table.variance)).sum()) for table in tables)
    if unknown:
        return {"note": f"no ceiling: the noise of {unknown:,} deltas of it is not known"}
    targets = 1 + max(int(table.places.max()) for table in tables)
    common = random.standard_normal((targets, draws, tables[0].delta.shape[1]))
    medians = np.median([_simulated(table, common[table.places], share, random) for table in tables], axis=0)
    low, high = (float(end) for end in np.quantile(medians, TAILS))
    ends: _Row = {"ceiling": float(medians.mean()), "ceiling_low": low, "ceiling_high": high}
    return ends | {"note": _verdict(median, low, high)}


def _verdict(median: float, low: float, high: float) -> str:
    """Say on which side of the ceiling's range the observed median is."""
    if median < low:
        return "below the ceiling: profiles differ by more than noise"
    if median <= high:
        return "at the ceiling: noise alone would explain the disagreement"
    return "above the ceiling: the noise may be overstated"


def ceiling_profile(delta: Array, variance: Array) -> Array:
    """Return the profile that all raters are made to share.

    It has the shape of the raters' mean profile, and the variance that single raters' profiles have beyond noise. The
    mean profile's own variance would not do: where raters disagree it is flat, and the ceiling would sink with the
    index.

    Parameters
    ----------
    delta, variance : (recipients, raters)
        Deltas (pp) and the variances of their noise (pp²), NaN where nothing was measured.

    Returns
    -------
    ndarray
        (recipients,), of mean 0; all 0 where the noise explains the whole variance.
    """
    there = np.isfinite(delta)
    counts = there.sum(axis=0)
    centred = np.where(there, delta - _mean(delta, there, axis=0), 0.0)
    several = counts > 1
    if not several.any():
        return np.zeros(len(delta))
    within = float(((centred**2).sum(axis=0)[several] / (counts[several] - 1)).mean())
    beyond = within - float(variance[:, several][there[:, several]].mean())
    shape = centred.sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    shape = shape - shape.mean()
    own = float(shape.var(ddof=1))
    return shape * np.sqrt(beyond / own) if beyond > 0 and own > 0 else np.zeros(len(delta))


def _mean(values: Array, there: NDArray[np.bool_], *, axis: int) -> Array:
    """Return means over what is there, 0 where nothing is."""
    sums = np.where(there, values, 0.0).sum(axis=axis, keepdims=True)
    return np.asarray(sums / np.maximum(there.sum(axis=axis, keepdims=True), 1), dtype=np.float64)


def _simulated(table: _Table, common: Array, share: float, random: np.random.Generator) -> Array:
    """Return the index of one source in studies where its raters share one profile, (draws,).

    ``common`` is the standardised noise that it has in common with other sources, (targets, draws, raters).
    """
    profile, sd = ceiling_profile(table.delta, table.variance), np.sqrt(table.variance)
    targets, draws, raters = common.shape
    noise = np.sqrt(share) * common + np.sqrt(1 - share) * random.standard_normal(common.shape)
    drawn = (profile[:, None, None] + sd[:, None] * noise).swapaxes(0, 1)
    first, second = np.triu_indices(raters, k=1)
    index, at_once = np.empty(draws), max(1, _NUMBERS_AT_ONCE // (targets**2 * raters))
    for start in range(0, draws, at_once):
        pairs = tau_b(drawn[start : start + at_once])[:, first, second]
        index[start : start + at_once] = _mean(pairs, np.isfinite(pairs), axis=1)[:, 0]
    return index
