"""An adapter merged into its base: one model, as ``save_pretrained`` writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast, get_args

import torch
from safetensors import safe_open
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from registry.cards.base_model import Dtype
from registry.config.study import BaseSpec
from registry.errors import Refused
from registry.lora.adapter import Adapter, read_adapter, require_fit
from registry.lora.bank import is_resident
from registry.models.base import Base, skeleton_of
from registry.models.loading import load_tokenizer
from registry.models.memory import require_memory
from registry.models.weight_files import folder_weights

__all__ = ["DTYPES", "merge_into", "write_merged"]

DTYPES: Mapping[str, torch.dtype] = {name: getattr(torch, name) for name in get_args(Dtype)}

# How safetensors call the types that a base's weights may lie in.
_STORED = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


def write_merged(base: Base, adapter_folder: Path, folder: Path, dtype: Dtype) -> None:
    """Write base + adapter, configuration and tokenizer into a folder, weights as safetensors.

    Raises
    ------
    Refused
        If it does not fit into memory or into the data type, or the adapter changes weights that the base ties.
    """
    spec = BaseSpec(name=base.name, path=None if base.hub_revision else base.location, revision=base.hub_revision)
    logging.disable_progress_bar()  # it counts tensors, in no time
    require_memory(skeleton_of(spec), base.name, dtype=DTYPES[dtype], device="cpu", placement="one", quantization=None)
    model: PreTrainedModel = base.loader().from_pretrained(
        base.location,
        revision=base.hub_revision,
        dtype=_stored_dtype(base),
        use_safetensors=True,
    )
    merge_into(model, read_adapter(adapter_folder), DTYPES[dtype])
    model.save_pretrained(folder)
    load_tokenizer(base).save_pretrained(folder)


def merge_into(model: PreTrainedModel, adapter: Adapter, dtype: torch.dtype) -> None:
    """Add an adapter to a model's weights for good; the sum is taken in float32 and rounded to ``dtype`` once."""
    model.requires_grad_(False)
    require_fit(model, adapter)
    weights = {name: cast(nn.Linear, model.get_submodule(name)) for name in adapter.weights}
    _refuse_tied(model, weights)
    for name, module in weights.items():
        if not is_resident(module):
            raise Refused(f"{name} is no plain matrix in memory, so nothing can be merged into it")
        a, b = adapter.weights[name]
        total = torch.addmm(module.weight.data.float(), b.float(), a.float(), alpha=adapter.scaling)
        module.weight.data = total.to(dtype)
        if not bool(torch.isfinite(module.weight.data).all()):
            raise Refused(f"{name} has sums that {dtype} cannot hold; take bfloat16 or float32")
    model.to(dtype)  # type: ignore[arg-type]


def _refuse_tied(model: nn.Module, weights: Mapping[str, nn.Linear]) -> None:
    """Refuse to merge into a matrix that another module reads too, as a tied LM head is also the embeddings."""
    owners: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for weight in module.parameters(recurse=False):
            owners.setdefault(id(weight), []).append(path)
    for name, module in weights.items():
        others = [path for path in owners[id(module.weight)] if path != name]
        if others:
            raise Refused(f"{name} shares its weights with {others[0]}: merged, the adapter would change both")


def _stored_dtype(base: Base) -> torch.dtype:
    """Return the data type that a base's weights lie in, so that loading them rounds nothing."""
    if base.hub_revision:
        config, _ = PretrainedConfig.get_config_dict(base.location, revision=base.hub_revision)
        dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
        return DTYPES.get(dtype, torch.float32)
    found = set()
    for file in folder_weights(Path(base.location), base.name):
        with safe_open(file, framework="pt") as tensors:
            found |= {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    return _STORED.get(found.pop(), torch.float32) if len(found) == 1 else torch.float32
