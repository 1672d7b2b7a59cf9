"""Which runs' answers to single questions an analysis needs, where their files are, and whether they fit the scores."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from numpy.typing import NDArray

from analysis.measures.answers import RunKey
from analysis.measures.numerals import quantity
from analysis.reading.frame import Frame
from analysis.reading.imported import outcomes_of
from analysis.reading.packed import PackedAnswers
from analysis.reading.run_record import InconsistentRunError
from analysis.reading.runs import StoredRuns
from registry.cells import Cell
from registry.files.outputs import file_digest
from registry.tracking.columns import ANSWER_COLUMNS, CHECKED
from registry.tracking.names import Artifact, Tag, headlines_of, outcomes_file
from registry.tracking.outcomes import recorded_scores
from registry.tracking.recording import local_folder

__all__ = ["OutcomeRequest", "StoredTable", "outcome_requests", "refuse_other_answers"]

_BY_RUN = ["model", "source_task", "source_language", "seed", "run_id"]


@dataclass(frozen=True)
class OutcomeRequest:
    """A run whose answers are wanted.

    Attributes
    ----------
    key
        Whose they are; a base's own have neither source nor seed.
    run
        Names the file: the run, and of an import the artifact.
    targets
        Where they count; None is everywhere.
    weight
        Of a base's run: how many evaluations were measured against it.
    stamp
        Changes with the file, as far as that is known without reading it.
    watched
        Whether the stamp says all, as of a file on this machine; else it is looked at again now and then.
    headlines
        By task, the accuracy that is the score.
    scores
        By target, the recorded score, a proportion.
    read
        Gets the options' outcomes, or None where the run came without.
    place
        Where the file should be; empty where that is not known.
    """

    key: RunKey
    run: str
    targets: frozenset[Cell] | None
    weight: int
    stamp: str
    watched: bool
    headlines: Mapping[str, str]
    scores: Mapping[Cell, float]
    read: Callable[[], pa.Table | None]
    place: str = ""

    @property
    def counts(self) -> str:
        """What decides which option counts as chosen, as text."""
        return " ".join(f"{task}={name}" for task, name in sorted(self.headlines.items()))


def outcome_requests(client: MlflowClient, frame: Frame) -> list[OutcomeRequest]:
    """Return the runs whose answers a study's analysis needs: of its adapters, and of the bases compared with."""
    return list(_of_import(client, frame) if frame.runs is None else _of_runs(client, frame))


def _of_runs(client: MlflowClient, frame: Frame) -> Iterator[OutcomeRequest]:
    assert frame.runs is not None
    tags, folders, fallback = frame.runs.tags, frame.runs.folders, _headlines(frame.observations)
    measured: Counter[tuple[str, str]] = Counter()
    for run_id, key, scores in _adapters(frame.observations):
        file = _file(client, run_id, folders[run_id], tags[run_id])
        headlines, read = _chosen(frame, fallback, tags[run_id]), partial(file.read, ANSWER_COLUMNS)
        local = file.local is not None
        yield OutcomeRequest(key, run_id, frozenset(scores), 0, file.stamp, local, headlines, scores, read, file.place)
        measured[key.model, tags[run_id].get(Tag.BASELINE_RUN, "")] += 1
    for (model, run_id), weight in sorted(measured.items()):
        here = run_id in folders
        folder, of_run, recorded = _here(frame.runs, run_id) if here else _elsewhere(client, run_id)
        file = _file(client, run_id, folder, of_run)
        headlines, own = _chosen(frame, fallback, of_run), headlines_of(of_run)
        # A score of another accuracy than the study's cannot be held against the answers.
        scored = {
            cell: score
            for cell, score in recorded.items()
            if own.get(cell.task, headlines.get(cell.task)) == headlines.get(cell.task)
        }
        answers, place = (partial(file.read, ANSWER_COLUMNS), file.place) if folder else (_nothing, "")
        local = file.local is not None
        yield OutcomeRequest(RunKey(model), run_id, None, weight, file.stamp, local, headlines, scored, answers, place)


def _chosen(frame: Frame, fallback: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, str]:
    """Return the accuracy that is each task's score: the study's choice, else the run's own."""
    return {**fallback, **headlines_of(tags), **frame.headlines}


