"""A model's projections: its linear layers, which an adapter goes on and floating-point operations are counted by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from registry.study import LoraSpec

if TYPE_CHECKING:  # they are slow to import
    from torch import nn
    from transformers import PreTrainedModel

__all__ = ["adapter_parameters", "body_weights", "projections"]


def projections(model: nn.Module, targets: Sequence[str] | None = None) -> dict[str, tuple[int, int]]:
    """Return inputs and outputs of a model's linear layers by name, also where they are quantised or held elsewhere.

    Parameters
    ----------
    targets : sequence of str, optional
        Names of those wanted, or how their names end, as PEFT reads ``target_modules``; by default all are.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer, its weight (inputs, outputs)

    found = {}
    for name, module in model.named_modules():
        if targets is not None and not any(f".{name}".endswith(f".{target}") for target in targets):
            continue
        if isinstance(module, nn.Linear):
            found[name] = module.in_features, module.out_features
        elif isinstance(module, Conv1D):
            found[name] = module.nx, module.nf
    return found


def adapter_parameters(model: nn.Module, spec: LoraSpec) -> int:
    """Parameters of a LoRA adapter: rank x (inputs + outputs) of every projection that it adapts."""
    return spec.rank * sum(inputs + outputs for inputs, outputs in projections(model, spec.targets).values())


def body_weights(model: PreTrainedModel) -> int:
    """Weights of the projections, which every token passes; those of the LM head left out."""
    head, found = model.get_output_embeddings(), projections(model).items()
    return sum(inputs * outputs for name, (inputs, outputs) in found if model.get_submodule(name) is not head)
