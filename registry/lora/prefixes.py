"""Computing a shared beginning once: its keys and values, layer by layer."""

from __future__ import annotations

import torch

from registry.lora.attention import Prefix
from registry.lora.batches import prefix_batch
from registry.lora.forward import Forward

__all__ = ["compute_prefix"]


def compute_prefix(forward: Forward, tokens: tuple[int, ...], device: torch.device) -> Prefix | None:
    """Compute keys and values of a shared beginning; None for no tokens."""
    if not tokens:
        return None
    batch = prefix_batch(tokens).to(device)
    forward(batch)
    assert batch.layout is not None and batch.layout.prefix is not None
    batch.layout.prefix.filled = True
    return batch.layout.prefix
