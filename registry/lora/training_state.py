"""What a training has to itself: its texts' order, optimiser, schedule, loss scale, best epoch and checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from registry.config.study import Recipe
from registry.lora.adapter import Adapter
from registry.lora.bank import Bank
from registry.lora.checkpoint import read_checkpoint, write_checkpoint
from registry.lora.encoding import Example, input_tokens, supervised_tokens
from registry.lora.full import FullWeights, Whole

__all__ = ["Training", "TrainingState", "hold_out"]

_SAVED_AFTER_SECONDS = 30.0  # an epoch is saved where repeating what came since the last would take longer


@dataclass(frozen=True, slots=True)
class Training:
    """What came of a training.

    Attributes
    ----------
    adapter : Adapter or FullWeights
        The weights of the best epoch.
    losses, learning_rates : list of float
        One per optimiser step; nats per supervised token. Empty for an adapter that was made without training.
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
        In which its tokens were trained on: passes and optimiser steps, without validation, copies and checkpoints. Of
        a training shared with other adapters, its share by tokens.
    validation_seconds : float
        In which the tokens of its validations were read, likewise.
    skipped : int
        Steps left out because their gradient overflowed; only in fp16.
    cut_texts : int
        Texts, trained on or held out, that lost their left side to fit the longest input.
    """

    adapter: Adapter | FullWeights
    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    kept_epoch: int = 0
    tokens: int = 0
    validation_tokens: int = 0
    predictions: int = 0
    validation_predictions: int = 0
    seconds: float = 0.0
    skipped: int = 0
    validation_seconds: float = 0.0
    cut_texts: int = 0


def hold_out(examples: Sequence[Example], recipe: Recipe) -> tuple[list[Example], list[Example]]:
    """Split examples into those trained on and those held out for validation, by the recipe's fixed seed."""
    held = math.floor(len(examples) * recipe.validation)
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(recipe.validation_seed)).tolist()
    kept = sorted(order[held:])  # in the data's order: only membership is random
    return [examples[i] for i in kept], [examples[i] for i in sorted(order[:held])]


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
    validation_seconds: float = 0.0
    skipped: int = 0
    scaler: dict[str, float] = field(default_factory=dict)


class TrainingState:
    """One way through a training, an adapter's or a whole base's: order, optimiser, schedule, best epoch.

    Raises
    ------
    ValueError
        If the share held out for validation leaves no example to train on.
    """

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
        validated: Callable[[int, float], None] | None = None,
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
        self._validated = validated
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
        saved = None if self._checkpoint is None else read_checkpoint(self._checkpoint)
        if saved is not None:
            self._resume(*saved)

    @property
    def steps_left(self) -> int:
        """Optimiser steps to go; none after an error."""
        return 0 if self.error else self._per_epoch * self._recipe.epochs - len(self.log.losses)

    @property
    def epoch_ended(self) -> bool:
        """Whether the last step ended an epoch, or none was taken."""
        return len(self.log.losses) % self._per_epoch == 0

    def next_group(self) -> list[Example]:
        """Return the texts of the next step."""
        if self.epoch_ended:
            order = torch.randperm(len(self.examples), generator=self._orders).tolist()
            size = self._recipe.batch_size
            starts = range(0, len(order), size)
            self._groups = iter([[self.examples[i] for i in order[start : start + size]] for start in starts])
        group = next(self._groups)
        self.log.tokens += input_tokens(group)
        self.log.predictions += supervised_tokens(group)
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
        self.log.validation_tokens += input_tokens(self.held)
        self.log.validation_predictions += supervised_tokens(self.held)
        if loss == min(self.log.validation_losses):
            self._best = None  # the former best goes first, so that there is room
            self._best = self._bank.adapter(self.number)
        if self._validated is not None:
            self._validated(len(self.log.validation_losses), loss)

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
            validation_seconds=log.validation_seconds,
            cut_texts=sum(example.cut > 0 for example in (*self.examples, *self.held)),
        )

    def save(self) -> None:
        """Keep an epoch's end in the checkpoint file, whole or not at all."""
        spent = self.log.seconds + self.log.validation_seconds
        if self._checkpoint is None or spent - self._saved_seconds < _SAVED_AFTER_SECONDS:
            return
        self.log.scaler = self._scaler.state_dict()
        states = [self._optimiser.state[parameter] for parameter in self._parameters]
        tensors = {f"weight/{place}": weight.detach() for place, weight in enumerate(self._parameters)}
        for name in ("exp_avg", "exp_avg_sq", "step"):
            tensors |= {f"{name}/{place}": state[name] for place, state in enumerate(states)}
        if isinstance(self._best, Adapter):
            best = [weight for pair in self._best.weights.values() for weight in pair]
            tensors |= {f"best/{place}": weight for place, weight in enumerate(best)}
        self._saved_seconds = spent
        write_checkpoint(self._checkpoint, tensors, asdict(self.log))

    def _resume(self, tensors: Mapping[str, Tensor], log: Mapping[str, Any]) -> None:
        self.log = _Log(**log)
        self._saved_seconds = self.log.seconds + self.log.validation_seconds
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
