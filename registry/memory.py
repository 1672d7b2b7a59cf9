"""Memory that a base and its adapters take, from its configuration alone: bytes, by what they are for.

1 GB is 10⁹ bytes throughout. The terms follow what the engine keeps: flat batches without padding, the LM head at
chosen positions only, adapters in float32, merged copies beside the base's weights while an adapter is scored.

Full fine-tuning of n weights of d bytes takes 12 n bytes more on the device (gradients and AdamW's two moments in
float32), 4 n more again where d is not 4 (the float32 weights that are moved), and 2 d n in the machine's memory (the
base's own weights and the best epoch's): for 8 billion in bf16 16 + 128 GB and 32 GB, in fp32 32 + 96 GB and 64 GB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.projections import adapter_parameters, body_weights, projections
from registry.refusal import Refused
from registry.study import LoraSpec, Placement, Quantization

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

__all__ = ["HEADROOM", "Memory", "memory_needed", "require_full_memory", "require_memory", "weight_bytes"]

#: Free memory that loading asks for, in multiples of the weights: buffers, the allocator's rounding, a first batch.
HEADROOM = 1.1

#: Bytes per quantised weight. 4 bits: half a byte, an 8-bit scale per 64 weights, and a float32 one per 256 scales.
_QUANTISED: dict[Quantization, float] = {"8bit": 1.0, "4bit": 0.5 + 1 / 64 + 4 / (64 * 256)}

_ADAPTER_TRAINING = 16  # bytes per parameter: value, gradient and AdamW's two moments, float32 each
_FULL_TRAINING = 12  # bytes per weight of a base: gradient and AdamW's two moments
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
        adapters=_full_bytes(width) * sum(sizes),
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


def weight_bytes(base: PreTrainedModel, dtype: torch.dtype, quantization: Quantization | None = None) -> int:
    """Return the bytes of a base's weights; quantised are those of its projections, not embeddings and LM head."""
    total = sum(weight.numel() for weight in base.parameters())  # tied weights once
    quantised = 0 if quantization is None else body_weights(base)
    return round((total - quantised) * dtype.itemsize + (quantised * _QUANTISED[quantization] if quantization else 0))


def require_memory(
    base: PreTrainedModel,
    name: str,
    *,
    dtype: torch.dtype,
    device: str,
    placement: Placement = "one",
    quantization: Quantization | None = None,
) -> None:
    """Refuse a base whose weights do not fit where they are to go.

    Parameters
    ----------
    base : PreTrainedModel
        On ``meta``: nothing is loaded yet.

    Raises
    ------
    Refused
        With the arithmetic and what can be done.
    """
    free, where = _free(device, placement, quantization)
    needed = weight_bytes(base, dtype, quantization)
    if free is None or HEADROOM * needed <= free:
        return
    parameters = sum(weight.numel() for weight in base.parameters())
    remedies = []
    if dtype.itemsize > 2:
        remedies.append("set recipe.precision to bf16")
    if quantization != "4bit":
        remedies.append("set quantization to 4bit" + (" or 8bit" if quantization is None else ""))
    if placement == "one":
        remedies.append("set placement to spread, which adds the machine's other devices")
    raise Refused(
        f"model {name!r} does not fit into {where}: {parameters / 1e9:.3g} B parameters × "
        f"{needed / parameters:.3g} bytes × {HEADROOM:g} headroom = {HEADROOM * needed / 1e9:.3g} GB, free are "
        f"{free / 1e9:.3g} GB; {', or '.join(remedies) or 'take a smaller model'}"
    )


def require_full_memory(base: PreTrainedModel, name: str, *, device: str, placement: Placement = "one") -> None:
    """Refuse to train every weight of a loaded base where what that takes besides its weights does not fit.

    Activations are not counted: batches are halved until they fit.

    Raises
    ------
    Refused
        With the arithmetic and what can be done.
    """
    import torch

    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()  # what a former training left is free
    count, width = sum(weight.numel() for weight in base.parameters()), base.dtype.itemsize
    trained, aside = _full_bytes(width), 2 * width
    demands = [(trained, True), (aside, False)] if on_gpu else [(trained + aside, False)]
    for each, there in demands:
        # Like quantised weights, what an optimiser moves is never held in the machine's memory.
        free, where = _free(device if there else "cpu", placement if there else "one", "8bit" if there else None)
        if free is not None and HEADROOM * each * count > free:
            raise Refused(
                f"every weight of model {name!r} cannot be trained in {where}: {count / 1e9:.3g} B parameters × {each} "
                f"bytes × {HEADROOM:g} headroom = {HEADROOM * each * count / 1e9:.3g} GB beside the weights, free are "
                f"{free / 1e9:.3g} GB; set recipe.method to lora, or take a smaller model"
            )


def _full_bytes(width: int) -> int:
    """Return the bytes per weight that full fine-tuning takes beside the weight that the passes run on."""
    return _FULL_TRAINING + (0 if width == 4 else 4)


def _free(device: str, placement: Placement, quantization: Quantization | None) -> tuple[int | None, str]:
    """Return the bytes free where weights are to go, None where nobody can tell, and the place in words."""
    import psutil
    import torch

    kind, main = torch.device(device).type, psutil.virtual_memory().available
    gpus = range(torch.cuda.device_count())
    if placement == "spread" and gpus:
        on_gpus = sum(torch.cuda.mem_get_info(number)[0] for number in gpus)
        if quantization is None:
            return on_gpus + main, f"the memory of {len(gpus)} GPUs and of the machine"
        return on_gpus, f"the memory of {len(gpus)} GPUs (such weights are never held in the machine's)"
    if kind == "cpu" or placement == "spread":
        return main, "the machine's memory"
    return (torch.cuda.mem_get_info(device)[0], f"the memory of {device}") if kind == "cuda" else (None, device)
