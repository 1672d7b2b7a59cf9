"""Donor and recipient scores with intervals, which of them differ, and how far their ranks are known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.measures.levels import SIGNIFICANT
from analysis.measures.statistics import (
    BootstrapErrors,
    Replicates,
    errors,
    half_widths,
    replicate,
    scores,
    simultaneous,
)
from analysis.measures.transfer import of_regime
from analysis.published.roles import DONOR, RECIPIENT
from registry.cells import Regime
from registry.errors import Refused

__all__ = ["DRAWS", "PAIR_COLUMNS", "ROLE_COLUMNS", "distinguishable", "roles"]

Array = NDArray[np.float64]

DRAWS = 2_000

ROLE_COLUMNS = [
    "factor", "name", "role", "score", "se", "low", "high", "rank", "rank_low", "rank_high", "n_models", "n_partners",
    "note",
]  # fmt: skip
PAIR_COLUMNS = ["factor", "role", "one", "other", "difference", "low", "high", "p_adjusted"]

_REGIME: Final = {"language": Regime.MT_CL, "task": Regime.CT_ML}
_ENDS: Final = {DONOR: ("source", "target"), RECIPIENT: ("target", "source")}

# With fewer draws the limit of the largest of all deviations would be the largest that was drawn.
_FEWEST_DRAWS = 40

# Two scores closer than this many pp are equal but for rounding.
_EQUAL = 1e-9


class _Sums(NamedTuple):
    """Names in order, and sum and number of deltas as (models, names, partners)."""

    names: list[str]
    total: Array
    number: Array


def roles(cells: pd.DataFrame, *, draws: int = DRAWS, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score languages (MT-CL cells) and tasks (CT-ML cells) as donors and recipients, and compare them.

    Parameters
    ----------
    cells
        One row per (model, source, target), as `analysis.reading.observations.cells` gives it.
    draws, seed
        Of the bootstrap.

    Returns
    -------
    roles, pairs
        `ROLE_COLUMNS`: ``score`` in pp as published, ``se`` and a 95% interval by the two-way bootstrap of
        `analysis.measures.statistics`, ``rank`` (1 is the highest score) and its interval. `PAIR_COLUMNS`: every two
        names of one factor and role, ``difference`` (one − other, pp), its interval and p-value, both simultaneous
        over the pairs of that factor and role. Where there is no interval it is NaN, and the ``note`` says why.

    Raises
    ------
    Refused
        If there are too few draws.

    Notes
    -----
    Models and partners are treated as samples; tasks of a language, and languages of a task, as complete. Ranks follow
    from the simultaneous comparisons: a name ranks below all that are significantly better and above all that are
    significantly worse; with 95% confidence all the intervals hold at once (Mogstad, Romano, Shaikh and Wilhelm 2024).
    """
    if draws < _FEWEST_DRAWS:
        raise Refused(f"intervals take at least {_FEWEST_DRAWS} draws of the bootstrap, not {draws}")
    random = np.random.default_rng(seed)
    tables, pairs = [], []
    for factor, role, found in _parts(cells):
        table, compared = _compared(found, draws, random)
        tables.append(table.assign(factor=factor, role=role))
        pairs.append(compared.assign(factor=factor, role=role))
    if not tables:
        return pd.DataFrame(columns=ROLE_COLUMNS), pd.DataFrame(columns=PAIR_COLUMNS)
    stacked = pd.concat(tables, ignore_index=True).sort_values(["factor", "name", "role"], ignore_index=True)
    return stacked[ROLE_COLUMNS], pd.concat(pairs, ignore_index=True)[PAIR_COLUMNS]


def distinguishable(pairs: pd.DataFrame) -> pd.DataFrame:
    """Count the pairs of names that differ significantly.

    Returns
    -------
    DataFrame
        ``factor``, ``role``, ``n_pairs`` (that could be compared), ``n_different`` (adjusted p at or below 0.05) and
        ``share`` of them, between 0 and 1; NaN for no pair.
    """
    tested = pairs.dropna(subset="p_adjusted")
    counts = (
        tested.assign(different=tested["p_adjusted"] <= SIGNIFICANT)
        .groupby(["factor", "role"])["different"]
        .agg(n_pairs="size", n_different="sum", share="mean")
    )
    every = pd.MultiIndex.from_frame(pairs[["factor", "role"]].drop_duplicates())
    counts = counts.reindex(every).fillna({"n_pairs": 0, "n_different": 0})
    return counts.astype({"n_pairs": int, "n_different": int, "share": float}).reset_index()


