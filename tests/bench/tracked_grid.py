"""A grid of the paper's size without its questions' texts: an experiment that is never trained, and its outcomes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from registry.benchmarks.aligned import Benchmark, align
from registry.benchmarks.items import Item
from registry.benchmarks.prompts import Prompt
from registry.benchmarks.splits import Split
from registry.cells import Cell, Grid
from registry.config.data import SplitSpec
from registry.config.study import BaseSpec, Study
from registry.evaluation.outcomes import Outcomes, Questions
from registry.lora.cost import Usage
from registry.lora.train import Training
from registry.models.base import Base
from registry.planning.experiment import Experiment

__all__ = ["BASE", "GRID", "MODEL", "QUESTIONS", "STUDY", "USAGE", "experiment", "outcomes", "trained", "write_adapter"]

STUDY, MODEL = "bench", "base-0"
GRID = Grid(
    ("arc_challenge", "global_mmlu", "hellaswag", "truthfulqa"),
    ("ar", "bn", "de", "en", "es", "fr", "hi", "id", "it", "pt", "zh"),
)
QUESTIONS = 400
BASE = 0.4  # the share that the untouched base answers correctly, everywhere
USAGE = Usage(seconds=1.0, tokens=1, flop=1.0, peak_memory_gb=1.0)
_OPTIONS = ("one", "two", "three", "four")
_STEPS = 60


def experiment() -> Experiment:
    """Return a study of one base on the grid, ready to be recorded."""
    study = Study(name=STUDY, models=(BaseSpec(name=MODEL),), split=SplitSpec(train=64, test=QUESTIONS))
    benchmark = Benchmark("bench", GRID, dict.fromkeys(GRID.tasks, Prompt()), _pool)
    base = Base(MODEL, MODEL, MODEL, "0" * 40, "bench", 1.0, 512)
    return Experiment(study, {MODEL: base}, GRID, GRID.cells, align(benchmark, GRID, study.split))


def _pool(cell: Cell, split: Split) -> tuple[Item, ...]:
    return tuple(
        Item(f"{split}-{number}", f"{cell} {split} question {number}", _OPTIONS, number % len(_OPTIONS))
        for number in range(QUESTIONS)
    )


def outcomes(asked: Questions, right: float) -> Outcomes:
    """Return outcomes in which a share of every target's questions is answered correctly, by both accuracies."""
    random = np.random.default_rng(0)
    values = []
    for part in asked.targets.values():
        for number, answer in enumerate(asked.answers[part]):
            chosen = answer if number < round(right * QUESTIONS) else (answer + 1) % len(_OPTIONS)
            found = -10.0 - random.random(len(_OPTIONS))
            found[chosen] = -1.0
            values.append(found)
    return Outcomes(asked, values)


def trained() -> Training:
    """Return a training's curves; its weights are in :func:`write_adapter`."""
    curve = [1.0] * _STEPS
    return Training(
        adapter=None,  # type: ignore[arg-type]  # it is recorded as a folder
        losses=curve,
        learning_rates=curve,
        validation_losses=[1.0] * 3,
        kept_epoch=1,
        tokens=1,
        validation_tokens=1,
        predictions=1,
        validation_predictions=1,
        seconds=1.0,
    )


def write_adapter(folder: Path) -> None:
    """Write an adapter of 2 MB."""
    save_file({"weights": torch.zeros(500_000)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
