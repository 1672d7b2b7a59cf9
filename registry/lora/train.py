"""Fine-tuning LoRA adapters or every weight, step by step what transformers' Trainer does with the same batches.

AdamW, linear warm-up and decay, gradient norm clipped, cross-entropy averaged over a batch's supervised tokens. Batches
are flat (no padding), and the LM head runs only at positions that carry a loss. Several adapters can train at once on
one frozen base: each has its own data order, loss, clipping, schedule, optimiser and best epoch, and becomes what it
would become alone; they share the passes through the base, of which a small one leaves a GPU mostly idle.

In fp16 the loss is scaled as ``torch.amp.GradScaler`` does it, each adapter's by a scale of its own: a step whose
gradient overflows is skipped, the schedule with it, and the scale halved. A loss that overflows in the pass itself ends
the training with an error, as does a scale below 1: no scale would help there.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from registry.lora.adapter import Adapter, Bank, put_on
from registry.lora.batches import examples_batch
from registry.lora.forward import Forward, input_device, reading, takes_flat
from registry.lora.full import FullWeights, Whole, in_training
from registry.lora.score import is_out_of_memory
from registry.lora.tokens import Example
from registry.study import Recipe

__all__ = ["Assignment", "Training", "hold_out", "mean_loss", "train_adapter", "train_adapters", "train_full"]

_log = logging.getLogger(__name__)
_SAVED_AFTER_SECONDS = 30.0  # an epoch is saved where repeating what came since the last would take longer


@dataclass(frozen=True, slots=True)
class Assignment:
    """One adapter to be trained.

    Attributes
    ----------
    adapter : Adapter
        Where it starts; left as it is.
    examples : sequence of Example
    seed : int
        Decides the order of the examples in every epoch, and dropout.
    checkpoint : Path, optional
        File that keeps finished epochs of a long training. A training that finds it there goes on from it and ends
        with the same weights bit for bit; the caller removes it once the adapter is safe.
    validated : callable, optional
        Told each epoch (from 1) and its validation loss; what it raises ends the training.
    """

    adapter: Adapter
    examples: Sequence[Example]
    seed: int
    checkpoint: Path | None = None
    validated: Callable[[int, float], None] | None = None


@dataclass(frozen=True, slots=True)
class Training:
    """What came of a training.

    Attributes
    ----------
    adapter : Adapter or FullWeights
        The weights of the best epoch.
    losses, learning_rates : list of float
        One per optimiser step; nats per supervised token.
    validation_losses : list of float
        One per epoch, mean over all supervised tokens; empty when nothing was held out.
    kept_epoch : int
        Epoch (from 1) whose weights the adapter has.
    tokens : int
        Input tokens trained on, over all epochs, padding left out.
    validation_tokens : int
        Input tokens of the validations.
    predictions, validation_predictions : int
        Supervised tokens of both.
    seconds : float
        Wall time; of a training shared with other adapters, its share by tokens.
    skipped : int
        Steps left out because their gradient overflowed; only in fp16.
    """

    adapter: Adapter | FullWeights
    losses: list[float]
    learning_rates: list[float]
    validation_losses: list[float]
    kept_epoch: int
    tokens: int
    validation_tokens: int
    predictions: int
    validation_predictions: int
    seconds: float
    skipped: int = 0


def hold_out(examples: Sequence[Example], recipe: Recipe) -> tuple[list[Example], list[Example]]:
    """Split examples into those trained on and those held out for validation, by the recipe's fixed seed."""
    held = math.floor(len(examples) * recipe.validation)
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(recipe.validation_seed)).tolist()
    kept = sorted(order[held:])  # in the data's order: only membership is random
    return [examples[i] for i in kept], [examples[i] for i in sorted(order[:held])]


