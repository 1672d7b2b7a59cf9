"""A model's projections: its linear layers, which an adapter goes on and floating-point operations are counted by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from registry.config.study import ALL_LINEAR, LoraSpec

if TYPE_CHECKING:  # they are slow to import
    from torch import nn
    from transformers import PreTrainedModel

__all__ = [
    "MatchedModules",
    "adapter_parameters",
    "all_linear_targets",
    "body_weights",
    "matched_modules",
    "projections",
    "spec_targets",
]


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


def all_linear_targets(model: nn.Module) -> tuple[str, ...]:
    """Return names that match every linear layer of a model but its LM head, and nothing else, as PEFT reads them."""
    linear = [name for name in projections(model) if name != _head_name(model)]
    others = [f".{name}" for name, _ in model.named_modules() if name not in set(linear)]
    found: dict[str, bool] = {}
    for name in linear:
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            ending = ".".join(parts[-count:])
            if ending not in found:  # a number alone names layers too
                found[ending] = not ending[0].isdigit() and not any(other.endswith(f".{ending}") for other in others)
            if found[ending]:
                break
    return tuple(sorted(ending for ending, alone in found.items() if alone))


@dataclass(frozen=True, slots=True)
class MatchedModules:
    """Which of a model's layers an adapter goes on.

    Attributes
    ----------
    counts : mapping of str to int
        How many layers each name matches; 0 for a name that matches none.
    share : float
        Of the weights of the body's matrices, experts' among them, in [0, 1]: embeddings and LM head do not count.
    linear_share : float
        The same for all the linear layers that an adapter could go on.
    offered : tuple of str
        Names of those layers.
    """

    counts: Mapping[str, int]
    share: float
    linear_share: float
    offered: tuple[str, ...]

    @property
    def absent(self) -> tuple[str, ...]:
        """Names that match nothing."""
        return tuple(name for name, count in self.counts.items() if not count)

    def __str__(self) -> str:
        return " ".join(f"{name}={count}" for name, count in self.counts.items() if count)


def matched_modules(model: PreTrainedModel, targets: Sequence[str]) -> MatchedModules:
    """Say which layers of a model, with or without weights in memory, the targets of an adapter match."""
    chosen = all_linear_targets(model) if tuple(targets) == ALL_LINEAR else tuple(targets)
    linear = projections(model)
    counts = {name: len(projections(model, [name])) for name in chosen}
    adapted = projections(model, chosen)
    head = _head_name(model)
    body = _body_matrices(model)

    def share(of: Mapping[str, tuple[int, int]]) -> float:
        weights = sum(inputs * outputs for name, (inputs, outputs) in of.items() if name != head)
        return min(1.0, weights / body) if body else 0.0

    return MatchedModules(counts, share(adapted), share(linear), all_linear_targets(model))


def _body_matrices(model: PreTrainedModel) -> int:
    """Weights in matrices of a model, and in stacks of them, but for embeddings and LM head."""
    from torch import nn

    outside = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    outside += [] if model.get_output_embeddings() is None else [model.get_output_embeddings()]
    left_out = {id(weight) for module in outside for weight in module.parameters(recurse=False)}
    return sum(weight.numel() for weight in model.parameters() if weight.ndim > 1 and id(weight) not in left_out)


def _head_name(model: nn.Module) -> str | None:
    head = cast("PreTrainedModel", model).get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return next((name for name, module in model.named_modules() if module is head), None)


def adapter_parameters(model: PreTrainedModel, spec: LoraSpec) -> int:
    """Parameters of a LoRA adapter: rank x (inputs + outputs) of every projection that it adapts."""
    shapes = projections(model, spec_targets(model, spec))
    return spec.rank * sum(inputs + outputs for inputs, outputs in shapes.values())


def spec_targets(model: nn.Module, spec: LoraSpec) -> tuple[str, ...]:
    """Return the names that an adapter's targets stand for on a model."""
    return all_linear_targets(model) if spec.targets == ALL_LINEAR else spec.targets


def body_weights(model: PreTrainedModel) -> int:
    """Weights of the projections, which every token passes; those of the LM head left out."""
    head, found = model.get_output_embeddings(), projections(model).items()
    return sum(inputs * outputs for name, (inputs, outputs) in found if model.get_submodule(name) is not head)
