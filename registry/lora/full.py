"""Full fine-tuning of a base model in memory: every weight trained, put in place for scoring, taken out again, saved.

Trained are a model's parameters, embeddings and LM head among them (once where they are tied). Buffers are none, and a
weight that no text reaches, such as a vision tower's, gets no gradient and stays. Meanwhile the base's own tensors are
set aside in the machine's memory; afterwards they are put back, bit for bit.

The optimiser moves float32 weights whatever the base's precision is: in bf16 neighbouring
numbers around 0.1 are 5e-4 apart, and a step of 5e-5 would be lost. The passes run on copies rounded to the base's
precision, and these are what is kept: 2 bytes a weight, the same scored fresh as from their file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from registry.errors import Refused

__all__ = ["FullWeights", "Whole", "in_training", "replaced", "require_trainable", "save_full"]


@dataclass(frozen=True)
class FullWeights:
    """Every weight of a fine-tuned base, apart from any model.

    Attributes
    ----------
    weights : mapping of parameter name to Tensor
        In the machine's memory and the precision of the base; tied weights once.
    """

    weights: Mapping[str, Tensor]

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(weight.numel() for weight in self.weights.values())

    @classmethod
    def of(cls, model: PreTrainedModel) -> FullWeights:
        """Return a model's own tensors, not copied where they are in the machine's memory."""
        return cls({name: weight.detach().to("cpu") for name, weight in model.named_parameters()})


class Whole:
    """A base's own weights in training, in the place of a bank of adapters; made by :func:`in_training`.

    Attributes
    ----------
    parameters : list of one list of Parameter
        What the optimiser moves, float32: the base's own parameters, or where these have fewer bits a float32 weight
        for each, to which the gradients of the rounded one are added as they come.
    """

    def __init__(self, base: PreTrainedModel) -> None:
        self._rounded = dict(base.named_parameters())
        self.parameters: list[list[nn.Parameter]] = [[]]
        self._hooks = []
        for weight in self._rounded.values():
            weight.data = weight.data.clone()
            weight.requires_grad_(True)
            moved = weight
            if weight.dtype != torch.float32:
                moved = nn.Parameter(weight.detach().float())
                self._hooks.append(weight.register_post_accumulate_grad_hook(_collecting(moved)))
            self.parameters[0].append(moved)

    def use(
        self,
        adapters: Sequence[int],
        heads: Sequence[int],
        *,
        seeds: Sequence[int] | None = None,
        tokens: int | None = None,
    ) -> None:
        """Take note of the next batch; there is nothing to choose."""

    def adapter(self, number: int) -> FullWeights:
        """Return a copy of the weights as they are now."""
        return FullWeights({name: weight.detach().to("cpu", copy=True) for name, weight in self._rounded.items()})

    def moved(self) -> None:
        """Round what the optimiser has moved."""
        for weight, moved in zip(self._rounded.values(), self.parameters[0], strict=True):
            if moved is not weight:
                weight.data.copy_(moved.data)

    def close(self) -> None:
        """Leave the base's parameters without hooks."""
        for hook in self._hooks:
            hook.remove()


@contextmanager
def in_training(base: PreTrainedModel) -> Iterator[Whole]:
    """Have a base's weights trained from what they are; afterwards they are what they were.

    Raises
    ------
    Refused
        If some are quantised, or held elsewhere until a pass needs them.
    """
    require_trainable(base)
    with _set_aside(base):
        whole = Whole(base)
        try:
            yield whole
        finally:
            whole.close()


@contextmanager
def replaced(base: PreTrainedModel, full: FullWeights) -> Iterator[PreTrainedModel]:
    """Put fine-tuned weights in the place of the base's for a while; restored bit for bit."""
    require_trainable(base)
    with _set_aside(base):
        for name, weight in base.named_parameters():
            weight.data = full.weights[name].to(weight.device, weight.dtype)
        yield base


def save_full(base: PreTrainedModel, full: FullWeights, folder: Path, *, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a folder that ``from_pretrained`` loads: configuration, weights as safetensors, tokenizer."""
    with replaced(base, full):
        base.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def require_trainable(base: PreTrainedModel) -> None:
    """Refuse a base of which some weights are not there as plain numbers.

    Raises
    ------
    Refused
        With the remedy.
    """
    for name, weight in base.named_parameters():
        if type(weight) is not nn.Parameter or not weight.dtype.is_floating_point:  # bitsandbytes has its own classes
            raise Refused(f"method full trains every weight, and {name} is quantised; set quantization: null")
        if weight.device.type == "meta":
            raise Refused(
                f"method full trains every weight, and {name} is held elsewhere because memory is short; "
                "set recipe.method: lora, or take a smaller model"
            )


def _collecting(moved: nn.Parameter) -> Callable[[Tensor], None]:
    """Return a hook that adds a rounded weight's gradient to the float32 one's, and frees it."""

    def collect(weight: Tensor) -> None:
        gradient, weight.grad = weight.grad, None  # first of all: should memory not suffice, nothing is left behind
        if gradient is None:
            return
        if moved.grad is None:
            moved.grad = gradient.float()
        else:
            moved.grad.add_(gradient)

    return collect


@contextmanager
def _set_aside(base: PreTrainedModel) -> Iterator[None]:
    """Keep a base's own tensors in the machine's memory while others are in their place."""
    weights = list(base.parameters())
    own = [(weight.data.to("cpu"), weight.device, weight.requires_grad) for weight in weights]
    try:
        yield
    finally:
        for weight in weights:
            weight.grad = None
        for weight, (tensor, device, required) in zip(weights, own, strict=True):
            weight.requires_grad_(required)
            weight.data = weight.data.new_empty(0)  # what stood there goes first, so that there is room
            weight.data = tensor.to(device)