def _file(client: MlflowClient, run_id: str, folder: str, tags: Mapping[str, str]) -> StoredTable:
    return StoredTable(client, run_id, folder, Artifact.SCORING, tags.get(Tag.OUTCOMES_DIGEST, ""))


def _adapters(observations: pd.DataFrame) -> Iterator[tuple[str, RunKey, dict[Cell, float]]]:
    """Return each run with its adapter, and its scores on the targets for which it is the one that counts."""
    cell = cache(Cell)  # a few, named a hundred thousand times
    for (model, task, language, seed, run_id), rows in observations.groupby(_BY_RUN, sort=True):
        scores = zip(map(cell, rows["target_task"], rows["target_language"]), rows["score"], strict=True)
        yield run_id, RunKey(model, Cell(task, language), int(seed)), dict(scores)


def _headlines(observations: pd.DataFrame) -> dict[str, str]:
    """Return which accuracy the scores of each task are, for runs that do not say it."""
    normalised = (observations["score"] == observations["acc_norm"]).groupby(observations["target_task"]).all()
    return {str(task): "acc_norm" if every else "acc" for task, every in normalised.items()}


def _here(runs: StoredRuns, run_id: str) -> tuple[str, Mapping[str, str], Mapping[Cell, float]]:
    """Return where the artifacts of a baseline of the study are, its tags and its scores."""
    return runs.folders[run_id], runs.tags[run_id], runs.record(run_id).by_target("score")


def _elsewhere(client: MlflowClient, run_id: str) -> tuple[str, Mapping[str, str], Mapping[Cell, float]]:
    """Return where the artifacts are of a baseline that was recorded under another study, its tags and its scores."""
    try:
        run = client.get_run(run_id) if run_id else None
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        run = None  # of which the frame's notes tell
    if run is None:
        return "", {}, {}
    return str(run.info.artifact_uri), run.data.tags, recorded_scores(run)


def _nothing() -> None:
    return None


def _of_import(client: MlflowClient, frame: Frame) -> Iterator[OutcomeRequest]:
    run_id = str(frame.observations["run_id"].iloc[0])
    headlines = _headlines(frame.observations) | dict(frame.headlines)
    held = Artifact.OUTCOMES in {file.path for file in client.list_artifacts(run_id)}
    models: Counter[str] = Counter()
    for _, key, scores in _adapters(frame.observations):
        read = partial(_imported, client, run_id, key) if held else _nothing
        yield OutcomeRequest(key, _name(run_id, key), frozenset(scores), 0, "", False, headlines, scores, read)
        models[key.model] += 1
    for model, weight in sorted(models.items()):
        read = partial(_imported, client, run_id, RunKey(model)) if held else _nothing
        yield OutcomeRequest(RunKey(model), _name(run_id, RunKey(model)), None, weight, "", False, headlines, {}, read)


def _name(run_id: str, key: RunKey) -> str:
    return f"{run_id}/{outcomes_file(key.model, key.source, key.seed)}"


def _imported(client: MlflowClient, run_id: str, key: RunKey) -> pa.Table | None:
    found = outcomes_of(client, run_id, key.model, key.source, key.seed)
    return None if found is None else pa.Table.from_pandas(found, preserve_index=False)


# --- files of many runs, without a request for each run


