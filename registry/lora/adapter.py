"""LoRA adapters beside a resident base: made, put on for training, merged in memory for scoring, saved, read.

The base model's own weights never change: merging puts new tensors in their place and keeps the old ones, so that
what is left after any number of adapters is the base bit for bit. PEFT makes fresh weights and defines the files.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from registry.refusal import Refused
from registry.study import LoraSpec

__all__ = [
    "Adapter",
    "Bank",
    "fresh_adapter",
    "is_resident",
    "load_adapter",
    "merged",
    "put_on",
    "read_adapter",
    "save_adapter",
]

_PREFIX = "base_model.model."  # what PEFT's files put before a module's name

#: What PEFT, JSON, safetensors and the checks of a specification raise at files that are not as they should be.
_MALFORMED = (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError, RecursionError)


@dataclass(frozen=True)
class Adapter:
    """The weights of one adapter, apart from any model.

    Attributes
    ----------
    weights : mapping of module name to (A, B)
        Float32 tensors, (rank, in) and (out, rank); the module gains ``scaling * B @ A``.
    """

    spec: LoraSpec
    weights: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def scaling(self) -> float:
        """Factor of the product, alpha / rank."""
        return self.spec.alpha / self.spec.rank

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(a.numel() + b.numel() for a, b in self.weights.values())

    def to(self, device: torch.device | str) -> Adapter:
        """Return the adapter on a device."""
        return Adapter(self.spec, {name: (a.to(device), b.to(device)) for name, (a, b) in self.weights.items()})


def fresh_adapter(base: PreTrainedModel, spec: LoraSpec, *, seed: int) -> Adapter:
    """Make an adapter as PEFT does, its initial weights decided by ``seed``; it changes nothing yet, B being zero.

    Raises
    ------
    ValueError
        If the base has none of the projections the adapter names.
    """
    with torch.random.fork_rng():
        shell = _shell(base)
        torch.manual_seed(seed)
        inject_adapter_in_model(_config(spec), shell)
    layers = {name: layer for name, layer in shell.named_modules() if isinstance(layer, LoraLayer)}
    pairs = {
        name: tuple(cast(Tensor, part["default"].weight).detach() for part in (layer.lora_A, layer.lora_B))
        for name, layer in layers.items()
    }
    return Adapter(spec, cast(Mapping[str, tuple[Tensor, Tensor]], pairs))


def save_adapter(adapter: Adapter, folder: Path, *, base_reference: str, base_revision: str | None) -> None:
    """Write a PEFT folder: ``adapter_config.json`` and ``adapter_model.safetensors``.

    Parameters
    ----------
    base_reference
        What the configuration names as its base: a hub id, never a path of this machine.
    """
    config = _config(adapter.spec)
    config.inference_mode = True
    config.base_model_name_or_path, config.revision = base_reference, base_revision
    config.save_pretrained(str(folder))
    tensors = {
        f"{_PREFIX}{name}.lora_{letter}.weight": weight.detach().cpu().contiguous()
        for name, pair in adapter.weights.items()
        for letter, weight in zip("AB", pair, strict=True)
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def read_adapter(folder: Path) -> Adapter:
    """Read the adapter saved in a PEFT folder; nothing in it is unpickled, no class that it names is loaded.

    Raises
    ------
    Refused
        If the folder holds no LoRA adapter, or its weights do not fit together.
    """
    try:
        adapter = _read(folder)
    except _MALFORMED as error:
        told = f"{type(error).__name__}: {str(error)[:300]}"
        raise Refused(f"{folder} holds no LoRA adapter that can be read ({told}); pull or train it again") from None
    for name, (a, b) in adapter.weights.items():
        if a.ndim != 2 or b.ndim != 2 or not a.shape[0] == b.shape[1] == adapter.spec.rank:
            shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
            raise Refused(f"{folder}: the weights of {name[:200]!r} are {shapes}, the rank is {adapter.spec.rank}")
    return adapter


def _read(folder: Path) -> Adapter:
    config = LoraConfig.from_pretrained(str(folder))
    tensors = load_file(folder / "adapter_model.safetensors")
    names = [name.removeprefix(_PREFIX).removesuffix(".lora_A.weight") for name in tensors if "lora_A" in name]
    spec = LoraSpec(
        rank=config.r,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        targets=tuple(sorted(config.target_modules)),
    )
    pairs = {
        name: (tensors[f"{_PREFIX}{name}.lora_A.weight"], tensors[f"{_PREFIX}{name}.lora_B.weight"]) for name in names
    }
    return Adapter(spec, pairs)


def load_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """Have PEFT attach the adapter saved in a folder, for good."""
    with _old_name():
        model: PeftModel = PeftModel.from_pretrained(base, str(folder), use_safetensors=True)
    return model


@contextmanager
def merged(base: PreTrainedModel, adapter: Adapter) -> Iterator[PreTrainedModel]:
    """Put base + adapter in the place of the base's weights for a while; restored bit for bit, never subtracted.

    The sum is taken in float32 and rounded once. Weights that are quantised or held elsewhere stay as they are; there
    the adapter is put on instead.
    """
    modules = {name: base.get_submodule(name) for name in adapter.weights}
    kept = {name: cast(nn.Parameter, module.weight) for name, module in modules.items() if is_resident(module)}
    left = {name: pair for name, pair in adapter.weights.items() if name not in kept}
    with ExitStack() as stack:
        if left:
            stack.enter_context(put_on(base, Bank(base, [Adapter(adapter.spec, left)])))
        former = {name: weight.data for name, weight in kept.items()}
        try:
            for name, weight in kept.items():
                a, b = (part.to(weight.device) for part in adapter.weights[name])
                weight.data = torch.addmm(former[name].float(), b, a, alpha=adapter.scaling).to(weight.dtype)
            yield base
        finally:
            for name, weight in kept.items():
                weight.data = former[name]


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
        self._seeds: list[int] | None = None

    def use(self, adapters: Sequence[int], heads: Sequence[int], *, seeds: Sequence[int] | None = None) -> None:
        """Say whose slices the next batch has.

        Parameters
        ----------
        heads : sequence of int
            Head positions in each slice.
        seeds : sequence of int, optional
            Decide each adapter's dropout; none is applied without.
        """
        self._here, self._heads = list(adapters), list(heads)
        self._seeds = list(seeds) if seeds is not None and self.spec.dropout else None

    def moved(self) -> None:
        """Hear of an optimiser's step; the base's modules read the parameters themselves."""

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
            torch.rand(slices.shape[1:], generator=torch.Generator().manual_seed(hash((seed, place)) % 2**62)) < keep
            for seed in self._seeds
        ]
        return slices * (torch.stack(masks).to(slices) / keep)

    def plain(self, count: int) -> bool:
        """Whether a module that sees ``count`` tokens may add the product without more ado."""
        return self._seeds is None and not self._only_heads(count)

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
            else:  # accelerate puts a forward of its own on a module whose weight lies elsewhere
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
    place = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return torch.device(place) if place is not None else next(module.parameters()).device


def _shell(base: PreTrainedModel) -> nn.Module:
    """Return a model with the names and sizes of the base's projections and none of their weights.

    PEFT puts fresh weights where the base's own are: for a base held elsewhere that is nowhere at all.
    """
    shell = nn.Module()
    for name, module in base.named_modules():
        if isinstance(module, nn.Linear):
            sizes = module.in_features, module.out_features
        elif isinstance(module, Conv1D):
            sizes = module.nx, module.nf
        else:
            continue
        place = shell
        *path, last = name.split(".")
        for part in path:
            if part not in place._modules:
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        projection = nn.Linear(1, 1)
        projection.in_features, projection.out_features = sizes
        place.add_module(last, projection)
    return shell


def _config(spec: LoraSpec) -> LoraConfig:
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]
        lora_dropout=spec.dropout,
        target_modules=list(spec.targets),
    )


@contextmanager
def _old_name() -> Iterator[None]:
    """Keep to itself that PEFT asks transformers for a property under its old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
