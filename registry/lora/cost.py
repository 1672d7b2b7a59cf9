"""What training and scoring cost: floating-point operations and memory."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from registry.models.projections import body_weights

__all__ = ["Size", "Usage", "peak_memory_gb", "reset_peak_memory", "scoring_flop"]


@dataclass(frozen=True, slots=True)
class Size:
    """Weights of a model's linear layers: those every token passes, and those of the LM head."""

    body: int
    head: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> Size:
        """Count a model's weights, also where they are quantised or held elsewhere."""
        head = model.get_output_embeddings()
        return cls(body_weights(model), head.in_features * head.out_features)


@dataclass(frozen=True, slots=True)
class Usage:
    """What one phase of a job took: training, validation or scoring.

    Attributes
    ----------
    seconds : float
        In which its tokens went through the model. Loading, laying out, copying and waiting are no part of it.
    tokens : int
        Tokens run through the model, padding left out.
    flop : float
        Floating-point operations of the matrix products that this needs.
    peak_memory_gb : float
        Most memory held up to its end, 10⁹ bytes: of the GPU, or of the process where there is none.
    """

    seconds: float
    tokens: int
    flop: float
    peak_memory_gb: float


def scoring_flop(size: Size, *, tokens: int, predictions: int) -> float:
    """Floating-point operations of one scoring: 2 per weight and token; attention's own products (3–10 %) left out.

    Parameters
    ----------
    predictions : int
        Positions at which logits are computed.
    """
    return 2.0 * (size.body * tokens + size.head * predictions)


def reset_peak_memory(device: str) -> None:
    """Begin to count a GPU's peak memory anew; a process's cannot be."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_gb(device: str) -> float:
    """Most memory held so far, in 10⁹ bytes: on a GPU since the last reset, else of the process since its start."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