@dataclass(frozen=True)
class StoredTable:
    """A Parquet file among the artifacts of a run.

    Parameters
    ----------
    folder
        Where the run's artifacts are: its ``artifact_uri``.
    digest
        SHA-256 that the run recorded of the file; empty where it recorded none.
    """

    client: MlflowClient
    run_id: str
    folder: str
    name: str
    digest: str = ""

    @property
    def local(self) -> Path | None:
        """The file itself, where artifacts are kept on this machine's disk."""
        folder = local_folder(self.folder)
        return None if folder is None else folder / self.name

    @property
    def place(self) -> str:
        """Where it is, as a path or an address."""
        return str(self.local) if self.local is not None else f"{self.folder}/{self.name}"

    @property
    def stamp(self) -> str:
        """What changes when the file does, or what its run says of it; of a server's file the latter alone."""
        if self.local is None or not self.local.is_file():
            return self.digest
        about = self.local.stat()
        # The time of the last change of its status cannot be set: who swaps a file may keep its size and its age.
        return f"{about.st_size} {about.st_mtime_ns} {about.st_ctime_ns} {self.digest}"

    def read(self, columns: Sequence[str]) -> pa.Table | None:
        """Return some of its columns, or None if the run has no such file.

        Raises
        ------
        InconsistentRunError
            If it is not the file that was recorded, or no Parquet file with these columns.
        """
        if self.local is not None:
            return self._table(self.local, columns) if self.local.is_file() else None
        with tempfile.TemporaryDirectory() as name:
            try:
                path = mlflow.artifacts.download_artifacts(
                    artifact_uri=f"{self.folder}/{self.name}", dst_path=name, tracking_uri=self.client.tracking_uri
                )
            except (MlflowException, OSError):
                # What stores raise for a file that is not there differs; so they are asked whether it is.
                if self.name in {file.path for file in self.client.list_artifacts(self.run_id)}:
                    raise
                return None
            return self._table(Path(path), columns)

    def _table(self, path: Path, columns: Sequence[str]) -> pa.Table:
        if self.digest and file_digest(path) != self.digest:
            raise InconsistentRunError(
                f"run {self.run_id}: its artifact {self.name} is not the file that was recorded (another SHA-256); put "
                "it back from a backup of the artifacts"
            )
        try:
            with path.open("rb") as file:
                return pq.read_table(file, columns=list(columns), use_threads=False, **CHECKED)
        except (OSError, pa.ArrowException) as error:  # of a broken page it is an OSError
            raise InconsistentRunError(
                f"run {self.run_id}: its artifact {self.place} cannot be read ({error}); put it back from a backup of "
                "the artifacts"
            ) from None


# --- whether the answers give the recorded scores


#: Largest difference between a recorded score, a proportion, and the answers' that rounding may explain.
_TOLERANCE = 1e-6
_LISTED = 5


def refuse_other_answers(
    study: str, read: Iterable[tuple[OutcomeRequest, PackedAnswers | None]], test_sets: Mapping[str, pa.Table]
) -> None:
    """Raise if the answers of any run give another score than it recorded.

    That holds for answers that were kept on this machine, too, and for runs that recorded no digest of their file.

    Raises
    ------
    InconsistentRunError
        With the runs, and what differs.
    """
    layouts = {name: _Layout(table) for name, table in test_sets.items()}
    faults = []
    for one, packed in read:
        if packed is None:
            continue
        fault = next(_faults(one, layouts[packed.test_set].shares(packed)), "")
        if fault:
            faults.append(f"run {one.run}: {fault}")
    if not faults:
        return
    listed = "; ".join(faults[:_LISTED]) + (f"; and {len(faults) - _LISTED} more" if len(faults) > _LISTED else "")
    raise InconsistentRunError(
        f"study {study}: the answers of {quantity(len(faults), 'run')} are not those that were scored: {listed}.\n"
        "Put outcomes.parquet of these runs back from a backup of the artifacts, or analyse without any answers: "
        "-P corrected=false"
    )


def _faults(one: OutcomeRequest, shares: Mapping[Cell, float]) -> Iterator[str]:
    for target in sorted(one.scores if one.targets is None else one.targets):
        recorded = one.scores.get(target, np.nan)
        if np.isnan(recorded):
            continue
        if target not in shares:
            yield f"no answer on {target}"
        elif not abs(shares[target] - recorded) <= _TOLERANCE:
            yield f"score {shares[target]:.6g} on {target}, recorded {recorded:.6g}"


class _Layout:
    """Which target each question of a test set belongs to."""

    def __init__(self, table: pa.Table) -> None:
        grouped = table.select(["task", "language"]).to_pandas().groupby(["task", "language"], sort=False)
        self._codes: NDArray[np.intp] = grouped.ngroup().to_numpy()
        self._targets: Sequence[Cell] = tuple(Cell(*map(str, names)) for names in grouped.groups)
        self._counts = np.bincount(self._codes, minlength=len(self._targets))

    def shares(self, packed: PackedAnswers) -> dict[Cell, float]:
        """Return the share of right answers by target."""
        right = np.bincount(self._codes, weights=packed.correct(len(self._codes)), minlength=len(self._targets))
        return dict(zip(self._targets, (right / self._counts).tolist(), strict=True))
