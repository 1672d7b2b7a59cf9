"""How long a plan will take and how much disk, before any of it is done."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from registry.benchmarks.items import Item
from registry.cells import Cell
from registry.lora.tokens import encode_examples, encode_queries
from registry.models import Base, count_adapter_parameters, load_tokenizer
from registry.runner.experiment import Experiment
from registry.runner.plan import Plan, Step
from registry.tracking.names import Kind, Tag
from registry.tracking.runs import finished_by_fingerprint

__all__ = ["Estimate", "estimate"]

_RECORDING_SECONDS = 0.5  # store and registry time of one adapter, seen on a local SQLite store
_SHARE_OF_GEMM = 0.7  # share of the machine's matrix-product rate that training and scoring reach
_SAMPLE = 20  # items per cell that are tokenised to guess the rest


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected cost of a plan: wall time in seconds, disk in bytes, and what the time rests on."""

    seconds: float
    bytes: int
    basis: str


def estimate(experiment: Experiment, plan: Plan, client: MlflowClient, experiment_id: str, *, workers: int) -> Estimate:
    """Estimate from finished runs of the same bases here, else from tokens, parameters and a timed matrix product."""
    runs = [
        run
        for kind in (Kind.FINETUNE, Kind.EVALUATE)
        for run in finished_by_fingerprint(client, experiment_id, kind).values()
    ]
    rate = None
    seconds, size, measured = 0.0, 0, True
    for name, base in experiment.bases.items():
        steps = [step for job, step in plan.todo if job.model == name]
        if not steps:
            continue
        train, score = _median(runs, base, Kind.FINETUNE), _median(runs, base, Kind.EVALUATE)
        if train is None or score is None:
            rate = rate or _gemm_rate()
            measured, (train, score) = False, _computed(experiment, base, rate)
        trainings = sum(step in (Step.TRAIN, Step.TRAIN_AND_EVALUATE) for step in steps)
        scorings = sum(step is not Step.TRAIN for step in steps)
        seconds += trainings * train + scorings * score
        size += trainings * 4 * count_adapter_parameters(
            base, experiment.study.recipe.lora
        ) + scorings * _outcome_bytes(experiment)
    basis = (
        "finished runs of the same bases" if measured else "tokens, parameters and this machine's matrix-product rate"
    )
    return Estimate(seconds / max(1, min(workers, len(plan.todo))), size, basis)


def _median(runs: Iterable[Run], base: Base, kind: Kind) -> float | None:
    """Median duration in seconds of a base's runs of a kind."""
    taken = [
        (run.info.end_time - run.info.start_time) / 1000
        for run in runs
        if run.data.tags[Tag.KIND] == kind and run.data.tags.get(Tag.BASE_REVISION) == base.revision
    ]
    return statistics.median(taken) if taken else None


def _computed(experiment: Experiment, base: Base, rate: float) -> tuple[float, float]:
    """Seconds of one training and one scoring at a rate in FLOP/s: 2 per parameter and token forward, 2 backward."""
    tokenizer, recipe, prompts = load_tokenizer(base), experiment.study.recipe, experiment.items.prompts
    training, scoring = [], 0.0
    for cell in experiment.grid:
        items = experiment.items.train(cell)
        texts = [prompts[cell.task].training(item) for item in items[:_SAMPLE]]
        examples = encode_examples(
            tokenizer, [(text.prompt, text.target) for text in texts], max_length=recipe.max_length
        )
        training.append(len(items) * statistics.fmean(len(example.tokens) for example in examples))
        scoring += _scored_tokens(experiment, cell, experiment.items.test(cell), tokenizer)
    per_token = 2 * base.size_b * 1e9 / (rate * _SHARE_OF_GEMM)
    train = 2 * per_token * recipe.epochs * statistics.fmean(training)
    return train + _RECORDING_SECONDS, per_token * scoring + _RECORDING_SECONDS


def _scored_tokens(experiment: Experiment, cell: Cell, items: tuple[Item, ...], tokenizer: object) -> float:
    queries = [experiment.items.prompts[cell.task].query(item) for item in items[:_SAMPLE]]
    encoded = encode_queries(
        tokenizer,  # type: ignore[arg-type]
        [(query.context, query.continuations) for query in queries],
        chat=experiment.study.chat_template,
    )
    return len(items) * statistics.fmean(len(q.context) + sum(len(option) - 1 for option in q.options) for q in encoded)


def _outcome_bytes(experiment: Experiment) -> int:
    options = sum(len(item.options) for cell in experiment.grid for item in experiment.items.test(cell))
    return 10 * options  # Parquet with zstd takes about ten bytes a row, the log-likelihood eight of them


def _gemm_rate() -> float:
    """Measure the FLOP/s of a square float32 matrix product, as many threads and devices as one worker has."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = 4096 if device == "cuda" else 512
    matrix = torch.randn(side, side, device=device)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # reading one number waits for the device
        best = min(best, time.perf_counter() - started)
    return float(2 * side**3 / best)