def train_adapter(
    base: PreTrainedModel,
    assignment: Assignment,
    recipe: Recipe,
    *,
    tokens_per_batch: int | None = None,
    gradient_checkpointing: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Training:
    """Train one adapter; see :func:`train_adapters`.

    Raises
    ------
    FloatingPointError
        If a loss is not finite: the learning rate is too high for this base, or the base is broken.
    """
    (result,) = train_adapters(
        base,
        [assignment],
        recipe,
        tokens_per_batch=tokens_per_batch,
        gradient_checkpointing=gradient_checkpointing,
        progress=progress,
    )
    if isinstance(result, FloatingPointError):
        raise result
    return result


def train_adapters(
    base: PreTrainedModel,
    assignments: Sequence[Assignment],
    recipe: Recipe,
    *,
    tokens_per_batch: int | None = None,
    gradient_checkpointing: bool = False,
    progress: Callable[[float], None] | None = None,
) -> list[Training | FloatingPointError]:
    """Train adapters together on one frozen base, each to what it would become alone.

    Parameters
    ----------
    tokens_per_batch : int, optional
        Most tokens that run through the base at once. A larger step is done in parts whose gradients add up to that
        of the whole; halved where memory does not suffice.
    gradient_checkpointing : bool
        Whether a layer's activations are computed again in the backward pass instead of kept: a third more time,
        several times less memory, the same result.
    progress : callable, optional
        Told the share of steps done, in [0, 1].

    Returns
    -------
    list
        In the order given; an error in the place of an adapter whose loss was not finite, the others train on.

    Raises
    ------
    torch.OutOfMemoryError
        If not even one text fits into memory.
    """
    flat = takes_flat(base)
    if not flat and len(assignments) > 1:  # rows have no slices

        def part(number: int) -> Callable[[float], None] | None:
            return None if progress is None else lambda share: progress((number + share) / len(assignments))

        return [
            result
            for number, one in enumerate(assignments)
            for result in train_adapters(
                base,
                [one],
                recipe,
                tokens_per_batch=tokens_per_batch,
                gradient_checkpointing=gradient_checkpointing,
                progress=part(number),
            )
        ]
    bank = Bank(base, [assignment.adapter for assignment in assignments])
    courses = [
        _Course(
            number,
            one.examples,
            one.seed,
            recipe,
            bank,
            device=input_device(base).type,
            checkpoint=one.checkpoint,
            told=one.validated,
        )
        for number, one in enumerate(assignments)
    ]
    with put_on(base, bank), reading(base, flat=flat) as forward, _training(base, gradient_checkpointing):
        passes = _Passes(base, bank, forward, flat, tokens_per_batch)
        _go(courses, passes, recipe, progress)
    return [course.result() for course in courses]


def train_full(
    base: PreTrainedModel,
    examples: Sequence[Example],
    recipe: Recipe,
    *,
    seed: int,
    tokens_per_batch: int | None = None,
    gradient_checkpointing: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Training:
    """Train every weight of a base, from what it is; the base is itself again afterwards, bit for bit.

    It is alone on its base, and a training that is killed begins anew: an epoch's state is 12 bytes a weight and more,
    96 GB for 8 billion.

    Parameters
    ----------
    seed : int
        Decides the order of the examples in every epoch, and the base's own dropout.
    tokens_per_batch, gradient_checkpointing, progress
        See :func:`train_adapters`.

    Raises
    ------
    FloatingPointError
        If a loss is not finite.
    Refused
        If the base is quantised, or some of it is held elsewhere.
    torch.OutOfMemoryError
        If not even one text fits into memory.
    """
    flat, device = takes_flat(base), input_device(base)
    forked = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(forked), in_training(base) as whole:
        torch.manual_seed(seed)
        course = _Course(0, examples, seed, recipe, whole, device=device.type)
        with reading(base, flat=flat) as forward, _training(base, gradient_checkpointing):
            _go([course], _Passes(base, whole, forward, flat, tokens_per_batch), recipe, progress)
        result = course.result()
    if isinstance(result, FloatingPointError):
        raise result
    return result


def _go(courses: Sequence[_Course], passes: _Passes, recipe: Recipe, progress: Callable[[float], None] | None) -> None:
    """Go every course to its end, step by step together."""
    base = passes.base
    done, steps = 0, sum(course.steps_left for course in courses)
    while active := [course for course in courses if course.steps_left]:
        started = time.perf_counter()
        groups = [course.next_group() for course in active]
        losses = passes.step(active, groups)
        for course, loss in zip(active, losses, strict=True):
            course.finish_step(loss)
        ended = [course for course in active if course.epoch_ended and course.error is None]
        held = [course for course in ended if course.held]
        if held:
            base.eval()
            found = passes.losses(held, [course.held for course in held], recipe.batch_size)
            base.train()
            for course, loss in zip(held, found, strict=True):
                course.validated(loss)
        spent = time.perf_counter() - started
        weights = [sum(len(example.tokens) for example in group) for group in groups]
        for course, weight in zip(active, weights, strict=True):
            course.log.seconds += spent * weight / sum(weights)
        for course in ended:
            if course.error is None:
                course.save()
        done += len(active)
        if progress is not None:
            progress(done / steps)


def mean_loss(base: PreTrainedModel, adapter: Adapter, examples: Sequence[Example], *, batch_size: int) -> float:
    """Mean cross-entropy over all supervised tokens, in nats; a short last batch weighs no more than its tokens."""
    bank, flat = Bank(base, [adapter]), takes_flat(base)
    with put_on(base, bank), reading(base, flat=flat) as forward:
        return _Passes(base, bank, forward, flat, None).losses_of([0], [examples], batch_size)[0]


@dataclass
class _Log:
    """What a training has left behind so far, as a checkpoint keeps it."""

    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    epochs: int = 0
    tokens: int = 0
    validation_tokens: int = 0
    predictions: int = 0
    validation_predictions: int = 0
    seconds: float = 0.0
    skipped: int = 0
    scaler: dict[str, float] = field(default_factory=dict)


class _Course:
    """One way through a training, an adapter's or a whole base's: order, optimiser, schedule, best epoch."""

    def __init__(
        self,
        number: int,
        examples: Sequence[Example],
        seed: int,
        recipe: Recipe,
        bank: Bank | Whole,
        *,
        device: str,
        checkpoint: Path | None = None,
        told: Callable[[int, float], None] | None = None,
    ) -> None:
        self.number = number
        self.seed = seed
        self.examples, self.held = hold_out(examples, recipe)
        if not self.examples:
            given = len(examples)
            raise ValueError(f"{given} examples leave none to train on at validation={recipe.validation}")
        self.log = _Log()
        self.error: FloatingPointError | None = None
        self._recipe = recipe
        self._bank = bank
        self._parameters = bank.parameters[number]
        self._checkpoint = checkpoint
        self._told = told
        self._saved_seconds = 0.0
        self._best: Adapter | FullWeights | None = None
        self._per_epoch = math.ceil(len(self.examples) / recipe.batch_size)
        self._optimiser = torch.optim.AdamW(
            _decayed(self._parameters), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self._scaler = torch.amp.GradScaler(device, enabled=recipe.precision == "fp16")
        total = self._per_epoch * recipe.epochs
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimiser, _linear(total, math.ceil(total * recipe.warmup))
        )
        self._orders = torch.Generator().manual_seed(seed)
        self._groups: Iterator[list[Example]] = iter(())
        if self._checkpoint is not None and self._checkpoint.exists():
            try:
                self._resume(self._checkpoint)
            except SafetensorError as error:
                _log.warning("%s cannot be read (%s): the training starts again", self._checkpoint, error)

    @property
    def steps_left(self) -> int:
        return 0 if self.error else self._per_epoch * self._recipe.epochs - len(self.log.losses)

    @property
    def epoch_ended(self) -> bool:
        return len(self.log.losses) % self._per_epoch == 0

    def next_group(self) -> list[Example]:
        """Return the texts of the next step."""
        if self.epoch_ended:
            order = torch.randperm(len(self.examples), generator=self._orders).tolist()
            size = self._recipe.batch_size
            starts = range(0, len(order), size)
            self._groups = iter([[self.examples[i] for i in order[start : start + size]] for start in starts])
        group = next(self._groups)
        self.log.tokens += _tokens(group)
        self.log.predictions += _supervised(group)
        return group

    @property
    def scales(self) -> bool:
        """Whether the loss is scaled before the backward pass."""
        return bool(self._scaler.is_enabled())

    def scaled(self, loss: Tensor) -> Tensor:
        """Return a loss scaled for the backward pass."""
        scaled: Tensor = self._scaler.scale(loss)
        return scaled

    def finish_step(self, loss: float) -> None:
        """Take the step whose gradient has been computed."""
        step = len(self.log.losses)
        if not math.isfinite(loss):
            others = "bf16 or fp32" if self.scales else "fp32"
            self.error = FloatingPointError(
                f"the loss is {loss} at step {step}: try a lower learning_rate, or precision {others}"
            )
        else:
            self._scaler.unscale_(self._optimiser)
            torch.nn.utils.clip_grad_norm_(self._parameters, self._recipe.clip)
            self.log.learning_rates.append(float(self._schedule.get_last_lr()[0]))
            self.log.losses.append(loss)
            self._move()
            self.log.epochs = len(self.log.losses) // self._per_epoch
        self._optimiser.zero_grad(set_to_none=True)

    def _move(self) -> None:
        """Have the optimiser move the weights; leave the step out, and the schedule where it is, if it overflowed."""
        before = self._scaler.get_scale()
        self._scaler.step(self._optimiser)
        self._scaler.update()
        scale = self._scaler.get_scale()
        if scale >= before:
            self._schedule.step()
            self._bank.moved()
            return
        self.log.skipped += 1
        if scale < 1:
            self.error = FloatingPointError(
                f"gradients overflow in fp16 at step {len(self.log.losses) - 1} however they are scaled; "
                "set recipe.precision to bf16 or fp32"
            )

    def validated(self, loss: float) -> None:
        """Record an epoch's validation loss, and keep its weights if they are the best yet."""
        if not math.isfinite(loss):
            self.error = FloatingPointError(
                f"the validation loss is {loss} after epoch {self.log.epochs}: try a lower learning_rate, "
                "or precision bf16 or fp32"
            )
            return
        self.log.validation_losses.append(loss)
        self.log.validation_tokens += _tokens(self.held)
        self.log.validation_predictions += _supervised(self.held)
        if loss == min(self.log.validation_losses):
            self._best = None  # the former best goes first, so that there is room
            self._best = self._bank.adapter(self.number)
        if self._told is not None:
            self._told(len(self.log.validation_losses), loss)

    def result(self) -> Training | FloatingPointError:
        """Return what came of it."""
        if self.error is not None:
            return self.error
        log, validation = self.log, self.log.validation_losses
        return Training(
            adapter=self._best or self._bank.adapter(self.number),
            losses=log.losses,
            learning_rates=log.learning_rates,
            validation_losses=validation,
            kept_epoch=1 + validation.index(min(validation)) if validation else self._recipe.epochs,
            tokens=log.tokens,
            validation_tokens=log.validation_tokens,
            predictions=log.predictions,
            validation_predictions=log.validation_predictions,
            seconds=log.seconds,
            skipped=log.skipped,
        )

    def save(self) -> None:
        """Keep an epoch's end in the checkpoint file, whole or not at all."""
        if self._checkpoint is None or self.log.seconds - self._saved_seconds < _SAVED_AFTER_SECONDS:
            return
        self.log.scaler = self._scaler.state_dict()
        states = [self._optimiser.state[parameter] for parameter in self._parameters]
        tensors = {f"weight/{place}": weight.detach() for place, weight in enumerate(self._parameters)}
        for name in ("exp_avg", "exp_avg_sq", "step"):
            tensors |= {f"{name}/{place}": state[name] for place, state in enumerate(states)}
        if isinstance(self._best, Adapter):
            best = [weight for pair in self._best.weights.values() for weight in pair]
            tensors |= {f"best/{place}": weight for place, weight in enumerate(best)}
        self._saved_seconds = self.log.seconds
        unfinished = self._checkpoint.with_suffix(f".{os.getpid()}.part")
        try:
            self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
            save_file(
                {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
                unfinished,
                metadata={"log": json.dumps(asdict(self.log))},
            )
            unfinished.replace(self._checkpoint)
        except (OSError, SafetensorError) as error:  # a full disk must not cost the training itself
            unfinished.unlink(missing_ok=True)
            _log.warning("%s: %s; a training that is interrupted will start again", self._checkpoint, error)

    def _resume(self, file: Path) -> None:
        with safe_open(file, framework="pt") as saved:
            self.log = _Log(**json.loads(saved.metadata()["log"]))
            tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
        self._saved_seconds = self.log.seconds
        bank = self._bank
        assert isinstance(bank, Bank), "only adapters are saved on the way"
        names = bank.names

        def adapter(kind: str) -> Adapter:
            weights = [tensors[f"{kind}/{place}"] for place in range(2 * len(names))]
            pairs = zip(weights[::2], weights[1::2], strict=True)
            return Adapter(bank.spec, dict(zip(names, pairs, strict=True)))

        bank.load(self.number, adapter("weight"))
        if "best/0" in tensors:
            self._best = adapter("best")
        for place, parameter in enumerate(self._parameters):
            on = {"step": "cpu"} if parameter.device.type == "cpu" else {}
            self._optimiser.state[parameter] = {
                name: tensors[f"{name}/{place}"].to(on.get(name, parameter.device))
                for name in ("step", "exp_avg", "exp_avg_sq")
            }
        if self.log.scaler:
            self._scaler.load_state_dict(self.log.scaler)
        self._schedule.last_epoch = len(self.log.losses) - self.log.skipped
        for group, rate, factor in zip(
            self._optimiser.param_groups, self._schedule.base_lrs, self._schedule.lr_lambdas, strict=True
        ):
            group["lr"] = rate * factor(self._schedule.last_epoch)
        self._schedule._last_lr = [group["lr"] for group in self._optimiser.param_groups]
        for _ in range(self.log.epochs):  # the orders of the epochs that are done
            torch.randperm(len(self.examples), generator=self._orders)


@dataclass
class _Passes:
    """Forward and backward passes of several adapters' texts, or a whole base's, in parts that fit into memory."""

    base: PreTrainedModel
    bank: Bank | Whole
    forward: Forward
    flat: bool
    budget: int | None

    def step(self, courses: Sequence[_Course], groups: Sequence[Sequence[Example]]) -> list[float]:
        """Leave in every adapter's parameters the gradient of its mean loss; return the losses."""
        numbers = [course.number for course in courses]
        seeds = [hash((course.seed, len(course.log.losses))) for course in courses]
        counts = [_supervised(group) for group in groups]
        while True:
            try:
                sums = torch.zeros(len(groups), dtype=torch.float64)
                for places, parts in self._parts(groups):
                    totals = self._sums([numbers[place] for place in places], parts, [seeds[place] for place in places])
                    means = totals / torch.tensor([counts[place] for place in places], device=totals.device)
                    _total(means, [courses[place] for place in places]).backward()
                    sums[places] += means.detach().double().cpu()
                return sums.tolist()
            except (torch.OutOfMemoryError, RuntimeError) as error:
                self._halve(error, groups)
            for number in numbers:
                for parameter in self.bank.parameters[number]:
                    parameter.grad = None
            gc.collect()
            if input_device(self.base).type == "cuda":
                torch.cuda.empty_cache()

    def losses(self, courses: Sequence[_Course], groups: Sequence[Sequence[Example]], batch_size: int) -> list[float]:
        """Mean loss of each adapter on its own texts."""
        return self.losses_of([course.number for course in courses], groups, batch_size)

    def losses_of(self, numbers: Sequence[int], groups: Sequence[Sequence[Example]], batch_size: int) -> list[float]:
        """Mean loss of each adapter on its own texts, ``batch_size`` at a time."""
        sums = torch.zeros(len(groups), dtype=torch.float64)
        with torch.inference_mode():
            for start in range(0, max(map(len, groups)), batch_size):
                taken = [group[start : start + batch_size] for group in groups]
                here = [place for place, group in enumerate(taken) if group]
                for places, parts in self._parts([taken[place] for place in here]):
                    among = [here[place] for place in places]
                    sums[among] += self._sums([numbers[place] for place in among], parts, None).double().cpu()
        return (sums / torch.tensor([_supervised(group) for group in groups])).tolist()

    def _sums(self, numbers: list[int], groups: list[Sequence[Example]], seeds: list[int] | None) -> Tensor:
        """Summed loss of each adapter over its texts."""
        device = input_device(self.base)
        batch, labels, counts = examples_batch(groups, flat=self.flat)
        self.bank.use(numbers, counts, seeds=seeds)
        logits = self.forward(batch.to(device))
        losses = torch.nn.functional.cross_entropy(logits.float(), labels.to(logits.device), reduction="none")
        return torch.stack([part.sum() for part in losses.split(counts)])

    def _parts(self, groups: Sequence[Sequence[Example]]) -> Iterator[tuple[list[int], list[Sequence[Example]]]]:
        """Divide every adapter's texts into parts that together keep to the budget; yield places and parts."""
        tokens = len(groups) * max(_tokens(group) for group in groups)
        count = 1 if self.budget is None else math.ceil(tokens / self.budget)
        count = min(count, max(map(len, groups)))
        divided = [np.array_split(np.arange(len(group)), count) for group in groups]
        for number in range(count):
            places = [place for place, parts in enumerate(divided) if len(parts[number])]
            yield places, [[groups[place][i] for i in divided[place][number]] for place in places]

    def _halve(self, error: RuntimeError, groups: Sequence[Sequence[Example]]) -> None:
        whole = len(groups) * max(_tokens(group) for group in groups)
        budget = min(self.budget or whole, whole) // 2
        smallest = len(groups) * max(len(example.tokens) - 1 for group in groups for example in group)
        if not is_out_of_memory(error) or budget < smallest // 2:
            raise error
        error.__traceback__ = None  # its frames hold what did not fit
        self.budget = max(1, budget)
        _log.warning("out of memory: training goes on with %d tokens at once", self.budget)


@contextmanager
def _training(base: PreTrainedModel, gradient_checkpointing: bool) -> Iterator[None]:
    if gradient_checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
    base.train()
    try:
        yield
    finally:
        base.eval()
        if gradient_checkpointing:
            base.activation_checkpointing_disable()


def _supervised(examples: Sequence[Example]) -> int:
    return sum(len(example.tokens) - example.supervised_from for example in examples)


def _tokens(examples: Sequence[Example]) -> int:
    return sum(len(example.tokens) - 1 for example in examples)


def _linear(steps: int, warmup: int) -> Callable[[int], float]:
    """Learning-rate factor of transformers' linear schedule: up over ``warmup`` steps, down to zero at ``steps``."""

    def factor(step: int) -> float:
        if step < warmup:
            return step / max(1, warmup)
        return max(0.0, (steps - step) / max(1, steps - warmup))

    return factor


def _decayed(parameters: Sequence[torch.nn.Parameter]) -> list[dict[str, Any]]:
    """Group parameters by whether their weight decays: norms and biases, which have one dimension, do not."""
    matrices = [weight for weight in parameters if weight.ndim > 1]
    vectors = [weight for weight in parameters if weight.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _total(means: Tensor, courses: Sequence[_Course]) -> Tensor:
    """Return what the backward pass starts from: the sum of the courses' mean losses, each scaled as it says."""
    if not courses[0].scales:
        return means.sum()
    return torch.stack([course.scaled(mean) for course, mean in zip(courses, means, strict=True)]).sum()
