"""A small recorded study with planted answers, to be judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow import MlflowClient

from registry.cells import Cell, Grid
from registry.evaluation.metrics import TargetScore, chance_metrics, delta_metrics, score_metrics
from registry.sources import Source
from registry.tracking import metric_names
from registry.tracking.adapters import RegisteredAdapter
from registry.tracking.chance import chance_p
from registry.tracking.names import Kind, Tag
from registry.tracking.runs import recorded
from registry.tracking.store import all_runs, experiment_id

__all__ = ["CHANGES", "GRID", "POLICY", "QUESTIONS", "RIGHT", "SOURCE", "Recorded", "answers_of"]

GRID = Grid(("kind", "pair"), ("en", "tr"))
QUESTIONS, RIGHT = 200, 100
SOURCE = Cell("kind", "en")

#: Questions of each target that an adapter newly answers rightly, and newly wrongly.
CHANGES = {"kind/en": (40, 10), "kind/tr": (24, 4), "pair/en": (5, 6), "pair/tr": (1, 17)}
POLICY = "promotion: {champion: {want: [kind/tr], protect: [pair/en], min_gain: 5.0}}"


@dataclass(frozen=True)
class Recorded:
    """A study of one base with registered adapters, their evaluations and their answers."""

    client: MlflowClient
    register: Callable[..., RegisteredAdapter]
    study_file: Callable[..., Path]
    folder: Path

    @property
    def experiment(self) -> str:
        return experiment_id(self.client, "small")

    def policy(self, text: str = POLICY) -> Path:
        return self.study_file(("seeds: [17, 42]", f"seeds: [17, 42]\n{text}"))

    def baseline(self, *, chance: Mapping[str, float] | None = None, answers: bool = True, tested: bool = False) -> str:
        """Record the base's scores; ``tested`` with their p-values, which earlier versions did not record."""
        levels = {cell: (chance or {}).get(str(cell), 0.5) for cell in GRID}
        p = {cell: chance_p(RIGHT, [level] * QUESTIONS) if tested else math.nan for cell, level in levels.items()}
        scores = {cell: TargetScore(0.5, 0.5, level, "acc", p[cell]) for cell, level in levels.items()}
        with recorded(self.client, self.experiment, kind=Kind.BASELINE, name="base", tags=self._tags()) as recording:
            recording.metrics(score_metrics(scores) | chance_metrics(scores))
            if answers:
                self._answers(recording.run_id, dict.fromkeys(map(str, GRID), (0, 0)))
        return recording.run_id

    def adapter(
        self,
        baseline: str,
        changes: Mapping[str, tuple[int, int]] = CHANGES,
        *,
        seed: int = 17,
        source: Cell = SOURCE,
        answers: bool = True,
    ) -> RegisteredAdapter:
        adapter = self.register(seed, source=source)
        self.evaluation(adapter, baseline, changes, seed=seed, source=source, answers=answers)
        return adapter

    def evaluation(
        self,
        adapter: RegisteredAdapter,
        baseline: str,
        changes: Mapping[str, tuple[int, int]] = CHANGES,
        *,
        seed: int = 17,
        source: Cell = SOURCE,
        answers: bool = True,
    ) -> str:
        version = self.client.get_model_version(adapter.name, adapter.version)
        scores = {Cell.parse(name): (RIGHT + up - down) / QUESTIONS for name, (up, down) in changes.items()}
        tags = dict(version.tags) | self._tags() | adapter.tags
        tags |= {Tag.BASELINE_RUN: baseline, Tag.FINGERPRINT: f"{source} {seed}"}
        with recorded(self.client, self.experiment, kind=Kind.EVALUATE, name="scored", tags=tags) as recording:
            recording.metrics({metric_names.score(cell): score for cell, score in scores.items()})
            recording.metrics({metric_names.acc(cell): score for cell, score in scores.items()})
            recording.metrics(delta_metrics(Source.of_cell(source), scores, dict.fromkeys(GRID, 0.5)))
            if answers:
                self._answers(recording.run_id, changes)
        return recording.run_id

    def promotions(self) -> list:
        return all_runs(self.client, [self.experiment], f"tags.{Tag.KIND} = '{Kind.PROMOTE}'")

    def aliases(self, adapter: RegisteredAdapter) -> dict[str, str]:
        return {alias: str(at) for alias, at in self.client.get_registered_model(adapter.name).aliases.items()}

    def _tags(self) -> dict[str, str]:
        return {
            Tag.STUDY: "small",
            Tag.PROTOCOL: "made",
            Tag.BASE_MODEL: "tiny",
            Tag.MODEL_FAMILY: "llama",
            Tag.MODEL_SIZE_B: "0.1",
            Tag.FINGERPRINT: "base",
            Tag.HEADLINES: "kind=acc pair=acc",
        }

    def _answers(self, run_id: str, changes: Mapping[str, tuple[int, int]]) -> None:
        """Store which of two options each question was answered with."""
        rows = []
        for name, (up, down) in changes.items():
            cell, correct = Cell.parse(name), answers_of(up, down)
            for question, is_right in enumerate(correct):
                for option in (0, 1):
                    chosen = bool(is_right) == (option == 0)
                    rows.append((cell.task, cell.language, str(question), option, option == 0, chosen, chosen))
        columns = ["task", "language", "question", "option", "right", "chosen", "chosen_norm"]
        file = self.folder / "outcomes.parquet"
        pd.DataFrame(rows, columns=columns).to_parquet(file)
        self.client.log_artifact(run_id, str(file))


def answers_of(up: int, down: int) -> np.ndarray:
    """Right on the first half of the questions, but for ``down`` of them, and on ``up`` of the others."""
    correct = np.arange(QUESTIONS) < RIGHT
    correct[:down] = False
    correct[RIGHT : RIGHT + up] = True
    return correct
