"""A store as a study of the paper's size leaves it: some adapters recorded, the rest copied from one of them."""

from __future__ import annotations

import gc
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from registry.cells import Cell, regime_of
from registry.evaluation.outcomes import Outcomes, Questions
from registry.planning.experiment import Job
from registry.runner.recorder import Recorder
from registry.tracking.claims import Claims
from registry.tracking.metric_names import delta, parse_cell, score
from registry.tracking.names import Kind, Tag
from registry.tracking.store import experiment_id, open_store
from tests.bench.tracked_grid import (
    BASE,
    GRID,
    MODEL,
    STUDY,
    USAGE,
    experiment,
    outcomes,
    trained,
    write_adapter,
)

__all__ = ["Recorded", "Took", "copy_evaluations", "record_adapters"]


@dataclass(frozen=True, slots=True)
class Took:
    """What recording one adapter took, in seconds."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Recorded:
    """What was recorded: id of one evaluation, how many there are, and what each adapter took."""

    evaluation: str
    evaluations: int
    took: list[Took]


def record_adapters(folder: Path, count: int) -> Recorded:
    """Record a baseline and some adapters in a new SQLite store, with the calls that a study makes."""
    client = open_store(f"sqlite:///{folder / 'mlflow.db'}")
    designed = experiment()
    records = Recorder(designed, client, experiment_id(client, STUDY), "cpu")
    claims = Claims(client, records.experiment_id)
    asked, job = Questions.of(designed), designed.baseline(MODEL)
    gc.freeze()  # as a worker does
    with claims.taken([job.evaluate]), records.opened(Kind.BASELINE, job) as recording:
        records.usage(recording, "score", USAGE)
        records.baseline(recording, job, outcomes(asked, BASE))
    jobs = [job for job in designed.jobs() if job.source is not None][:count]
    answers = outcomes(asked, BASE + 0.01)
    evaluation, took = "", []
    for job in jobs:
        wall, cpu = time.perf_counter(), time.process_time()
        evaluation = _record(records, claims, job, answers)
        took.append(Took(time.perf_counter() - wall, time.process_time() - cpu))
    return Recorded(evaluation, len(jobs), took)


def _record(records: Recorder, claims: Claims, job: Job, answers: Outcomes) -> str:
    """Do what a study does for one adapter, but for training and scoring; return the evaluation's id."""
    claim = claims.take(job.finetune or "")
    assert claim is not None
    assert records.finished(Kind.FINETUNE, job.finetune) is None
    with records.opened(Kind.FINETUNE, job) as run:
        finetune = run.run_id
        records.training_set(run, job.source_cell)
        training = trained()
        records.training(run, job, training, {"train": USAGE})
        with tempfile.TemporaryDirectory() as name:
            write_adapter(Path(name))
            adapter = records.adapter(run, job, Path(name), training)
        claim.confirm()
    with records.opened(Kind.EVALUATE, job, tags=records.scored(adapter, finetune)) as run:
        records.usage(run, "score", USAGE)
        records.evaluation(run, job, answers, adapter, finetune)
        claim.confirm()
    claim.release()
    return run.run_id


def copy_evaluations(file: Path, recorded: Recorded, count: int) -> None:
    """Copy an evaluation's rows until there are so many, with other models, sources and seeds.

    Its scores stay: the copies name its file of answers, and what is read is compared with that.
    """
    with sqlite3.connect(file) as database:
        columns = {table: _columns(database, table) for table in ("runs", "tags", "params", "inputs")}
        names = [name for (name,) in database.execute(_NAMES, [recorded.evaluation])]
        found = database.execute("SELECT key, value FROM latest_metrics WHERE run_uuid = ?", [recorded.evaluation])
        of_targets = ((parse_cell(key, "score"), value) for key, value in found)
        recorded_scores = {cell: value for cell, value in of_targets if cell is not None}
        for model, source, seed in _cells(count - recorded.evaluations):
            run_id = uuid.uuid4().hex
            for table, found in columns.items():
                _copy(database, table, found, recorded.evaluation, run_id)
            _identify(database, run_id, model, source, seed)
            values = _metrics(source, recorded_scores, names)
            for table in ("latest_metrics", "metrics"):
                database.executemany(
                    f"INSERT INTO {table} (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, 1, 0, 0, ?)",
                    [(name, value, run_id) for name, value in values.items()],
                )
    database.close()


_NAMES = "SELECT key FROM latest_metrics WHERE run_uuid = ? AND key NOT LIKE 'delta/%' AND key NOT LIKE '%/CT-%'"


def _cells(count: int) -> Iterator[tuple[str, Cell, int]]:
    models = [f"base-{number}" for number in range(1, 2 + count // (3 * len(GRID)))]
    every = product(models, GRID, (17, 42, 101))
    return (cell for _, cell in zip(range(count), every, strict=False))


def _columns(database: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in database.execute(f"PRAGMA table_info({table})")]


def _copy(database: sqlite3.Connection, table: str, columns: list[str], old: str, new: str) -> None:
    owner = "destination_id" if table == "inputs" else "run_uuid"
    fresh = {owner: "?", "input_uuid": "lower(hex(randomblob(16)))"}
    taken = ", ".join(fresh.get(column, column) for column in columns)
    database.execute(
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {taken} FROM {table} WHERE {owner} = ?", [new, old]
    )


def _identify(database: sqlite3.Connection, run_id: str, model: str, source: Cell, seed: int) -> None:
    tags = {
        Tag.BASE_MODEL: model,
        Tag.SOURCE_TASK: source.task,
        Tag.SOURCE_LANGUAGE: source.language,
        Tag.SEED: seed,
        Tag.FINGERPRINT: f"{model} {source} {seed}",
    }
    for tag, value in tags.items():
        database.execute("UPDATE tags SET value = ? WHERE run_uuid = ? AND key = ?", [str(value), run_id, tag])


def _metrics(source: Cell, scores: dict[Cell, float], names: list[str]) -> dict[str, float]:
    """Return an evaluation's metrics: what is copied by name, and its own scores and deltas."""
    values = dict.fromkeys(names, 0.25)
    values |= {score(cell): value for cell, value in scores.items()}
    return values | {
        delta(regime_of(source, cell), cell): round(100 * (value - BASE), 9) for cell, value in scores.items()
    }
