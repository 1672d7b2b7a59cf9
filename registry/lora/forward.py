"""Running a causal language model of transformers on laid-out batches, with no more work than the logits need."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from registry.lora.attention import NAME, Prefix, Unsupported
from registry.lora.batches import Batch, prefix_batch
from registry.lora.internals import attention_name, execution_device

__all__ = ["Batching", "Forward", "compute_prefix", "input_device", "reading"]

#: Takes a batch to logits at its ``head`` positions, (heads, vocabulary), in the model's dtype.
Forward = Callable[[Batch], Tensor]


@dataclass(frozen=True, slots=True)
class Batching:
    """How sequences may be put together for a model, so that each is computed as it would be alone.

    Attributes
    ----------
    flat : bool
        Sequences one behind another in a row, the options of a question as siblings behind its context.
    shared : bool
        A beginning that many questions share is computed once for all of them; only where ``flat``.
    padded : bool
        Sequences of several lengths in the rows of one tensor; False is one sequence a pass, as transformers reads it.
    switches : tuple of int
        Lengths above which every position is computed differently; see
        :func:`registry.models.architecture.rope_switches`.
    """

    flat: bool
    shared: bool
    padded: bool
    switches: tuple[int, ...] = ()


@contextmanager
def reading(model: PreTrainedModel, batching: Batching) -> Iterator[Forward]:
    """Have a model read laid-out batches; the yielded function runs it on one.

    The LM head, and in the last layer of flat batches all but keys and values, run at a batch's ``head`` positions
    alone. One sequence a pass is read as transformers does it, without hooks.

    Parameters
    ----------
    batching : Batching
        What the batches are laid out for; see :func:`registry.lora.trial.batching_of`.
    """
    places: list[Tensor] = []
    accepted = inspect.signature(type(model).forward).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    with ExitStack() as stack:
        if batching.flat:
            stack.enter_context(_attending(model))
            for module in _last_layer(model):
                _only_at(stack, module, places)
        if batching.padded:
            _at_head(stack, model.get_output_embeddings(), places)

        def forward(batch: Batch) -> Tensor:
            places[:] = [batch.head]
            given: dict[str, Any] = {"use_cache": False}
            if batching.flat:
                assert batch.layout is not None
                batch.layout.begin()
                given |= {"position_ids": batch.positions, "attention_mask": None, "layout": batch.layout}
            elif batching.padded:  # positions are the architecture's own: not all count from 0
                given |= {"attention_mask": batch.padding}
            known = {key: value for key, value in given.items() if open_ended or key in accepted}
            logits: Tensor = model(input_ids=batch.tokens, **known).logits
            return logits[0] if batching.padded else logits.flatten(0, 1).index_select(0, batch.head)

        yield forward


def input_device(model: PreTrainedModel) -> torch.device:
    """Return the device that a model's token ids belong on."""
    embeddings = model.get_input_embeddings()
    place = execution_device(embeddings)
    if place is not None:  # accelerate holds the weight elsewhere until a pass needs it
        return place
    device = cast(Tensor, embeddings.weight).device
    return device if device.type != "meta" else torch.device(getattr(model, "device", "cpu"))


@contextmanager
def _attending(model: PreTrainedModel) -> Iterator[None]:
    former = attention_name(model)
    model.set_attn_implementation(NAME)
    try:
        if attention_name(model) != NAME:
            raise Unsupported("its attention cannot be replaced")
        yield
    finally:
        model.set_attn_implementation(former)


def _at_head(stack: ExitStack, head: nn.Module | None, places: list[Tensor]) -> None:
    """Have the LM head see the chosen positions only.

    ``logits_to_keep`` takes one set of columns for all rows. A hook on the head takes any set, and leaves whatever an
    architecture does to its logits afterwards (soft-capping, scaling) in place.
    """

    def gather(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = arguments[0].flatten(0, 1)
        return (states.index_select(0, places[0].to(states.device))[None], *arguments[1:])

    if head is None:
        raise Unsupported("its LM head cannot be found")
    stack.callback(head.register_forward_pre_hook(gather).remove)


def _last_layer(model: PreTrainedModel) -> list[nn.Module]:
    """Parts of the last decoder layer that work token by token, and whose result only the LM head reads."""
    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        return []
    last = layers[-1]
    return [part for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp") if (part := _part(last, name)) is not None]


def _part(module: nn.Module, name: str) -> nn.Module | None:
    try:
        return module.get_submodule(name)
    except AttributeError:
        return None


def _only_at(stack: ExitStack, module: nn.Module, places: list[Tensor]) -> None:
    """Have a module that works token by token run at the chosen positions only; elsewhere its result is zero."""
    shapes: list[torch.Size] = []

    def gather(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        states: Tensor = arguments[0]
        shapes[:] = [states.shape]
        return (states.flatten(0, 1).index_select(0, places[0].to(states.device))[None], *arguments[1:])

    def scatter(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        rows, length = shapes[0][:2]
        whole = output.new_zeros(rows * length, output.shape[-1])
        return whole.index_copy(0, places[0].to(output.device), output[0]).view(rows, length, -1)

    stack.callback(module.register_forward_pre_hook(gather).remove)
    stack.callback(module.register_forward_hook(scatter).remove)


def compute_prefix(forward: Forward, tokens: tuple[int, ...], device: torch.device) -> Prefix | None:
    """Compute keys and values of a shared beginning; None for no tokens."""
    if not tokens:
        return None
    batch = prefix_batch(tokens).to(device)
    forward(batch)
    assert batch.layout is not None and batch.layout.prefix is not None
    batch.layout.prefix.filled = True
    return batch.layout.prefix
