"""Studies to analyse: one recorded in a temporary store, and grids of any shape made without a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from analysis.reading.frame import Frame, load
from registry.cells import Cell, Grid, regime_of
from registry.tracking import metric_names, names
from registry.tracking.names import Kind, Tag
from registry.tracking.store import experiment_id

MODELS = {"lab/one-0.5b": ("One", 0.5), "lab/two-7b": ("Two", 7.0)}
GRID = Grid(tasks=("arc", "mmlu"), languages=("de", "en", "hi"))
SEEDS = (17, 42)
CHANCE = 0.25
BELOW_CHANCE = ("lab/two-7b", Cell("mmlu", "hi"))


@dataclass
class Recorder:
    """Writes runs as a study would, by the names in `registry.tracking.names`."""

    client: MlflowClient
    study: str
    experiment: str = field(init=False)
    clock: int = 1_000

    def __post_init__(self) -> None:
        self.experiment = experiment_id(self.client, self.study)

    def run(
        self, kind: Kind, tags: Mapping[str, object], metrics: Mapping[str, float], status: str = "FINISHED"
    ) -> str:
        """Record one run, a millisecond younger than the one before."""
        self.clock += 1
        words = {Tag.KIND: kind, Tag.STUDY: self.study, Tag.PROTOCOL: "paper", **tags}
        run = self.client.create_run(self.experiment, start_time=self.clock, tags={k: str(v) for k, v in words.items()})
        batch = [Metric(name, value, self.clock, 0) for name, value in metrics.items()]
        self.client.log_batch(run.info.run_id, metrics=batch)
        if status != "RUNNING":
            self.client.set_terminated(run.info.run_id, status=status)
        return str(run.info.run_id)

    def baseline(self, model: str, scores: Mapping[Cell, float], **tags: Any) -> str:
        """Record a baseline run."""
        metrics = {metric_names.score(cell): score for cell, score in scores.items()}
        metrics |= {metric_names.chance(cell): CHANCE for cell in scores}
        return self.run(Kind.BASELINE, {**_model_tags(model), Tag.FINGERPRINT: f"base {model}", **tags}, metrics)

    def evaluation(
        self,
        model: str,
        source: Cell,
        seed: int,
        scores: Mapping[Cell, float],
        baseline: Mapping[Cell, float],
        baseline_run: str,
        *,
        status: str = "FINISHED",
        error_pp: float = 0.0,
        **tags: Any,
    ) -> str:
        """Record an evaluation; ``error_pp`` falsifies its deltas."""
        words = {
            **_model_tags(model),
            Tag.SOURCE_TASK: source.task,
            Tag.SOURCE_LANGUAGE: source.language,
            Tag.SEED: seed,
            Tag.FINGERPRINT: f"{model} {source} {seed}",
            Tag.BASELINE_RUN: baseline_run,
            Tag.MODEL_VERSION: f"{names.registered_model(model, source)}/1",
        }
        metrics: dict[str, float] = {}
        for cell, score in scores.items():
            delta = 100 * (score - baseline[cell]) + error_pp
            metrics |= {
                metric_names.score(cell): score,
                metric_names.acc(cell): score - 0.01,
                metric_names.acc_norm(cell): score,
            }
            metrics |= {metric_names.delta(regime_of(source, cell), cell): delta}
        metrics |= {metric_names.delta_mean(regime): 0.0 for regime in {regime_of(source, cell) for cell in scores}}
        return self.run(Kind.EVALUATE, words | tags, metrics, status)


def _model_tags(model: str) -> dict[str, object]:
    family, size = MODELS[model]
    return {Tag.BASE_MODEL: model, Tag.MODEL_FAMILY: family, Tag.MODEL_SIZE_B: size}


@dataclass(frozen=True)
class Planted:
    """What was recorded: scores by (model, source, target, seed), baselines by model and target."""

    scores: dict[tuple[str, Cell, Cell, int], float]
    baselines: dict[str, dict[Cell, float]]
    grid: Grid = GRID
    seeds: tuple[int, ...] = SEEDS
    below_chance: tuple[str, Cell] = BELOW_CHANCE

    def deltas(self) -> dict[tuple[str, Cell, Cell], float]:
        """Mean delta over seeds, in pp, by (model, source, target)."""
        return {
            (model, source, target): sum(
                100 * (self.scores[model, source, target, seed] - self.baselines[model][target]) for seed in self.seeds
            )
            / len(self.seeds)
            for model in self.baselines
            for source in self.grid
            for target in self.grid
        }


def record_grid(recorder: Recorder) -> Planted:
    """Record baselines and evaluations of the small grid with random scores; return them."""
    random = np.random.default_rng(20)
    scores: dict[tuple[str, Cell, Cell, int], float] = {}
    baselines: dict[str, dict[Cell, float]] = {}
    for model in MODELS:
        baselines[model] = {cell: float(random.integers(110, 250)) / 400 for cell in GRID}
        if model == BELOW_CHANCE[0]:
            baselines[model][BELOW_CHANCE[1]] = 0.2
        flag = {Tag.BELOW_CHANCE: str(BELOW_CHANCE[1])} if model == BELOW_CHANCE[0] else {}
        baseline_run = recorder.baseline(model, baselines[model], **flag)
        for source in GRID:
            for seed in SEEDS:
                found = {cell: baselines[model][cell] + float(random.integers(-12, 21)) / 400 for cell in GRID}
                scores |= {(model, source, cell, seed): score for cell, score in found.items()}
                recorder.evaluation(model, source, seed, found, baselines[model], baseline_run)
    return Planted(scores, baselines)


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    """Client of an SQLite store of its own."""
    return MlflowClient(f"sqlite:///{tmp_path_factory.mktemp('store') / 'runs.db'}")


@pytest.fixture
def recorder(client: MlflowClient, request: pytest.FixtureRequest) -> Recorder:
    """Empty study named after the test."""
    return Recorder(client, request.node.name)


@pytest.fixture(scope="session")
def planted(client: MlflowClient) -> Planted:
    """Scores recorded in the store under the study ``small``."""
    return record_grid(Recorder(client, "small"))


@pytest.fixture(scope="session")
def frame(client: MlflowClient, planted: Planted) -> Frame:
    """Study ``small``, loaded."""
    return load(client, "small")


FrameMaker = Callable[..., Frame]


@pytest.fixture(scope="session")
def make_frame() -> FrameMaker:
    """Maker of frames of any shape."""
    return _make_frame


def _make_frame(
    *,
    models: Sequence[str] = ("lab/one",),
    tasks: Sequence[str] = ("arc", "mmlu"),
    languages: Sequence[str] = ("de", "en", "hi"),
    seeds: Sequence[int] = (17,),
    study: str = "made",
    family: str = "One",
) -> Frame:
    random = np.random.default_rng(7)
    grid = Grid(tuple(tasks), tuple(languages))
    rows: list[dict[str, Any]] = []
    for model in models:
        for source in grid:
            for target in grid:
                for seed in seeds:
                    delta = float(random.normal(0.5, 2.0))
                    rows.append(
                        {
                            "model": model,
                            "model_family": family,
                            "model_size_b": 1.0,
                            "source_task": source.task,
                            "source_language": source.language,
                            "target_task": target.task,
                            "target_language": target.language,
                            "regime": str(regime_of(source, target)),
                            "seed": seed,
                            "score": 0.4 + delta / 100,
                            "acc": 0.4,
                            "acc_norm": np.nan,
                            "baseline": 0.4,
                            "delta": delta,
                            "run_id": f"{model} {source} {seed}",
                            "model_version": "",
                            "protocol": "paper",
                        }
                    )
    below = [(model, cell.task, cell.language, 0.4, 0.25, False) for model in models for cell in grid]
    baselines = pd.DataFrame(below, columns=["model", "task", "language", "score", "chance", "below_chance"])
    return Frame(study, "sqlite:///runs.db", pd.DataFrame(rows), baselines, ())


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Folder that an analysis is to make."""
    return tmp_path / "analysis"
