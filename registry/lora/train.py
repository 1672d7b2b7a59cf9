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

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from registry.config.study import Recipe
from registry.lora.adapter import Adapter
from registry.lora.bank import Bank, put_on
from registry.lora.encoding import Example
from registry.lora.forward import input_device, reading
from registry.lora.full import in_training
from registry.lora.microbatches import Microbatches
from registry.lora.training_state import Training, TrainingState, hold_out
from registry.lora.trial import batching_of
from registry.models.memory import release_freed

__all__ = ["Assignment", "Training", "hold_out", "train_adapter", "train_adapters", "train_full"]


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
        Called with each epoch (from 1) and its validation loss; what it raises ends the training.
    """

    adapter: Adapter
    examples: Sequence[Example]
    seed: int
    checkpoint: Path | None = None
    validated: Callable[[int, float], None] | None = None


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
    ValueError
        If no example is left to train on.
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
        Called with the share of steps done, in [0, 1].

    Returns
    -------
    list
        In the order given; an error in the place of an adapter whose loss was not finite, the others train on.

    Raises
    ------
    ValueError
        If an assignment has no example left to train on, or the adapters are not of one shape.
    torch.OutOfMemoryError
        If not even one text fits into memory.
    """
    batching = batching_of(base)
    if not batching.flat and len(assignments) > 1:  # rows have no slices

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
    states = [
        TrainingState(
            number,
            one.examples,
            one.seed,
            recipe,
            bank,
            device=input_device(base).type,
            checkpoint=one.checkpoint,
            validated=one.validated,
        )
        for number, one in enumerate(assignments)
    ]
    with put_on(base, bank), reading(base, batching) as forward, _training(base, gradient_checkpointing):
        passes = Microbatches(base, bank, forward, batching, tokens_per_batch)
        _run_together(states, passes, recipe, progress)
    return [state.result() for state in states]


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
    ValueError
        If no example is left to train on.
    torch.OutOfMemoryError
        If not even one text fits into memory.
    """
    batching, device = batching_of(base), input_device(base)
    forked = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(forked), in_training(base) as whole:
        torch.manual_seed(seed)
        state = TrainingState(0, examples, seed, recipe, whole, device=device.type)
        with reading(base, batching) as forward, _training(base, gradient_checkpointing):
            _run_together([state], Microbatches(base, whole, forward, batching, tokens_per_batch), recipe, progress)
        result = state.result()
    if isinstance(result, FloatingPointError):
        raise result
    return result


def _run_together(
    states: Sequence[TrainingState], passes: Microbatches, recipe: Recipe, progress: Callable[[float], None] | None
) -> None:
    """Run several trainings to their ends, step by step together."""
    base = passes.base
    done, steps = 0, sum(state.steps_left for state in states)
    while active := [state for state in states if state.steps_left]:
        started = time.perf_counter()
        groups = [state.next_group() for state in active]
        losses = passes.step(active, groups)
        for state, loss in zip(active, losses, strict=True):
            state.finish_step(loss)
        spent = time.perf_counter() - started
        for state, share in _shares(active, groups):
            state.log.seconds += share * spent
        ended = [state for state in active if state.epoch_ended and state.error is None]
        held = [state for state in ended if state.held]
        if held:
            base.eval()
            started = time.perf_counter()
            found = passes.losses([state.number for state in held], [state.held for state in held], recipe.batch_size)
            spent = time.perf_counter() - started
            base.train()
            for state, share in _shares(held, [state.held for state in held]):
                state.log.validation_seconds += share * spent
            for state, loss in zip(held, found, strict=True):
                state.validated(loss)
        for state in ended:
            if state.error is None:
                state.save()
        done += len(active)
        if progress is not None:
            progress(done / steps)
    release_freed()


def _shares(states: Sequence[TrainingState], groups: Sequence[Sequence[Example]]) -> list[tuple[TrainingState, float]]:
    """Return each state with its share of the tokens that went through the base together."""
    weights = [sum(len(example.tokens) for example in group) for group in groups]
    return [(state, weight / sum(weights)) for state, weight in zip(states, weights, strict=True)]


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