def _parts(cells: pd.DataFrame) -> Iterator[tuple[str, str, _Sums]]:
    """Yield factor, role and sums wherever there is a cell."""
    for factor, regime in _REGIME.items():
        rows = of_regime(cells, regime)
        for role, (own, partner) in _ENDS.items():
            if len(rows):
                yield factor, role, _sums(rows, f"{own}_{factor}", f"{partner}_{factor}")


def _sums(rows: pd.DataFrame, own: str, partner: str) -> _Sums:
    """Add up the deltas by model, name and partner."""
    coded = [pd.factorize(rows[column].astype(str), sort=True) for column in ("model", own, partner)]
    shape = [len(levels) for _, levels in coded]
    flat = np.ravel_multi_index([codes for codes, _ in coded], shape)
    size = int(np.prod(shape))
    total = np.bincount(flat, weights=rows["delta"].to_numpy(dtype=np.float64), minlength=size).reshape(shape)
    number = np.bincount(flat, minlength=size).reshape(shape)
    return _Sums([str(name) for name in coded[1][1]], total.astype(np.float64), number.astype(np.float64))


def _compared(found: _Sums, draws: int, random: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of one factor and role, and those of its pairs."""
    score = scores(found.total, found.number)
    replicates = replicate(found.total, found.number, draws=draws, random=random)
    known = errors(replicates)
    half = half_widths(known)
    pairs = _pairs(found.names, score, replicates, random)
    rank, low, high = _ranks(score, known, pairs)
    table = pd.DataFrame({"name": found.names, "score": score, "se": known.se})
    table = table.assign(low=score - half, high=score + half, rank=rank, rank_low=low, rank_high=high)
    table = table.assign(n_models=replicates.n_models, n_partners=replicates.n_partners)
    facts = zip(replicates.n_models, replicates.n_partners, known.se == 0, strict=True)
    return table.assign(note=[_note(*of_name) for of_name in facts]), pairs


def _pairs(names: list[str], score: Array, replicates: Replicates, random: np.random.Generator) -> pd.DataFrame:
    """Compare every two names."""
    one, other = (places.astype(np.int64) for places in np.triu_indices(len(names), k=1))
    difference = score[one] - score[other]
    apart = replicates.differences(one, other)
    half, p = simultaneous(difference, apart, errors(apart), random)
    labels = np.array(names, dtype=object)
    table = pd.DataFrame({"one": labels[one], "other": labels[other], "difference": difference})
    return table.assign(low=difference - half, high=difference + half, p_adjusted=p)


def _ranks(score: Array, known: BootstrapErrors, pairs: pd.DataFrame) -> tuple[Array, Array, Array]:
    """Return ranks, equal scores sharing the better one, and the ends of their intervals."""
    higher = score[None, :] > score[:, None] + _EQUAL
    one, other = np.triu_indices(len(score), k=1)
    exceeded = np.zeros((len(score), len(score)), dtype=bool)  # row: is significantly exceeded by column
    exceeded[one, other] = (pairs["high"] < 0).to_numpy()
    exceeded[other, one] = (pairs["low"] > 0).to_numpy()
    low, high = 1.0 + exceeded.sum(axis=1), len(score) - 1.0 * exceeded.sum(axis=0)
    unknown = np.isnan(known.se)
    return 1.0 + higher.sum(axis=1), np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)


def _note(n_models: int, n_partners: int, alike: bool) -> str:
    """Say what an interval does not hold, or why there is none."""
    if n_partners < 2:
        return "one partner: no interval, as nothing shows how partners differ"
    if alike:
        return "all models and partners agree exactly: no interval"
    notes = []
    if n_models < 2:
        notes.append("one model: the interval is over partners and holds for this model only")
    elif n_models < 5:
        notes.append(f"only {n_models} models: the interval is wide because there are so few")
    if n_partners < 5:
        notes.append(f"only {n_partners} partners: the interval is wide because there are so few")
    return "; ".join(notes)
