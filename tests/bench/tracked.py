"""A store as a study of the paper's size leaves it: some adapters recorded, the rest copied from one of them."""

from __future__ import annotations

import json
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from registry.cells import Cell, Grid, regime_of
from registry.tracking.adapters import register_adapter
from registry.tracking.evaluations import TargetScore, delta_metrics, record_inputs, score_metrics
from registry.tracking.names import Kind, Tag, delta, registered_model, run_name, score, usage_metrics
from registry.tracking.runs import Recording, recorded
from registry.tracking.store import experiment_id, open_store

__all__ = ["STUDY", "Recorded", "copy_evaluations", "record_adapters"]

STUDY = "bench"
GRID = Grid(
    ("arc_challenge", "global_mmlu", "hellaswag", "truthfulqa"),
    ("ar", "bn", "de", "en", "es", "fr", "hi", "id", "it", "pt", "zh"),
)
_QUESTIONS, _OPTIONS = 400, 4
_BASE = 0.4


@dataclass(frozen=True)
class Recorded:
    """What was recorded: ids of the experiment's baseline and of one evaluation, seconds per adapter."""

    baseline: str
    evaluation: str
    evaluations: int
    seconds: list[float]


def record_adapters(folder: Path, count: int) -> Recorded:
    """Record a baseline and some adapters in a new SQLite store, with the calls that a study makes."""
    client = open_store(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = experiment_id(client, STUDY)
    outcomes, digests = _outcomes(), {cell: cell.task for cell in GRID}
    parameters = {f"parameter_{number}": number for number in range(30)}
    baseline = {cell: TargetScore(_BASE, _BASE, 1 / _OPTIONS, "acc_norm") for cell in GRID}
    with recorded(
        client, experiment, kind=Kind.BASELINE, name="baseline", tags=_tags("base-0", None, 0), params=parameters
    ) as run:
        record_inputs(run, {"baseline": GRID}, benchmark="bench", digests=digests)
        run.metrics(score_metrics(baseline))
        _files(run, outcomes)
        base_run = run.run_id
    seconds, evaluation = [], ""
    for seed in range(count):
        source = list(GRID)[seed % len(GRID)]
        tags = _tags("base-0", source, seed)
        start = time.perf_counter()
        with recorded(
            client,
            experiment,
            kind=Kind.FINETUNE,
            name=run_name(Kind.FINETUNE, "base-0", source, seed),
            tags=tags,
            params=parameters,
        ) as run:
            record_inputs(run, {"training": [source]}, benchmark="bench", digests=digests)
            run.curves({"train/loss": [1.0] * 60, "train/learning_rate": [1.0] * 60, "validation/loss": [1.0] * 3})
            run.metrics(usage_metrics("train", seconds=1, tokens=1, flop=1, peak_memory_gb=1))
            adapter = _adapter(run, source, tags)
            run.tags(adapter)
        with recorded(
            client,
            experiment,
            kind=Kind.EVALUATE,
            name=run_name(Kind.EVALUATE, "base-0", source, seed),
            tags=tags | {Tag.BASELINE_RUN: base_run},
            params=parameters,
        ) as run:
            _evaluation(run, source, adapter, outcomes, digests)
            evaluation = run.run_id
        seconds.append(time.perf_counter() - start)
    return Recorded(base_run, evaluation, count, seconds)


def _tags(model: str, source: Cell | None, seed: int) -> dict[str, object]:
    tags: dict[str, object] = {
        Tag.STUDY: STUDY,
        Tag.PROTOCOL: "paper",
        Tag.BASE_MODEL: model,
        Tag.BASE_REVISION: "0" * 40,
        Tag.MODEL_FAMILY: "bench",
        Tag.MODEL_SIZE_B: "1",
        Tag.FINGERPRINT: f"{model} {source} {seed}",
        Tag.HEADLINES: " ".join(f"{task}=acc_norm" for task in GRID.tasks),
    }
    if source is not None:
        tags |= {Tag.SOURCE_TASK: source.task, Tag.SOURCE_LANGUAGE: source.language, Tag.SEED: seed}
    return tags


def _adapter(run: Recording, source: Cell, tags: dict[str, object]) -> dict[str, str]:
    """Register an adapter of 2 MB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "adapter_model.safetensors").write_bytes(bytes(2_000_000))
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}), encoding="utf-8")
        name = registered_model("base-0", source)
        return register_adapter(run, folder, name=name, tags=tags, metadata={}, description="bench").tags


def _evaluation(
    run: Recording, source: Cell, adapter: dict[str, str], outcomes: pd.DataFrame, digests: dict[Cell, str]
) -> None:
    scores = {cell: TargetScore(_BASE, _BASE + 0.01, 1 / _OPTIONS, "acc_norm") for cell in GRID}
    sets: dict[str, list[Cell]] = {}
    for target in GRID:
        sets.setdefault(str(regime_of(source, target)), []).append(target)
    record_inputs(run, sets, benchmark="bench", digests=digests, model_id=adapter[Tag.MODEL_ID])
    deltas = delta_metrics(source, {cell: one.score for cell, one in scores.items()}, dict.fromkeys(GRID, _BASE))
    run.metrics(score_metrics(scores) | deltas, model_id=adapter[Tag.MODEL_ID])
    run.metrics(usage_metrics("score", seconds=1, tokens=1, flop=1, peak_memory_gb=1))
    run.tags(adapter)
    _files(run, outcomes)


def _files(run: Recording, outcomes: pd.DataFrame) -> None:
    with tempfile.TemporaryDirectory() as name:
        outcomes.to_parquet(Path(name) / "outcomes.parquet", index=False, compression="zstd")
        run.files(Path(name))


def _outcomes() -> pd.DataFrame:
    """Every option's outcome, in the columns of `registry.runner.outcomes.Outcomes.frame`."""
    random, count = np.random.default_rng(0), _QUESTIONS * _OPTIONS
    rows, option = len(GRID) * count, np.tile(np.arange(_OPTIONS), len(GRID) * _QUESTIONS)
    return pd.DataFrame(
        {
            "task": pd.Categorical(np.repeat([cell.task for cell in GRID], count)),
            "language": pd.Categorical(np.repeat([cell.language for cell in GRID], count)),
            "question": np.tile(np.repeat([f"question-{number}" for number in range(_QUESTIONS)], _OPTIONS), len(GRID)),
            "option": option.astype(np.int8),
            "loglikelihood": random.normal(size=rows),
            "length": random.integers(4, 80, rows).astype(np.int32),
            "right": option == 0,
            "chosen": option == np.repeat(random.integers(_OPTIONS, size=rows // _OPTIONS), _OPTIONS),
            "chosen_norm": option == np.repeat(random.integers(_OPTIONS, size=rows // _OPTIONS), _OPTIONS),
        }
    )


def copy_evaluations(file: Path, recorded: Recorded, count: int) -> None:
    """Copy an evaluation's rows until there are so many, with other models, sources, seeds and scores."""
    random = np.random.default_rng(1)
    with sqlite3.connect(file) as database:
        columns = {table: _columns(database, table) for table in ("runs", "tags", "params", "inputs")}
        names = [name for (name,) in database.execute(_NAMES, [recorded.evaluation])]
        for model, source, seed in _cells(count - recorded.evaluations):
            run_id = uuid.uuid4().hex
            for table, found in columns.items():
                _copy(database, table, found, recorded.evaluation, run_id)
            _identify(database, run_id, model, source, seed)
            scores = _BASE + random.integers(-12, 21, len(GRID)) / _QUESTIONS
            values = _metrics(source, dict(zip(GRID, scores.tolist(), strict=True)), names)
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
    for tag, value in _tags(model, source, seed).items():
        database.execute("UPDATE tags SET value = ? WHERE run_uuid = ? AND key = ?", [str(value), run_id, tag])


def _metrics(source: Cell, scores: dict[Cell, float], names: list[str]) -> dict[str, float]:
    """Return an evaluation's metrics: what is copied by name, and its own scores and deltas."""
    values = dict.fromkeys(names, 0.25)
    values |= {score(cell): value for cell, value in scores.items()}
    values |= {f"acc_norm/{cell}": value for cell, value in scores.items()}
    return values | {
        delta(regime_of(source, cell), cell): round(100 * (value - _BASE), 9) for cell, value in scores.items()
    }
