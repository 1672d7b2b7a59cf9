"""Loading a base model: its tokenizer and its weights, as they are or quantised."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from registry.config.types import Placement, Quantization
from registry.errors import Refused
from registry.models.architecture import auto_class, brief, keep_language
from registry.models.base import Base
from registry.models.hub import HubUnavailable
from registry.models.memory import is_out_of_memory, release_freed, require_memory

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["BITSANDBYTES", "dtype_of", "load_base", "load_tokenizer", "quantization_config", "require_quantization"]

#: What quantised bases are loaded by; the extra ``quantized`` of pyproject.toml.
BITSANDBYTES = "bitsandbytes==0.50.2"


def dtype_of(precision: str) -> torch.dtype:
    """Return what a recipe's ``fp32``, ``bf16`` or ``fp16`` is to torch."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def load_tokenizer(base: Base) -> PreTrainedTokenizerBase:
    """Load a base's tokenizer."""
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            base.location, revision=base.hub_revision, trust_remote_code=base.trust_remote_code
        )
    except OSError as error:
        raise HubUnavailable(f"model {base.name!r}: its tokenizer cannot be read: {error}") from None
    return tokenizer


def load_base(
    base: Base,
    *,
    dtype: torch.dtype,
    device: str,
    placement: Placement = "one",
    quantization: Quantization | None = None,
) -> PreTrainedModel:
    """Load a base's weights, frozen and in evaluation mode; safetensors only, so that nothing is unpickled.

    Parameters
    ----------
    dtype
        Of the weights, or of those that are not quantised and of what is computed.
    device
        Where the whole base goes, with placement ``one``.
    placement, quantization
        See :class:`registry.config.study.Study`.

    Raises
    ------
    Refused
        Before anything is loaded, if the model is no causal language model, the weights do not fit into free memory or
        bitsandbytes is missing; afterwards, if the files lack some of the weights, which would be random.
    """
    from transformers.utils import logging

    require_quantization(quantization)
    bare = base.skeleton()
    require_memory(
        bare,
        base.name,
        dtype=dtype,
        device=device,
        placement=placement,
        quantization=quantization,
    )
    logging.disable_progress_bar()  # it counts tensors, in no time; downloads have a bar of their own
    model: PreTrainedModel
    try:
        model, found = auto_class(bare.config, base.name).from_pretrained(
            base.location,
            revision=base.hub_revision,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=base.trust_remote_code,
            device_map="auto" if placement == "spread" else {"": device},
            quantization_config=quantization_config(quantization, dtype),
            output_loading_info=True,
        )
    except (ImportError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise Refused(f"model {base.name!r} cannot be loaded: {brief(error)}") from error
    _require_weights(base, model, found)
    if "disk" in getattr(model, "hf_device_map", {}).values():
        raise Refused(f"model {base.name!r} does not fit into memory: layers would be read from disk at every pass")
    keep_language(model)
    if quantization == "4bit":
        _keep_differentiable(model)
    model.eval().requires_grad_(False)
    release_freed()
    return model


def _require_weights(base: Base, model: PreTrainedModel, found: Mapping[str, Any]) -> None:
    """Refuse a model of which the files lack weights: transformers fills them with random numbers."""
    missing = sorted(found.get("missing_keys") or ())
    if missing:
        raise Refused(
            f"model {base.name!r}: {base.location} lacks {len(missing)} weights of {type(model).__name__}, "
            f"which would be random: {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}; "
            "choose a complete checkpoint"
        )


def require_quantization(quantization: Quantization | None) -> None:
    """Refuse a quantised base where the library that loads it is wanting.

    Raises
    ------
    Refused
        With the command that installs it.
    """
    if quantization is not None and find_spec("bitsandbytes") is None:
        raise Refused(
            f"quantization: {quantization} needs bitsandbytes, which is not installed; "
            f"run: python -m pip install {BITSANDBYTES}"
        )


def quantization_config(quantization: Quantization | None, dtype: torch.dtype) -> Any:
    """Return how transformers is to quantise a base that computes in ``dtype``; None for one that is not."""
    from transformers import BitsAndBytesConfig

    if quantization is None:
        return None
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _keep_differentiable(model: PreTrainedModel) -> None:
    # On some CPUs the first pass without gradients repacks a 4-bit weight for a kernel that has no backward pass, and
    # from then on gradients end at it without a word.
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  # typed, modules hold tensors only
