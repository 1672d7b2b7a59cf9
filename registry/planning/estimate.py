"""How long a plan will take and how much disk, before any of it is done.

Time is that of tokens: of finished runs of the same base, held and trained in the same way, seconds per token of each
phase; where a phase has none, from parameters and the machine's matrix-product rate.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from mlflow.entities import Run

from registry.cells import Cell
from registry.config.study import Study
from registry.lora.cost import Size
from registry.lora.encoding import Continuations, encode_examples, encode_queries, input_tokens
from registry.lora.shared_prefixes import SAVED_TOKENS, question_rows
from registry.models.base import Base
from registry.models.catalogue import PAPER
from registry.models.hub import cached_weights
from registry.models.loading import load_tokenizer
from registry.planning import design_files
from registry.planning.experiment import Experiment
from registry.planning.plan import OnRecord, Plan
from registry.recipes.maker import maker_of
from registry.tracking.metric_names import VALIDATION_LOSS, seconds_of, tokens_of
from registry.tracking.names import Kind, Tag

__all__ = ["OUTCOME_BYTES", "RECORDING_SECONDS", "SHARE_OF_GEMM", "Estimate", "estimate", "gemm_rate"]

_SAMPLE = 20  # items per cell that are tokenised to guess the rest

#: Parameters of a run that decide how fast a token is, of a scoring and, besides, of a training.
_SCORED_LIKE = ("precision", "quantization", "placement")
_TRAINED_LIKE = (*_SCORED_LIKE, "method", "gradient_checkpointing")

_MEASURED = "finished runs of the same bases, scaled by tokens"
_COMPUTED = "tokens, parameters and this machine's matrix-product rate"


@dataclass(frozen=True, slots=True)
class _Speed:
    """Seconds per token of a phase, and of a validation; and what a run takes besides."""

    per_token: float
    besides: float
    per_validation_token: float = 0.0


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Tokens of a training over all epochs."""

    trained: float
    validated: float


def estimate(experiment: Experiment, plan: Plan, done: OnRecord, *, workers: int) -> Estimate:
    """Estimate from finished runs of the same bases here, else from tokens, parameters and a timed matrix product."""
    rate, study = None, experiment.study
    seconds, adapters, outcomes, downloads = 0.0, 0, 0, 0
    bases: set[str] = set()
    for name, base in experiment.bases.items():
        todo = [(job, step) for job, step in plan.todo if job.model == name]
        if not todo:
            continue
        sources = [job.source_cell for job, step in todo if step.trains]
        scorings = sum(step.scores for _, step in todo)
        training = _recorded(done[Kind.FINETUNE].values(), base, study, "train", _TRAINED_LIKE)
        scored = [*done[Kind.BASELINE].values(), *done[Kind.EVALUATE].values()]
        scoring = _recorded(scored, base, study, "score", _SCORED_LIKE)
        if (sources and training is None) or (scorings and scoring is None):
            rate = rate or gemm_rate(study.recipe.precision)
        bases |= {_COMPUTED if training is None else _MEASURED} if sources else set()
        bases |= {_COMPUTED if scoring is None else _MEASURED} if scorings else set()
        if sources:
            training = training or _computed_training(base, study, rate or 1.0)
            tokens = _training_tokens(experiment, base, dict.fromkeys(sources))
            seconds += sum(_spent(training, tokens[source]) for source in sources)
        if scorings:
            scoring = scoring or _Speed(_forward(base, rate or 1.0), RECORDING_SECONDS)
            seconds += scorings * (scoring.besides + scoring.per_token * _scored_tokens(experiment, base, scored))
        adapters += len(sources) * _trained_bytes(base, study)
        outcomes += scorings * _outcome_bytes(experiment)
        downloads += _missing_bytes(base)
    together = max(1, min(workers, len(plan.todo)))
    return Estimate(
        seconds / together,
        adapters,
        outcomes,
        downloads,
        "; ".join(sorted(bases)) or _MEASURED,
        together if torch.cuda.is_available() else 0,
    )


def _recorded(runs: Iterable[Run], base: Base, study: Study, phase: str, alike: Sequence[str]) -> _Speed | None:
    """Return the median speed of a base's runs that were held and trained as the study says; None without any."""
    wanted = {name: str(value) for name, value in design_files.parameters(study).items() if name in alike}
    speeds = []
    for run in runs:
        metrics, params = run.data.metrics, run.data.params
        same = all(params.get(name, value) == value for name, value in wanted.items())
        if same and run.data.tags.get(Tag.BASE_REVISION) == base.revision and metrics.get(tokens_of(phase)):
            speeds.append(_speed(run, phase))
    if not speeds:
        return None
    return _Speed(
        statistics.median(speed.per_token for speed in speeds),
        statistics.median(speed.besides for speed in speeds),
        statistics.median(speed.per_validation_token for speed in speeds),
    )


