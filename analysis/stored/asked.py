"""Whose answers to single questions are wanted, and where they are: of each observation the run that counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial

import pandas as pd
import pyarrow as pa
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from analysis.corrected.outcomes import RunKey
from analysis.frame import Frame
from analysis.imported import outcomes_of
from analysis.stored.artifacts import StoredTable
from analysis.stored.packed import COLUMNS
from registry.cells import Cell
from registry.tracking.names import Artifact, Tag, headlines_of, outcomes_file

__all__ = ["Asked", "asked"]

_BY_RUN = ["model", "source_task", "source_language", "seed", "run_id"]


@dataclass(frozen=True)
class Asked:
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
        Changes with the file, as far as that can be told without reading it.
    headlines
        By task, the accuracy that is the score.
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
    headlines: Mapping[str, str]
    read: Callable[[], pa.Table | None]
    place: str = ""

    @property
    def counts(self) -> str:
        """What decides which option counts as chosen, as text."""
        return " ".join(f"{task}={name}" for task, name in sorted(self.headlines.items()))


def asked(client: MlflowClient, frame: Frame) -> list[Asked]:
    """Return the runs whose answers a study's analysis needs: of its adapters, and of the bases compared with."""
    return list(_of_import(client, frame) if frame.runs is None else _of_runs(client, frame))


def _of_runs(client: MlflowClient, frame: Frame) -> Iterator[Asked]:
    assert frame.runs is not None
    tags, folders, fallback = frame.runs.tags, frame.runs.folders, _headlines(frame.observations)
    measured: Counter[tuple[str, str]] = Counter()
    for run_id, key, targets in _adapters(frame.observations):
        file = StoredTable(client, run_id, folders[run_id], Artifact.SCORING)
        headlines = fallback | headlines_of(tags[run_id]) | dict(frame.headlines)
        yield Asked(key, run_id, targets, 0, file.stamp, headlines, partial(file.read, COLUMNS), file.place)
        measured[key.model, tags[run_id].get(Tag.BASELINE_RUN, "")] += 1
    for (model, run_id), weight in sorted(measured.items()):
        folder = folders.get(run_id) or _elsewhere(client, run_id)
        file = StoredTable(client, run_id, folder or "", Artifact.SCORING)
        headlines = fallback | headlines_of(tags.get(run_id, {})) | dict(frame.headlines)
        read = partial(file.read, COLUMNS) if folder else _nothing
        yield Asked(RunKey(model), run_id, None, weight, file.stamp, headlines, read, file.place if folder else "")


def _adapters(observations: pd.DataFrame) -> Iterator[tuple[str, RunKey, frozenset[Cell]]]:
    """Return each run with its adapter and the targets for which it is the one that counts."""
    cell = cache(Cell)  # a few, named a hundred thousand times
    for (model, task, language, seed, run_id), rows in observations.groupby(_BY_RUN, sort=True):
        targets = frozenset(map(cell, rows["target_task"], rows["target_language"]))
        yield run_id, RunKey(model, Cell(task, language), int(seed)), targets


def _headlines(observations: pd.DataFrame) -> dict[str, str]:
    """Return which accuracy the scores of each task are, for runs that do not say it."""
    normalised = (observations["score"] == observations["acc_norm"]).groupby(observations["target_task"]).all()
    return {str(task): "acc_norm" if every else "acc" for task, every in normalised.items()}


def _elsewhere(client: MlflowClient, run_id: str) -> str | None:
    """Return where the artifacts are of a baseline that was recorded under another study."""
    try:
        return str(client.get_run(run_id).info.artifact_uri) if run_id else None
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        return None  # of which the frame's notes tell


def _nothing() -> None:
    return None


def _of_import(client: MlflowClient, frame: Frame) -> Iterator[Asked]:
    run_id = str(frame.observations["run_id"].iloc[0])
    headlines = _headlines(frame.observations) | dict(frame.headlines)
    held = Artifact.OUTCOMES in {file.path for file in client.list_artifacts(run_id)}
    models: Counter[str] = Counter()
    for _, key, targets in _adapters(frame.observations):
        read = partial(_imported, client, run_id, key) if held else _nothing
        yield Asked(key, _name(run_id, key), targets, 0, "", headlines, read)
        models[key.model] += 1
    for model, weight in sorted(models.items()):
        read = partial(_imported, client, run_id, RunKey(model)) if held else _nothing
        yield Asked(RunKey(model), _name(run_id, RunKey(model)), None, weight, "", headlines, read)


def _name(run_id: str, key: RunKey) -> str:
    return f"{run_id}/{outcomes_file(key.model, key.source, key.seed)}"


def _imported(client: MlflowClient, run_id: str, key: RunKey) -> pa.Table | None:
    found = outcomes_of(client, run_id, key.model, key.source, key.seed)
    return None if found is None else pa.Table.from_pandas(found, preserve_index=False)
