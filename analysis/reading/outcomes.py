"""The answers to single questions of a study's runs: read from their artifacts once, and kept as bits."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from mlflow import MlflowClient
from numpy.typing import NDArray
from tqdm import tqdm

from analysis.measures.answers import RunKey, StudyOutcomes, collect, paired
from analysis.measures.numerals import quantity
from analysis.reading.cache import cache_folder
from analysis.reading.frame import Frame
from analysis.reading.outcome_files import OutcomeRequest, outcome_requests, refuse_other_answers
from analysis.reading.packed import PackedAnswers, PackedCache, pack
from analysis.reading.run_record import InconsistentRunError
from registry.cells import Cell

__all__ = ["RunAnswers", "StoredOutcomes", "stored_outcomes", "study_outcomes"]

_THREADS = 4
_AGAIN = 16  # files on a server that an analysis reads again though it has kept them
_LISTED = 5  # how many runs or models a note spells out


@dataclass(frozen=True, slots=True)
class RunAnswers:
    """Which questions a run answered correctly, and the targets for which it counts (None: all)."""

    key: RunKey
    run: str
    targets: frozenset[Cell] | None
    packed: PackedAnswers


@dataclass(frozen=True)
class StoredOutcomes:
    """Which questions the runs of a study answered correctly.

    Iterating gives what `analysis.measures.answers.collect` takes, a key and a frame at a time. The frame has one row
    per question, of its chosen option: ``task``, ``language``, ``question``, ``right``, ``chosen``, ``chosen_norm``.

    Attributes
    ----------
    runs
        Adapters and the bases they are compared with.
    test_sets
        By digest, the questions in their order: ``task``, ``language``, ``question``.
    notes
        What a reader must know: runs without outcomes, bases that were scored several times.
    lacking
        Files that evaluations and baselines were recorded with and that cannot be read now, each with the reason.
    """

    runs: tuple[RunAnswers, ...]
    test_sets: Mapping[str, pa.Table]
    notes: tuple[str, ...]
    lacking: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[tuple[RunKey, pd.DataFrame]]:
        questions = {name: _Questions(table) for name, table in self.test_sets.items()}
        for run in self.runs:
            yield run.key, questions[run.packed.test_set].frame(run)

    @property
    def headlines(self) -> dict[str, str]:
        """By task, ``acc``, for `collect`: what is right here is so by the headline score, whichever that is."""
        tasks = {task for table in self.test_sets.values() for task in table["task"].unique().to_pylist()}
        return dict.fromkeys(sorted(tasks), "acc")


class _Questions:
    """The questions of a test set, and where each target's are."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table.to_pandas().astype({"task": "category", "language": "category"})
        by_target = self._table.groupby(["task", "language"], observed=True).indices
        self._places = {Cell(*names): places for names, places in by_target.items()}

    def frame(self, run: RunAnswers) -> pd.DataFrame:
        """Return the outcomes of a run on the targets for which it counts."""
        table, right = self._table, run.packed.correct(len(self._table))
        if run.targets is not None and not run.targets >= set(self._places):
            counting = [self._places[cell] for cell in run.targets if cell in self._places]
            places = np.sort(np.concatenate([np.empty(0, np.intp), *counting]))
            table, right = table.iloc[places], right[places]
        return table.assign(right=right, chosen=True, chosen_norm=True)


def stored_outcomes(
    client: MlflowClient, frame: Frame, *, cache: Path | None = None, tolerant: bool = False
) -> StoredOutcomes:
    """Read the outcomes of every run that counts in a study's frame, and of the bases they are compared with.

    A base that has none takes those of its adapters with it, as there is nothing to compare them with.

    Parameters
    ----------
    cache
        Folder that keeps what was read, as for `analysis.reading.frame.load`.
    tolerant
        Whether a file that is no table of outcomes counts as lacking.

    Raises
    ------
    InconsistentRunError
        If a run's outcomes are not those that it recorded or was scored by, or not one right and one chosen option per
        question, unless that is tolerated.
    """
    experiment = None if cache is None else client.get_experiment_by_name(frame.study)
    folder = None
    if cache is not None and experiment is not None:
        folder = cache_folder(cache, client.tracking_uri, str(experiment.experiment_id))
    kept, wanted = PackedCache(folder), outcome_requests(client, frame)
    faults: dict[str, str] = {}
    found = _read(wanted, kept, faults if tolerant else None)
    refuse_other_answers(frame.study, found, kept.test_sets)
    runs, notes = _compared(found)
    test_sets = {run.packed.test_set: kept.test_sets[run.packed.test_set] for run in runs}
    # An import may come without outcomes; what was run here has them.
    lost = [one for one, packed in found if packed is None] if frame.runs is not None else []
    lacking = [f"{one.place or 'run ' + one.run}: {faults.get(one.run, 'not there')}" for one in lost]
    return StoredOutcomes(tuple(runs), test_sets, tuple(notes), tuple(lacking))


