"""Memory that training and scoring take, from a base's configuration alone: bytes, by what they are for.

1 GB is 10⁹ bytes throughout. The terms follow what the engine keeps: flat batches without padding, the LM head at
chosen positions only, adapters in float32, merged copies beside the base's weights while an adapter is scored. The
table in docs/performance.md is made of them; ``test_needed_memory.py`` compares both with what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from registry.config.study import LoraSpec
from registry.config.types import Quantization
from registry.models.memory import full_bytes, weight_bytes
from registry.models.projections import adapter_parameters, projections

_ADAPTER_TRAINING = 16  # bytes per parameter: value, gradient and AdamW's two moments, float32 each
_FLOAT32_LOGITS = 2**26  # the scorer makes float32 copies of so many logits at a time


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that training adapters on a base, or all of it, takes, and scoring; each sum is a peak, an upper estimate.

    Attributes
    ----------
    weights : int
        The base's.
    adapters : int
        In training: values, gradients, AdamW's two moments, all float32, and copies in the base's dtype. Where every
        weight is trained, what that takes beside the weights.
    activations : int
        In training: kept for the backward pass.
    passing : int
        In training: the most that exists for a moment, either of the logits with their log-probabilities and gradient,
        or of gradients of activations, with a layer's activations computed again where they were not kept.
    merged : int
        In scoring: base + adapter for every targeted weight, the base's own being kept. Nothing where weights are
        quantised: the adapter is then added to what the layers compute.
    scored : int
        In scoring: the adapter, and the most that exists for a moment of logits, activations, or float32 sums.
    aside : int
        In the machine's memory besides, whatever the device: the base's own weights, while others that were all trained
        stand in their place, and a copy of these.
    """

    weights: int
    adapters: int
    activations: int
    passing: int
    merged: int
    scored: int
    aside: int = 0

    @property
    def training(self) -> int:
        """Bytes while adapters are trained."""
        return self.weights + self.adapters + self.activations + self.passing

    @property
    def scoring(self) -> int:
        """Bytes while an adapter is scored."""
        return self.weights + self.merged + self.scored


def memory_needed(
    base: PreTrainedModel,
    spec: LoraSpec | None,
    *,
    tokens_per_batch: int,
    dtype: torch.dtype,
    quantization: Quantization | None = None,
    checkpointing: bool = False,
    adapters: int = 1,
    supervised: float = 1.0,
) -> Memory:
    """Estimate what training and scoring take, in bytes.

    With d bytes per number of ``dtype``, hidden size h, intermediate size f, q and k the widths of all query heads and
    of all key heads, V the vocabulary, r the rank and t targeted projections in a layer, one token keeps in one layer

        8 h  +  2 d h  +  d (3 q + 2 k)  +  4 d f  +  d t r

    bytes for the backward pass: the float32 input of both norms; their results, which the projections read; queries,
    keys, values, attention's output and its copy in flat order; the gate before and after its activation, the other
    branch and their product; each adapter's inner product. With gradient checkpointing it keeps its layer's input, d h,
    and one layer at a time is whole. For a moment there are 8 h + d (2 h + 3 f) bytes of gradients per token, or before
    them V (d + 8) of logits per supervised position. An adapter's parameter takes 16 bytes, and d for its copy in
    ``dtype`` where that is not float32.

    Where every weight is trained, d t r goes, and 2 d h comes, what the norms' own weights are multiplied with; and for
    a moment the largest weight's gradient, d each.

    Parameters
    ----------
    base : PreTrainedModel
        May lie on ``meta``: its configuration and shapes are read, no weight.
    spec : LoraSpec or None
        None where every weight is trained.
    tokens_per_batch : int
        Tokens run through the base at once, those of all adapters together.
    dtype : torch.dtype
        Of the weights that are not quantised, and of activations.
    adapters : int
        Trained at once; one at a time is scored.
    supervised : float
        Share of positions that need logits, in [0, 1]; 1 where the loss is on the whole text.
    """
    tokens, width, config = tokens_per_batch, dtype.itemsize, base.config.get_text_config()
    if spec is None:
        return _full_needed(
            base, tokens=tokens, width=width, checkpointing=checkpointing, predictions=round(tokens * supervised)
        )
    targeted = [inputs * outputs for inputs, outputs in projections(base, spec.targets).values()]
    parameters = adapter_parameters(base, spec)
    largest = max(targeted, default=0)
    layer = tokens * _kept_per_token(config, width, inner=spec.rank * len(targeted) / config.num_hidden_layers)
    entering = tokens * width * config.hidden_size
    between = tokens * ((8 + 2 * width) * config.hidden_size + 3 * width * _intermediate(config))
    if quantization is not None:  # a quantised weight is written out in dtype for the moment of its product
        between += width * largest
    logits = round(tokens * supervised) * config.vocab_size
    return Memory(
        weights=weight_bytes(base, dtype, quantization),
        adapters=adapters * parameters * (_ADAPTER_TRAINING + (width if width != 4 else 0)),
        activations=config.num_hidden_layers * (entering if checkpointing else layer),
        passing=max(logits * (width + 8), between + (layer if checkpointing else 0)),
        merged=0 if quantization else width * sum(targeted),
        scored=4 * parameters + max(width * logits + 4 * min(logits, _FLOAT32_LOGITS), between, 8 * largest),
    )


def _full_needed(base: PreTrainedModel, *, tokens: int, width: int, checkpointing: bool, predictions: int) -> Memory:
    """Estimate what training every weight takes; see :func:`memory_needed`."""
    config = base.config.get_text_config()
    sizes = [weight.numel() for weight in base.parameters()]
    layer = tokens * (_kept_per_token(config, width, inner=0) + 2 * width * config.hidden_size)
    entering = tokens * width * config.hidden_size
    between = tokens * ((8 + 2 * width) * config.hidden_size + 3 * width * _intermediate(config))
    logits = predictions * config.vocab_size
    passing = max(logits * (width + 8), between + (layer if checkpointing else 0))
    return Memory(
        weights=width * sum(sizes),
        adapters=full_bytes(width) * sum(sizes),
        activations=config.num_hidden_layers * (entering if checkpointing else layer),
        passing=passing + width * max(sizes),
        merged=0,
        scored=max(width * logits + 4 * min(logits, _FLOAT32_LOGITS), between),
        aside=2 * width * sum(sizes),
    )


def _kept_per_token(config: Any, width: int, *, inner: float) -> int:
    """Return the bytes that one token keeps in one layer for the backward pass."""
    heads = config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
    query, key = heads * head_width, (getattr(config, "num_key_value_heads", None) or heads) * head_width
    numbers = 2 * config.hidden_size + 3 * query + 2 * key + 4 * _intermediate(config) + round(inner)
    return int(8 * config.hidden_size + width * numbers)


def _intermediate(config: Any) -> int:
    return int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
