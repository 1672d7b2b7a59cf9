"""What transformers and accelerate offer no public way for.

``tests/lora/test_internals.py`` fails, and says what moved, after an upgrade that renames any of it.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

__all__ = ["attention_name", "execution_device"]


def attention_name(model: PreTrainedModel) -> str:
    """Return the attention implementation that a model uses.

    ``PreTrainedModel.set_attn_implementation`` is public, reading what it set is not.
    """
    return str(model.config._attn_implementation)


def execution_device(module: nn.Module) -> torch.device | None:
    """Return where accelerate has a module compute whose weights it may hold elsewhere; None without accelerate."""
    place = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return None if place is None else torch.device(place)
