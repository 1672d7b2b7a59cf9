"""Fine-tuning one LoRA adapter, step by step what transformers' Trainer does with the same batches.

AdamW, linear warm-up and decay, gradient norm clipped, cross-entropy averaged over a batch's supervised tokens. Batches
are flat (no padding), and the LM head runs only at positions that carry a loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from registry.lora.batches import FlatBatch, flat_batch, windowed
from registry.lora.tokens import Example
from registry.study import Recipe

__all__ = ["Training", "hold_out", "train_adapter"]


@dataclass(frozen=True, slots=True)
class Training:
    """What happened in training.

    Attributes
    ----------
    losses, learning_rates : list of float
        One per optimiser step; nats per supervised token.
    validation_losses : list of float
        One per epoch, mean over all supervised tokens; empty when nothing was held out.
    kept_epoch : int
        Epoch (from 1) whose weights the adapter has.
    tokens : int
        Input tokens seen, over all epochs.
    seconds : float
        Wall time.
    """

    losses: list[float]
    learning_rates: list[float]
    validation_losses: list[float]
    kept_epoch: int
    tokens: int
    seconds: float


def hold_out(examples: Sequence[Example], recipe: Recipe) -> tuple[list[Example], list[Example]]:
    """Split examples into those trained on and those held out for validation, by the recipe's fixed seed."""
    held = math.floor(len(examples) * recipe.validation)
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(recipe.validation_seed)).tolist()
    kept = sorted(order[held:])  # in the data's order: only membership is random
    return [examples[i] for i in kept], [examples[i] for i in sorted(order[:held])]


def train_adapter(
    model: PeftModel,
    examples: Sequence[Example],
    recipe: Recipe,
    *,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> Training:
    """Train the attached adapter in place; afterwards it holds the weights of the best epoch.

    Parameters
    ----------
    seed : int
        Decides the order of the examples in every epoch, and dropout.
    progress : callable, optional
        Told the share of steps done, in [0, 1].

    Raises
    ------
    FloatingPointError
        If a loss is not finite: the learning rate is too high for this base, or the base is broken.
    """
    started = time.perf_counter()
    training, held = hold_out(examples, recipe)
    if not training:
        raise ValueError(f"{len(examples)} examples leave none to train on at validation={recipe.validation}")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    steps_per_epoch = math.ceil(len(training) / recipe.batch_size)
    steps = steps_per_epoch * recipe.epochs
    optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _linear(steps, math.ceil(steps * recipe.warmup)))
    losses: list[float] = []
    rates: list[float] = []
    validation: list[float] = []
    best: dict[str, Tensor] | None = None
    tokens = 0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(recipe.epochs):
            model.train()
            for batch in _batches(training, recipe.batch_size, device=parameters[0].device):
                rates.append(float(schedule.get_last_lr()[0]))
                losses.append(_step(model, batch, parameters, optimiser, recipe.clip, step=len(losses)))
                schedule.step()
                tokens += batch.tokens.numel()
                if progress is not None:
                    progress(len(losses) / steps)
            model.eval()
            if held:
                validation.append(mean_loss(model, held, batch_size=recipe.batch_size))
                if validation[-1] == min(validation):
                    best = {name: weight.clone() for name, weight in get_peft_model_state_dict(model).items()}
    if best is not None:
        set_peft_model_state_dict(model, best)
    kept = 1 + validation.index(min(validation)) if validation else recipe.epochs
    return Training(losses, rates, validation, kept, tokens, time.perf_counter() - started)


def mean_loss(model: PeftModel, examples: Sequence[Example], *, batch_size: int) -> float:
    """Mean cross-entropy over all supervised tokens, in nats; a short last batch weighs no more than its tokens."""
    device = next(model.parameters()).device
    total, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(examples), batch_size):
            batch = flat_batch(examples[start : start + batch_size], device)
            total += _loss(model, batch, reduction="sum").item()
            count += batch.labels.numel()
    return total / count


def _batches(examples: Sequence[Example], size: int, *, device: torch.device) -> list[FlatBatch]:
    order = torch.randperm(len(examples)).tolist()
    return [
        flat_batch([examples[i] for i in order[start : start + size]], device) for start in range(0, len(order), size)
    ]


def _step(
    model: PeftModel,
    batch: FlatBatch,
    parameters: list[torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    clip: float,
    *,
    step: int,
) -> float:
    loss = _loss(model, batch, reduction="mean")
    value = loss.item()
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss is {value} at step {step}: try a lower learning_rate, or precision fp32")
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(parameters, clip)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return value


def _loss(model: PeftModel, batch: FlatBatch, *, reduction: str) -> Tensor:
    logits = model(
        input_ids=batch.tokens,
        position_ids=batch.positions,
        attention_mask=windowed(batch.mask, batch.positions, model.config),
        use_cache=False,  # with a cache, packed rows silently attend across sequences
        logits_to_keep=batch.head,
    ).logits[0]
    return torch.nn.functional.cross_entropy(logits.float(), batch.labels, reduction=reduction)


def _linear(steps: int, warmup: int) -> Callable[[int], float]:
    """Learning-rate factor of transformers' linear schedule: up over ``warmup`` steps, down to zero at ``steps``."""

    def factor(step: int) -> float:
        if step < warmup:
            return step / max(1, warmup)
        return max(0.0, (steps - step) / max(1, steps - warmup))

    return factor