def _read(
    wanted: Sequence[OutcomeRequest], kept: PackedCache, faults: dict[str, str] | None
) -> list[tuple[OutcomeRequest, PackedAnswers | None]]:
    """Return each run's packed outcomes, from the cache or, several at once, from the server.

    A server does not say when a file was swapped. So those that were not looked at for longest are read again each
    time, and if one is another, all are: a swap stays unseen for as many analyses as there are such portions at most.

    Parameters
    ----------
    faults
        Takes why a run's file cannot be used; None raises it.
    """
    found = {one.run: kept.find(one.run, one.stamp, one.counts) for one in wanted}
    kept.prune(found)
    try:
        unwatched = [one for one in wanted if not one.watched and found[one.run] is not None]
        again = sorted(unwatched, key=lambda one: (kept.checked(one.run), one.run))[:_AGAIN]
        before = {one.run: found[one.run] for one in again}
        _fetch([one for one in wanted if found[one.run] is None or one.run in before], found, kept, faults)
        if any(found[run] != packed for run, packed in before.items()):
            _fetch([one for one in unwatched if one.run not in before], found, kept, faults)
    finally:
        kept.save()
    return [(one, found[one.run]) for one in wanted]


def _fetch(
    absent: Sequence[OutcomeRequest],
    found: dict[str, PackedAnswers | None],
    kept: PackedCache,
    faults: dict[str, str] | None,
) -> None:
    """Read some runs from their files, into ``found`` and the cache."""

    def packed(one: OutcomeRequest) -> tuple[PackedAnswers, pa.Table] | None:
        try:
            return _packed(one)
        except InconsistentRunError as error:
            if faults is None:
                raise
            faults[one.run] = str(error)
            return None

    with (
        tqdm(desc="reading outcomes", total=len(absent), unit=" runs", file=sys.stderr, delay=2, leave=False) as bar,
        ThreadPoolExecutor(_THREADS) as threads,
    ):
        try:
            for one, read in zip(absent, threads.map(packed, absent), strict=True):
                bar.update()
                found[one.run] = None if read is None else read[0]
                if read is not None:
                    kept.add(one.run, one.stamp, one.counts, *read)
        finally:
            threads.shutdown(cancel_futures=True)


def _packed(one: OutcomeRequest) -> tuple[PackedAnswers, pa.Table] | None:
    options = one.read()
    return None if options is None else pack(f"run {one.run}", options, one.headlines)


def _compared(found: Sequence[tuple[OutcomeRequest, PackedAnswers | None]]) -> tuple[list[RunAnswers], list[str]]:
    """Keep the runs that can be compared, one base for each model, and say what is left out."""
    there = [(one, packed) for one, packed in found if packed is not None]
    lacking = [one.run for one, packed in found if packed is None and one.key.source is not None]
    bases: dict[str, list[tuple[OutcomeRequest, PackedAnswers]]] = {}
    for one, packed in there:
        if one.key.source is None:
            bases.setdefault(one.key.model, []).append((one, packed))
    notes = [_without(lacking)] if lacking else []
    models = {one.key.model for one, _ in there}
    if baseless := sorted(models - set(bases)):
        notes.append(f"The baseline of {_names(baseless)} has no outcomes: single questions of it cannot be compared.")
    runs = [_answered(*pair) for pair in there if pair[0].key.source is not None and pair[0].key.model in bases]
    for model, scored in sorted(bases.items()):
        most, packed = max(scored, key=lambda pair: (pair[0].weight, pair[0].run))
        if any(other != packed for _, other in scored):
            notes.append(
                f"{model} has {len(scored)} baselines with different answers. Single questions are compared with those "
                f"of run {most.run}, against which most of its evaluations were measured."
            )
        runs.append(_answered(most, packed))
    return runs, notes


def _answered(one: OutcomeRequest, packed: PackedAnswers) -> RunAnswers:
    return RunAnswers(one.key, one.run, one.targets, packed)


def _without(runs: Sequence[str]) -> str:
    have = "has" if len(runs) == 1 else "have"
    return f"{quantity(len(runs), 'evaluation')} {have} no outcomes of single questions ({_names(runs)})."


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")


# --- stored answers as what a study answered, block by block


Correct = NDArray[np.bool_]


def study_outcomes(stored: StoredOutcomes) -> StudyOutcomes:
    """Return what :func:`analysis.measures.answers.collect` makes of stored outcomes.

    Runs that answered one and the same test set, as those of a study do, need no alignment by question: for 1,200 of
    them that takes a third of a second in place of half a minute.
    """
    keys = [run.key for run in stored.runs]
    if len(stored.test_sets) != 1 or len(set(keys)) < len(keys):
        return collect(stored, stored.headlines)
    (table,) = stored.test_sets.values()
    places, questions = _targets(table)
    correct: dict[tuple[str, Cell], dict[RunKey, Correct]] = {}
    for run in stored.runs:
        for target, answers in _by_target(run, places, len(table)):
            correct.setdefault((run.key.model, target), {})[run.key] = answers
    return paired(correct, questions)


def _targets(table: pa.Table) -> tuple[dict[Cell, NDArray[np.intp]], dict[Cell, pd.Index]]:
    """Return where each target's questions are, and their ids."""
    frame = table.to_pandas()
    found = {Cell(*map(str, names)): at for names, at in frame.groupby(["task", "language"]).indices.items()}
    return found, {target: pd.Index(frame["question"].to_numpy()[at]) for target, at in found.items()}


def _by_target(run: RunAnswers, places: Mapping[Cell, NDArray[np.intp]], count: int) -> Iterator[tuple[Cell, Correct]]:
    answers = run.packed.correct(count)
    for target, at in places.items():
        if run.targets is None or target in run.targets:
            yield target, answers[at]
