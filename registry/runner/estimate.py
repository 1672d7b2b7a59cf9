"""How long a plan will take and how much disk, before any of it is done."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from itertools import groupby

import torch
from mlflow.entities import Run

from registry.catalogue import PAPER
from registry.hub import cached_weights
from registry.loading import load_tokenizer
from registry.lora.rows import SAVED_TOKENS, question_rows
from registry.lora.tokens import Continuations, encode_examples, encode_queries
from registry.models import Base
from registry.projections import adapter_parameters
from registry.runner.cost import ITEM_BYTES, OUTCOME_BYTES, RECORDING_SECONDS, SHARE_OF_GEMM, Estimate, gemm_rate
from registry.runner.experiment import Experiment
from registry.runner.plan import OnRecord, Plan
from registry.study import Recipe
from registry.tracking.names import Kind, Tag

__all__ = ["estimate"]

_SAMPLE = 20  # items per cell that are tokenised to guess the rest


def estimate(experiment: Experiment, plan: Plan, done: OnRecord, *, workers: int) -> Estimate:
    """Estimate from finished runs of the same bases here, else from tokens, parameters and a timed matrix product."""
    rate = None
    seconds, adapters, outcomes, downloads, measured = 0.0, 0, 0, 0, True
    for name, base in experiment.bases.items():
        steps = [step for job, step in plan.todo if job.model == name]
        if not steps:
            continue
        train, score = (_median(done[kind].values(), base) for kind in (Kind.FINETUNE, Kind.EVALUATE))
        if train is None or score is None:
            rate = rate or gemm_rate(experiment.study.recipe.precision)
            measured, (train, score) = False, _computed(experiment, base, rate)
        trainings = sum(step.trains for step in steps)
        scorings = sum(step.scores for step in steps)
        seconds += trainings * train + scorings * score
        adapters += trainings * _trained_bytes(base, experiment.study.recipe)
        outcomes += scorings * _outcome_bytes(experiment)
        downloads += _missing_bytes(base)
    together = max(1, min(workers, len(plan.todo)))
    return Estimate(
        seconds / together,
        adapters,
        outcomes,
        downloads,
        "finished runs of the same bases" if measured else "tokens, parameters and this machine's matrix-product rate",
        together if torch.cuda.is_available() else 0,
    )


def _median(runs: Iterable[Run], base: Base) -> float | None:
    """Median duration in seconds of a base's runs."""
    taken = [
        (run.info.end_time - run.info.start_time) / 1000
        for run in runs
        if run.data.tags.get(Tag.BASE_REVISION) == base.revision
    ]
    return statistics.median(taken) if taken else None


def _trained_bytes(base: Base, recipe: Recipe) -> int:
    """Bytes of what one training leaves: an adapter in float32, or every weight in the precision of the base."""
    if recipe.method == "full":
        return round(base.size_b * 1e9) * ITEM_BYTES[recipe.precision]
    return 4 * adapter_parameters(base.skeleton(), recipe.lora)


def _missing_bytes(base: Base) -> int:
    """Bytes of weights that the hub's cache lacks, from the catalogue, else two for each parameter."""
    if base.hub_revision is None or cached_weights(base.location, base.hub_revision):
        return 0
    known = PAPER.get(base.location)
    return known.download_bytes if known else round(2e9 * base.size_b)


def _computed(experiment: Experiment, base: Base, rate: float) -> tuple[float, float]:
    """Seconds of one training and one scoring at a rate in FLOP/s.

    Per parameter and token 2 forward and 2 backward, 4 where the parameters themselves are trained.
    """
    tokenizer, recipe, prompts = load_tokenizer(base), experiment.study.recipe, experiment.items.prompts
    training = []
    for cell in experiment.sources:
        items = experiment.items.train(cell)
        texts = [prompts[cell.task].training(item) for item in items[:_SAMPLE]]
        examples = encode_examples(
            tokenizer, [(text.prompt, text.target) for text in texts], max_length=recipe.length(cell.task)
        )
        training.append(len(items) * statistics.fmean(len(example.tokens) for example in examples))
    per_token = 2 * base.size_b * 1e9 / (rate * SHARE_OF_GEMM)
    passes = 3 if recipe.method == "full" else 2
    train = passes * per_token * recipe.epochs * statistics.fmean(training)
    return train + RECORDING_SECONDS, per_token * _scored_tokens(experiment, base) + RECORDING_SECONDS


def _scored_tokens(experiment: Experiment, base: Base) -> float:
    """Tokens of one scoring, shared beginnings once, from the first questions of every cell laid out as they will be.

    A question stands for as many as its cell has; a beginning is worth a pass of its own from as many fewer tokens on.
    """
    queries, shares = [], []
    for cell in experiment.grid:
        items = experiment.items.test(cell)
        taken = items[:_SAMPLE]
        queries += [experiment.items.prompts[cell.task].query(item) for item in taken]
        shares += [len(items) / len(taken)] * len(taken)
    encoded = encode_queries(
        load_tokenizer(base),
        [(query.context, query.continuations) for query in queries],
        chat=experiment.study.chat_template,
        day=experiment.study.chat_template_date,
        keep_empty=True,
    )
    return laid_out(encoded, shares, max_length=base.max_positions)


def laid_out(queries: list[Continuations], shares: list[float], *, max_length: int) -> float:
    """Count the tokens of questions that each stand for ``shares`` like it, a beginning that many have once."""
    worth = max(1, round(SAVED_TOKENS * len(shares) / sum(shares)))
    rows = question_rows(queries, max_length=max_length, worth=worth)
    beginnings = sum(len(prefix) for prefix, _ in groupby(rows, key=lambda row: row.prefix))
    return beginnings + sum(shares[row.question] * len(row) for row in rows)


def _outcome_bytes(experiment: Experiment) -> int:
    options = sum(len(item.options) for cell in experiment.grid for item in experiment.items.test(cell))
    return OUTCOME_BYTES * options
