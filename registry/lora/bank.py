"""LoRA adapters on a base model in memory: several put on at once for training, one merged at a time for scoring.

The base model's own weights never change: merging puts new tensors in their place and keeps the old ones, so that
what is left after any number of adapters is the base bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from registry.errors import Refused
from registry.lora.adapter import Adapter, require_fit
from registry.lora.internals import execution_device
from registry.models.memory import release_freed

__all__ = ["Bank", "draw_seed", "is_resident", "merged", "put_on"]


@contextmanager
def merged(base: PreTrainedModel, adapter: Adapter) -> Iterator[PreTrainedModel]:
    """Put base + adapter in the place of the base's weights for a while; restored bit for bit, never subtracted.

    The sum is taken in float32 and rounded once. Weights that are quantised or held elsewhere stay as they are; there
    the adapter is put on instead.
    """
    require_fit(base, adapter)
    modules = {name: base.get_submodule(name) for name in adapter.weights}
    kept = {name: cast(nn.Parameter, module.weight) for name, module in modules.items() if is_resident(module)}
    left = {name: pair for name, pair in adapter.weights.items() if name not in kept}
    with ExitStack() as stack:
        if left:
            stack.enter_context(put_on(base, Bank(base, [Adapter(adapter.spec, left)])))
        former: dict[str, Tensor] = {}
        try:
            for name, weight in kept.items():
                a, b = (part.to(weight.device) for part in adapter.weights[name])
                former[name] = own = _shortest(weight.data)
                if own.dtype == weight.dtype:
                    weight.data = torch.addmm(own.float(), b, a, alpha=adapter.scaling).to(weight.dtype)
                else:
                    weight.data.addmm_(b, a, alpha=adapter.scaling)
            yield base
        finally:
            for name, own in former.items():
                if own.dtype == kept[name].dtype:
                    kept[name].data = own
                else:
                    kept[name].data.copy_(own)
            former.clear()
            release_freed()


def _shortest(weight: Tensor) -> Tensor:
    """Return a weight in the fewest bits that hold every number of it: most bases are published in 16 bits.

    Made float32 for a study, such a base has its own weights kept in half the memory, and the same bits come back.
    Zeros keep their sign, and what is not a number is no reason to shorten.
    """
    if weight.dtype != torch.float32:
        return weight
    for dtype in (torch.bfloat16, torch.float16):
        # The first row alone shows of most weights that they are float32 in truth.
        if all(torch.equal(part.to(dtype).float(), part) for part in (weight[:1], weight)):
            return weight.to(dtype)
    return weight


class Bank:
    """Adapters of one shape that run together on one base, each on its own slice of a batch.

    Parameters
    ----------
    adapters : sequence of Adapter
        Copied, so that training leaves those given as they are.

    Attributes
    ----------
    parameters : list of list of Parameter
        A and B of each module in turn, adapter by adapter.
    """

    def __init__(self, base: PreTrainedModel, adapters: Sequence[Adapter]) -> None:
        self.spec, self.scaling = adapters[0].spec, adapters[0].scaling
        if any(adapter.spec != self.spec or set(adapter.weights) != set(adapters[0].weights) for adapter in adapters):
            raise ValueError("adapters that run together must have one shape")
        self.names = list(adapters[0].weights)
        devices = [_device(base.get_submodule(name)) for name in self.names]
        self.parameters = [
            [
                nn.Parameter(weight.detach().to(device, torch.float32, copy=True))
                for name, device in zip(self.names, devices, strict=True)
                for weight in adapter.weights[name]
            ]
            for adapter in adapters
        ]
        self._here: list[int] = list(range(len(adapters)))
        self._heads: list[int] = []
        self._tokens: int | None = None
        self._seeds: list[int] | None = None

    def use(
        self,
        adapters: Sequence[int],
        heads: Sequence[int],
        *,
        seeds: Sequence[int] | None = None,
        tokens: int | None = None,
    ) -> None:
        """Say whose slices the next batch has.

        Parameters
        ----------
        heads : sequence of int
            Head positions in each slice.
        seeds : sequence of int, optional
            Decide each adapter's dropout; none is applied without.
        tokens : int, optional
            Of the batch. A module that sees others than all of them, or the heads', cannot be sliced by adapter.
        """
        self._here, self._heads, self._tokens = list(adapters), list(heads), tokens
        self._seeds = list(seeds) if seeds is not None and self.spec.dropout else None

    def moved(self) -> None:
        """Called after each optimiser step; the base's modules read the parameters themselves."""

    def adapter(self, number: int) -> Adapter:
        """Return a copy of an adapter as it is now."""
        weights = [weight.detach().clone() for weight in self.parameters[number]]
        pairs = zip(weights[::2], weights[1::2], strict=True)
        return Adapter(self.spec, dict(zip(self.names, pairs, strict=True)))

    def load(self, number: int, adapter: Adapter) -> None:
        """Overwrite an adapter's weights."""
        given = [weight for name in self.names for weight in adapter.weights[name]]
        with torch.no_grad():
            for parameter, weight in zip(self.parameters[number], given, strict=True):
                parameter.copy_(weight)

    def stacked(self, place: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return A, (adapters, rank, in), and B, (adapters, out, rank), of a module for those in the batch."""
        a, b = ([cast(Tensor, self.parameters[n][2 * place + part]) for n in self._here] for part in (0, 1))
        if len(a) == 1:
            return a[0][None].to(dtype), b[0][None].to(dtype)
        return torch.stack(a).to(dtype), torch.stack(b).to(dtype)

    def sliced(self, states: Tensor) -> Tensor:
        """Return (rows, length, width) by adapter, (adapters, tokens, width), filled up where only heads'."""
        flat = states.flatten(0, -2)
        if len(self._here) > 1 and self._tokens is not None and len(flat) not in (self._tokens, sum(self._heads)):
            raise Refused(
                f"a layer sees {len(flat)} of a batch's {self._tokens} tokens, as routed experts do, so several "
                "adapters cannot be trained on it together; set adapters_at_once: 1"
            )
        if not self._only_heads(len(flat)):
            return flat.reshape(len(self._here), -1, flat.shape[-1])
        return nn.utils.rnn.pad_sequence(list(flat.split(self._heads)), batch_first=True)

    def joined(self, slices: Tensor, shape: torch.Size) -> Tensor:
        """Undo :meth:`sliced`."""
        count = int(torch.Size(shape[:-1]).numel())
        if not self._only_heads(count):
            return slices.reshape(*shape[:-1], slices.shape[-1])
        parts = [part[:heads] for part, heads in zip(slices, self._heads, strict=True)]
        return torch.cat(parts).reshape(*shape[:-1], slices.shape[-1])

    def dropped(self, slices: Tensor, place: int) -> Tensor:
        """Apply each adapter's own dropout. Drawn anew from its seed, so that recomputing a layer draws the same."""
        if self._seeds is None:
            return slices
        keep = 1 - self.spec.dropout
        masks = [
            torch.rand(slices.shape[1:], generator=torch.Generator().manual_seed(draw_seed(seed, place))) < keep
            for seed in self._seeds
        ]
        return slices * (torch.stack(masks).to(slices) / keep)

    def plain(self, count: int) -> bool:
        """Whether a module that sees ``count`` tokens may add the product at once."""
        seen = len(self._here) == 1 or self._tokens is None or count in (self._tokens, sum(self._heads))
        return self._seeds is None and seen and not self._only_heads(count)

    def _only_heads(self, count: int) -> bool:
        # In the last layer some modules see head positions only, which differ in number from adapter to adapter.
        return len(self._here) > 1 and count == sum(self._heads) and len(set(self._heads)) > 1


@contextmanager
def put_on(base: PreTrainedModel, bank: Bank) -> Iterator[None]:
    """Have the base's modules add what a bank's adapters add, token by token; afterwards the base is itself again."""
    modules = [base.get_submodule(name) for name in bank.names]
    former = [module.__dict__.get("forward") for module in modules]
    try:
        for place, module in enumerate(modules):
            module.forward = _with_adapters(module, bank, place)
        yield
    finally:
        for module, forward in zip(modules, former, strict=True):
            if forward is None:
                del module.forward
            else:  # accelerate puts a forward of its own on a module whose weight is elsewhere
                module.forward = forward


def _with_adapters(module: nn.Module, bank: Bank, place: int) -> Any:
    own = module.forward
    fused = is_resident(module) and type(module) is nn.Linear and "forward" not in module.__dict__

    def forward(states: Tensor) -> Any:
        if fused and bank.plain(states.shape[:-1].numel()):
            a, b = bank.stacked(place, states.dtype)
            return _LoraLinear.apply(states, module.weight, module.bias, a, b, bank.scaling)  # type: ignore[no-untyped-call]
        output = own(states)
        a, b = bank.stacked(place, output.dtype)
        slices = bank.dropped(bank.sliced(states.to(a)), place)
        added = torch.bmm(torch.bmm(slices, a.mT), b.mT)
        return output + bank.scaling * bank.joined(added, output.shape)

    return forward


class _LoraLinear(torch.autograd.Function):
    """``x Wᵀ + bias + scaling (x Aᵀ) Bᵀ`` for each adapter's slice, W and bias frozen.

    The products are added in place, forward and backward, where a chain of single operations would write and read
    every activation twice more.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        adapters = len(a)
        output = nn.functional.linear(states, weight, bias)
        slices = states.reshape(adapters, -1, states.shape[-1])
        inner = torch.bmm(slices, a.mT)
        output.view(adapters, -1, output.shape[-1]).baddbmm_(inner, b.mT, alpha=scaling)
        ctx.save_for_backward(states, weight, a, b, inner)
        ctx.scaling = scaling
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, a, b, inner = ctx.saved_tensors
        adapters = len(a)
        slices = states.reshape(adapters, -1, states.shape[-1])
        outer = gradient.reshape(adapters, -1, gradient.shape[-1])
        back = torch.bmm(outer, b).mul_(ctx.scaling)
        for_a = torch.bmm(back.mT, slices)
        for_b = torch.bmm(outer.mT, inner).mul_(ctx.scaling)
        for_states = None
        if ctx.needs_input_grad[0]:
            for_states = gradient.matmul(weight)
            for_states.view(adapters, -1, weight.shape[1]).baddbmm_(back, a)
        return for_states, None, None, for_a, for_b, None


def draw_seed(*entropy: int) -> int:
    """Mix non-negative numbers into a seed, the same on every machine and with every version of Python."""
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def is_resident(module: nn.Module) -> bool:
    """Whether a module's weight is a plain matrix in memory: not quantised, not held elsewhere by accelerate.

    Only into such a weight can an adapter be merged.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(module, nn.Linear) or type(weight) is not nn.Parameter:  # bitsandbytes has subclasses of both
        return False
    return weight.dtype.is_floating_point and weight.device.type != "meta"


def _device(module: nn.Module) -> torch.device:
    """Return where a module computes."""
    return execution_device(module) or next(module.parameters()).device
