"""Observations, one row per (model, source, target, seed), their averages over seeds (cells), and notes on them.

Pure pandas; the tracking server is read in `analysis.reading.frame`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit, urlunsplit

import pandas as pd

from analysis.measures.numerals import quantity
from analysis.reading.run_record import RunRecord
from registry.cells import Regime, parse_cells
from registry.tracking.columns import ADAPTER, AVERAGED_COLUMNS, CELL_KEY, OBSERVATION_COLUMNS, SOURCE, TARGET
from registry.tracking.duplicates import by_age
from registry.tracking.names import Tag

__all__ = [
    "ADAPTER_COLUMNS", "DELTA_DECIMALS", "StudyOrigin", "adapters", "cell_names", "cells", "copy_cautions",
    "copy_notes", "coverage_notes", "cut_cautions", "cut_notes", "newest",
]  # fmt: skip

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
    order = by_age(dict(zip(recorded["run_id"], recorded["started"], strict=True)))
    ranked = recorded.assign(age=recorded["run_id"].map({run_id: age for age, run_id in enumerate(order)}))
    ranked = ranked.sort_values([*key, "age"], kind="stable").reset_index(drop=True)
    superseded = ranked.duplicated(key, keep="last")
    kept = ranked[~superseded]
    return kept[OBSERVATION_COLUMNS].reset_index(drop=True), _repetition_notes(ranked[superseded], kept, key)


def cell_names(rows: pd.DataFrame, end: str) -> pd.Series:
    """Return the ``source`` or ``target`` cells of rows as ``task/language``."""
    return rows[f"{end}_task"].astype(str) + "/" + rows[f"{end}_language"].astype(str)


def _repetition_notes(superseded: pd.DataFrame, kept: pd.DataFrame, key: list[str]) -> list[str]:
    """Say which runs gave way to a newer one; of runs of one fingerprint none does, see `analysis.reading.runs`."""
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
    return f"{quantity(len(names), 'evaluation run')} ({listed})"


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


# --- notes on cells that were copies of one another


_PREFIX = "Copies: "

_MEANING = {
    Tag.COPIED_SOURCES: "have the same training items, so adapters of one are adapters of the other",
    Tag.COPIED_TARGETS: "have the same test items, so every result on them counts once for each",
}


def copy_notes(tags: Iterable[Mapping[str, str]]) -> list[str]:
    """Return a sentence for every group of cells that the tags of runs name as copies."""
    groups = {(tag, group): None for of_run in tags for tag in _MEANING for group in of_run.get(tag, "").split()}
    return [f"{_PREFIX}{', '.join(group.split('='))} {_MEANING[tag]}." for tag, group in groups]


def copy_cautions(notes: Iterable[str]) -> list[tuple[str, str]]:
    """Return the notes on copies as cautions of the report: a title and a sentence each."""
    return [("Cells that are copies", note.removeprefix(_PREFIX)) for note in notes if note.startswith(_PREFIX)]


# --- notes on questions that were longer than the base model's context


_CUT_PREFIX = "Cut questions: "
_NAMED = 5


def cut_notes(baselines: Iterable[RunRecord]) -> list[str]:
    """Return a sentence for every base model of which questions were scored without their left side."""
    by_model = {record.tags.get(Tag.BASE_MODEL, ""): parse_cells(record.tags.get(Tag.CUT, "")) for record in baselines}
    notes = []
    for model, cut in sorted(by_model.items()):
        if cut:
            cells = ", ".join(f"{count:.0f} of {cell}" for cell, count in list(cut.items())[:_NAMED])
            more = f", and of {quantity(len(cut) - _NAMED, 'other target')}" if len(cut) > _NAMED else ""
            notes.append(
                f"{_CUT_PREFIX}questions longer than {model} reads were scored without their left side: {cells}{more}."
            )
    return notes


def cut_cautions(notes: Iterable[str]) -> list[tuple[str, str]]:
    """Return these notes as cautions of the report: a title and a sentence each."""
    found = [note.removeprefix(_CUT_PREFIX) for note in notes if note.startswith(_CUT_PREFIX)]
    return [("Questions that were cut", note[0].upper() + note[1:]) for note in found]


# --- the adapters of a study, with their runs and model versions


_KEY = [*ADAPTER, "seed"]
ADAPTER_COLUMNS = [*_KEY, "n_targets", "mt_ml", "transfer_mean", "run_id", "model_version", "run_url", "model_url"]


@dataclass(frozen=True)
class StudyOrigin:
    """The experiment a study was read from.

    Attributes
    ----------
    store
        Address of the tracking server.
    experiment
        Id of the experiment in it; empty where it is not known.
    recipe
        How the adapters were trained, by parameter; what differs between runs has all its values.
    """

    store: str = ""
    experiment: str = ""
    recipe: Mapping[str, str] = field(default_factory=dict)

    @property
    def page(self) -> str:
        """Address of the server's pages without any user name; empty unless it is a web server's."""
        parts = urlsplit(self.store)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return ""
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")).rstrip("/")

    def experiment_url(self) -> str:
        """Return the address of the experiment's table of runs, empty if there is none."""
        return f"{self.page}/#/experiments/{quote(self.experiment, safe='')}/runs" if self._linked else ""

    def run_url(self, run_id: str) -> str:
        """Return the address of a run, empty if there is none."""
        if not self._linked or not run_id:
            return ""
        return f"{self.page}/#/experiments/{quote(self.experiment, safe='')}/runs/{quote(run_id, safe='')}"

    def model_url(self, model_version: str) -> str:
        """Return the address of a registered model's version, given as ``name/version``; empty if there is none."""
        name, _, version = model_version.rpartition("/")
        if not self.page or not name:
            return ""
        return f"{self.page}/#/models/{quote(name, safe='')}/versions/{quote(version, safe='')}"

    @property
    def _linked(self) -> bool:
        return bool(self.page and self.experiment)


def adapters(observations: pd.DataFrame, origin: StudyOrigin) -> pd.DataFrame:
    """List every adapter with the run that evaluated it and its registered version.

    Returns
    -------
    DataFrame
        `ADAPTER_COLUMNS`, one row per (model, source, seed): ``n_targets``, its delta on its own cell and its mean
        delta over transfer targets (pp), ids, and addresses where the store has pages. An adapter whose targets were
        evaluated in several runs has those ids, separated by spaces, and the address of the first.
    """
    grouped = observations.groupby(_KEY, sort=True)
    own = observations["regime"] == str(Regime.MT_ML)
    table = grouped.agg(
        n_targets=("delta", "size"),
        run_id=("run_id", lambda ids: " ".join(dict.fromkeys(map(str, ids)))),
        model_version=("model_version", "first"),
    )
    table["mt_ml"] = observations[own].groupby(_KEY)["delta"].mean()
    table["transfer_mean"] = observations[~own].groupby(_KEY)["delta"].mean()
    table["run_url"] = [origin.run_url(ids.split(" ")[0]) for ids in table["run_id"]]
    table["model_url"] = [origin.model_url(str(version)) for version in table["model_version"]]
    return table.reset_index()[ADAPTER_COLUMNS]
