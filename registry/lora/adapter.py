"""LoRA adapters apart from any base: made, saved, read. PEFT makes fresh weights and defines the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from registry.config.study import LoraSpec
from registry.errors import Refused
from registry.files.adapter import WEIGHTS, check_weights, read_config, tensor_name
from registry.models.projections import projections, spec_targets

__all__ = ["Adapter", "fresh_adapter", "read_adapter", "require_fit", "save_adapter"]


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


def fresh_adapter(base: PreTrainedModel, spec: LoraSpec, *, seed: int) -> Adapter:
    """Make an adapter as PEFT does, its initial weights decided by ``seed``; it changes nothing yet, B being zero.

    Raises
    ------
    ValueError
        If the base has none of the projections the adapter names.
    """
    spec = replace(spec, targets=spec_targets(base, spec))
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
        tensor_name(name, letter): weight.detach().cpu().contiguous()
        for name, pair in adapter.weights.items()
        for letter, weight in zip("AB", pair, strict=True)
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def read_adapter(folder: Path) -> Adapter:
    """Read the adapter saved in a PEFT folder; nothing in it is unpickled, no class that it names is loaded.

    Raises
    ------
    Refused
        If the folder holds no LoRA adapter as a study writes it, or its weights do not fit together.
    """
    try:
        spec = read_config(folder).spec
        modules = check_weights(folder, spec)
        tensors = load_file(folder / WEIGHTS)
    except Refused as error:
        raise Refused(f"{folder} holds no LoRA adapter that can be read: {error}") from None
    except (OSError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        raise Refused(f"{folder} holds no LoRA adapter that can be read ({reason})") from None
    return Adapter(spec, {name: (tensors[tensor_name(name, "A")], tensors[tensor_name(name, "B")]) for name in modules})


def require_fit(base: nn.Module, adapter: Adapter) -> None:
    """Refuse an adapter that has weights for modules which a base lacks, or has in another size.

    Raises
    ------
    Refused
        With the module's name and the sizes.
    """
    sizes = projections(base)
    for name, (a, b) in adapter.weights.items():
        found, wanted = sizes.get(name), (a.shape[1], b.shape[0])
        if found != wanted:
            reason = (
                "has no such projection" if found is None else f"has it with {found[0]} inputs and {found[1]} outputs"
            )
            raise Refused(
                f"the adapter does not fit this base: it is for {name[:200]!r} with {wanted[0]} inputs and {wanted[1]} "
                f"outputs, and the base {reason}"
            )


def _shell(base: PreTrainedModel) -> nn.Module:
    """Return a model with the names and sizes of the base's projections and none of their weights.

    PEFT puts fresh weights where the base's own are: for a base held elsewhere that is nowhere at all.
    """
    shell = nn.Module()
    for name, sizes in projections(base).items():
        place = shell
        *path, last = name.split(".")
        for part in path:
            if part not in dict(place.named_children()):
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