def _speed(run: Run, phase: str) -> _Speed:
    metrics, took = run.data.metrics, (run.info.end_time - run.info.start_time) / 1000
    spent, tokens = metrics.get(seconds_of(phase), 0.0), metrics[tokens_of(phase)]
    held = metrics.get(seconds_of("validation"), 0.0) if phase == "train" else 0.0
    besides, each = max(0.0, took - spent - held), 0.0
    if held:
        each = held / metrics[tokens_of("validation")]
    elif phase == "train" and VALIDATION_LOSS not in metrics:
        each = spent / tokens / 2  # forward alone; a run with a validation, but no time of it, has it in its own
    return _Speed(spent / tokens, besides, each)


def _spent(speed: _Speed, tokens: _Tokens) -> float:
    """Seconds of one training."""
    return speed.besides + speed.per_token * tokens.trained + speed.per_validation_token * tokens.validated


def _trained_bytes(base: Base, study: Study) -> int:
    """Bytes of what one training leaves in the store."""
    maker = maker_of(study)
    return maker.trained(base.skeleton()) * maker.bytes_per_parameter()


def _missing_bytes(base: Base) -> int:
    """Bytes of weights that the hub's cache lacks, from the catalogue, else two for each parameter."""
    if base.hub_revision is None or cached_weights(base.location, base.hub_revision):
        return 0
    known = PAPER.get(base.location)
    return known.download_bytes if known else round(2e9 * base.size_b)


def _forward(base: Base, rate: float) -> float:
    """Seconds of a token's forward pass at a rate in FLOP/s: 2 per parameter."""
    return 2 * base.size_b * 1e9 / (rate * SHARE_OF_GEMM)


def _computed_training(base: Base, study: Study, rate: float) -> _Speed:
    """Return the speed of trainings at a rate in FLOP/s, an adapter's own products left out."""
    parameters = round(base.size_b * 1e9)
    flop = maker_of(study).training_flop(Size(parameters, 0), 0, tokens=1, predictions=0)
    return _Speed(flop / (rate * SHARE_OF_GEMM), RECORDING_SECONDS, _forward(base, rate))


def _training_tokens(experiment: Experiment, base: Base, sources: Iterable[Cell]) -> dict[Cell, _Tokens]:
    """Tokens of a training on each source, from its first texts."""
    tokenizer, recipe, found = load_tokenizer(base), experiment.study.recipe, {}
    for cell in sources:
        items, prompt = experiment.items.train(cell), experiment.items.prompts[cell.task]
        texts = [prompt.training(item) for item in items[:_SAMPLE]]
        pairs = [(text.prompt, text.target) for text in texts]
        examples = encode_examples(tokenizer, pairs, max_length=min(recipe.length(cell.task), base.max_positions))
        each = recipe.epochs * input_tokens(examples) / len(examples)
        held = int(len(items) * recipe.validation)
        found[cell] = _Tokens((len(items) - held) * each, held * each)
    return found


def _scored_tokens(experiment: Experiment, base: Base, scored: Iterable[Run]) -> float:
    """Tokens of one scoring, shared beginnings once: as the base's baseline has them, if that is done.

    Else from the first questions of every cell, laid out as they will be. A question stands for as many as its cell
    has; a beginning is worth a pass of its own from as many fewer tokens on.
    """
    baseline = experiment.baseline(base.name).evaluate
    for run in scored:
        if run.data.tags.get(Tag.FINGERPRINT) == baseline and (tokens := run.data.metrics.get(tokens_of("score"))):
            return tokens
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


# --- what a plan is expected to cost, and the rate that such expectations start from


#: Store and registry time of one run, a training's or a scoring's; seen on a local SQLite store: 0.16 to 0.19 s of two.
RECORDING_SECONDS = 0.1

#: Share of the machine's matrix-product rate that training and scoring reach; seen on a CPU.
SHARE_OF_GEMM = 0.7

#: Parquet with zstd takes about ten bytes a question and option, the log-likelihood eight of them.
OUTCOME_BYTES = 10


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected cost of a plan.

    Attributes
    ----------
    seconds : float
        Wall time, the workers sharing the work.
    adapters, outcomes : int
        Bytes in the store.
    downloads : int
        Bytes of models that the hub's cache lacks.
    basis : str
        What the time rests on.
    gpus : int
        GPUs that are busy for that time, 0 on a CPU.
    """

    seconds: float
    adapters: int
    outcomes: int
    downloads: int
    basis: str
    gpus: int = 0

    @property
    def bytes(self) -> int:
        """Disk that the store's artifacts take."""
        return self.adapters + self.outcomes


def gemm_rate(precision: str) -> float:
    """Measure the FLOP/s of a square matrix product in a precision, on the one thread or the GPU that a worker has."""
    import torch

    from registry.models.loading import dtype_of

    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = 4096 if device == "cuda" else 512
    matrix = torch.randn(side, side, device=device).to(dtype_of(precision))
    best = float("inf")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(5):
            started = time.perf_counter()
            float((matrix @ matrix)[0, 0])  # reading one number waits for the device
            best = min(best, time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return float(2 * side**3 / best)
