"""What was observed: one row per (model, source, target, seed), and its average over seeds, the cell.

Pure pandas; the tracking server is read in `analysis.reading.frame`.
"""

from __future__ import annotations

import pandas as pd

from analysis.measures.numerals import counted
from registry.tracking.columns import AVERAGED_COLUMNS, CELL_KEY, OBSERVATION_COLUMNS, SOURCE, TARGET

__all__ = ["DELTA_DECIMALS", "cell_names", "cells", "coverage_notes", "newest"]

#: Decimals of a cell's delta in pp: far below any true difference, far above rounding of binary fractions.
DELTA_DECIMALS = 9

_LISTED = 5  # how many run ids a note spells out


def newest(recorded: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Keep the newest record of every (model, source, target, seed) and say what that dropped.

    Parameters
    ----------
    recorded
        The observation columns and, besides, ``started`` (milliseconds since the epoch) and ``fingerprint``.

    Returns
    -------
    observations, notes
        One sorted row per (model, source, target, seed), with `OBSERVATION_COLUMNS`; a sentence per kind of repetition.
    """
    key = [*CELL_KEY, "seed"]
    by_age = recorded.sort_values([*key, "started", "run_id"], kind="stable").reset_index(drop=True)
    superseded = by_age.duplicated(key, keep="last")
    kept = by_age[~superseded]
    return kept[OBSERVATION_COLUMNS].reset_index(drop=True), _repetition_notes(by_age[superseded], kept, key)


def cell_names(rows: pd.DataFrame, end: str) -> pd.Series:
    """Return the ``source`` or ``target`` cells of rows as ``task/language``."""
    return rows[f"{end}_task"].astype(str) + "/" + rows[f"{end}_language"].astype(str)


def _repetition_notes(superseded: pd.DataFrame, kept: pd.DataFrame, key: list[str]) -> list[str]:
    """Say which runs gave way to a newer one; of runs of one fingerprint none does, see `analysis.reading.counted`."""
    if superseded.empty:
        return []
    pairs = superseded.merge(kept[[*key, "run_id"]], on=key, suffixes=("", "_kept"))
    return [
        f"What {_runs(pairs['run_id'])} measured was measured again by {_runs(pairs['run_id_kept'])}, and only the "
        "newest counts. The fingerprints differ: another recipe, other data or another version of the code."
    ]


def _runs(ids: pd.Series) -> str:
    """Name runs: how many, and the first few ids."""
    names = sorted(set(ids))
    listed = ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
    return f"{counted(len(names), 'evaluation run')} ({listed})"


def cells(observations: pd.DataFrame) -> pd.DataFrame:
    """Average the observations over seeds: one row per (model, source, target).

    Returns
    -------
    DataFrame
        The key columns, ``regime``, ``model_family``, ``model_size_b``; means of ``score``, ``acc``, ``acc_norm``,
        ``baseline`` (proportions) and ``delta`` (pp, to a billionth); ``delta_sd``, the standard deviation of delta
        over seeds (ddof 1, NaN for a single seed); ``n_seeds``. Observations that were averaged before their import
        keep the delta, deviation and number of seeds that they came with.
    """
    averaged = set(AVERAGED_COLUMNS) <= set(observations.columns)
    by_cell = observations.groupby(CELL_KEY, sort=True)
    table = by_cell.agg(
        regime=("regime", "first"),
        model_family=("model_family", "first"),
        model_size_b=("model_size_b", "first"),
        score=("score", "mean"),
        acc=("acc", "mean"),
        acc_norm=("acc_norm", "mean"),
        baseline=("baseline", "mean"),
        delta=("delta", "mean"),
        delta_sd=("delta_sd", "first") if averaged else ("delta", "std"),
        n_seeds=("n_seeds", "first") if averaged else ("seed", "nunique"),
    ).reset_index()
    # Scores are counts over a few hundred items, so means of exactly 0 or -1 pp are common, and binary fractions miss
    # them by 1e-15 to either side. Unrounded, that decides whether such a cell is "positive" or "harmed". An average
    # made elsewhere stays as it is: figures published with it are defined on those very numbers.
    if not averaged:
        table["delta"] = table["delta"].round(DELTA_DECIMALS)
    return table


def coverage_notes(observations: pd.DataFrame) -> list[str]:
    """Say where the grid is not the full crossing of models, sources, targets and seeds, and where protocols mix."""
    notes = []
    protocols = observations.groupby("protocol")["run_id"].nunique()
    if len(protocols) > 1:
        counts = ", ".join(f"{name} ({count} adapters)" for name, count in protocols.items())
        notes.append(f"The study holds several protocols, and every mean mixes them: {counts}.")
    notes += _gap_notes(observations)
    return notes


def _gap_notes(observations: pd.DataFrame) -> list[str]:
    """Count absent model × source × target cells, and cells with fewer seeds than others."""
    seeds = cells(observations)["n_seeds"]
    full = (
        observations["model"].nunique()
        * len(observations[SOURCE].drop_duplicates())
        * len(observations[TARGET].drop_duplicates())
    )
    notes = []
    if len(seeds) < full:
        notes.append(
            f"The grid is not complete: {len(seeds):,} of {full:,} model × source × target cells are there, and means "
            "are over those."
        )
    if seeds.min() < seeds.max():
        notes.append(
            f"{int((seeds < seeds.max()).sum()):,} of {len(seeds):,} cells average fewer than {seeds.max()} seeds."
        )
    return notes
