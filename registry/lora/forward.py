"""Running a causal language model of transformers on laid-out batches, with no more work than the logits need."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from registry.lora.attention import NAME, Unsupported
from registry.lora.batches import Batch, scoring_batch
from registry.lora.rows import question_rows
from registry.lora.tokens import Continuations

__all__ = ["Forward", "reading", "takes_flat"]

#: Takes a batch to logits at its ``head`` positions, (heads, vocabulary), in the model's dtype.
Forward = Callable[[Batch], Tensor]

_log = logging.getLogger(__name__)
_DIFFERS = 0.05  # relative difference of logits: rounding in bfloat16 stays below it, a lost context far above
_known: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


@contextmanager
def reading(model: PreTrainedModel, *, flat: bool) -> Iterator[Forward]:
    """Have a model read laid-out batches; the yielded function runs it on one.

    The LM head, and in the last layer all but keys and values, run at a batch's ``head`` positions alone.

    Parameters
    ----------
    flat : bool
        Whether batches are flat (see :func:`takes_flat`) or in rows.
    """
    places: list[Tensor] = []
    with ExitStack() as stack:
        if flat:
            stack.enter_context(_attending(model))
            for module in _last_layer(model):
                _only_at(stack, module, places)
        _at_head(stack, model.get_output_embeddings(), places)

        def forward(batch: Batch) -> Tensor:
            places[:] = [batch.head]
            extra = {"layout": batch.layout} if flat else {}
            logits: Tensor = model(
                input_ids=batch.tokens,
                position_ids=batch.positions,
                attention_mask=batch.padding,
                use_cache=False,
                **extra,
            ).logits
            return logits[0]

        yield forward


def takes_flat(model: PreTrainedModel) -> bool:
    """Whether a model gives on flat batches the logits that it gives on plain rows; tried once, and said if not.

    It does where its attention goes through transformers' attention interface and nothing else mixes tokens. Linear
    and chunked attention, recurrent layers, attention sinks and position biases do not.
    """
    if model not in _known:
        reason = _obstacle(model)
        _known[model] = reason is None
        if reason is not None:
            _log.warning("%s runs one option per row, several times slower: %s", model.config.model_type, reason)
    return _known[model]


def _obstacle(model: PreTrainedModel) -> str | None:
    """Return why a model cannot read flat batches, None if it can."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - {
        "full_attention",
        "sliding_attention",
    }
    if kinds:
        return f"it has layers of kind {', '.join(sorted(kinds))}"
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size

    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (count,), generator=generator).tolist())

    queries = [Continuations(draw(7), (draw(3), draw(3))), Continuations(draw(4), (draw(2), draw(4)))]
    found = []
    with torch.inference_mode(), _evaluating(model):
        for flat in (True, False):
            rows = question_rows(queries, max_length=32, siblings=flat)
            batch = scoring_batch(rows, flat=flat).to(input_device(model))
            order = torch.tensor(
                [place for _, place in sorted(zip(batch.sequences, batch.starts.tolist(), strict=True))]
            )
            try:
                with reading(model, flat=flat) as forward:
                    found.append(forward(batch.batch).float()[batch.predictor[order + 1]].cpu())
            except Unsupported as error:
                return str(error)
            except (TypeError, ValueError, AttributeError, IndexError) as error:
                if not flat:
                    raise
                return f"{type(error).__name__}: {error}"
    one, other = found
    difference = float((one - other).norm() / (other - other.mean(dim=-1, keepdim=True)).norm())
    return None if difference < _DIFFERS else f"its logits differ by {100 * difference:.0f} % with several in a row"


def input_device(model: PreTrainedModel) -> torch.device:
    """Return the device that a model's token ids belong on."""
    embeddings = model.get_input_embeddings()
    place = getattr(getattr(embeddings, "_hf_hook", None), "execution_device", None)
    if place is not None:  # accelerate holds the weight elsewhere until a pass needs it
        return torch.device(place)
    device = cast(Tensor, embeddings.weight).device
    return device if device.type != "meta" else torch.device(getattr(model, "device", "cpu"))


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def _attending(model: PreTrainedModel) -> Iterator[None]:
    former = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        if model.config._attn_implementation != NAME:
            raise Unsupported("its attention cannot be replaced")
        yield
    finally:
        model.set_attn_implementation(former)


def _at_head(stack: ExitStack, head: nn.Module, places: list[Tensor]) -> None:
    """Have the LM head see the chosen positions only.

    ``logits_to_keep`` takes one set of columns for all rows. A hook on the head takes any set, and leaves whatever an
    architecture does to its logits afterwards (soft-capping, scaling) in place.
    """

    def gather(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = arguments[0].flatten(0, 1)
        return (states.index_select(0, places[0].to(states.device))[None], *arguments[1:])

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
