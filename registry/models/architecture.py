"""What a base's configuration says before any weight is loaded: how it is loaded and how long its inputs may be."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from registry.errors import Refused

if TYPE_CHECKING:  # they are slow to import
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = [
    "UNLIMITED",
    "auto_class",
    "brief",
    "has_position_table",
    "keep_language",
    "longest_input",
    "rope_switches",
    "skeleton",
]

#: The longest input of an architecture that sets no limit: relative positions, or a recurrence.
UNLIMITED = sys.maxsize

#: Where configurations state the longest input, in the order in which lm-evaluation-harness looks.
_LIMITS = (
    "n_positions",
    "max_position_embeddings",
    "n_ctx",
    "max_seq_len",
    "max_target_positions",
    "model_max_length",
    "context_length",
)

#: Parts of the names of modules that read something other than text.
_OTHER_SENSES = ("vision", "visual", "image", "video", "audio", "speech", "pixel")

#: How the names of classes end that predict the next token.
_CAUSAL = ("ForCausalLM", "LMHeadModel")


def auto_class(config: PreTrainedConfig, name: str) -> Any:
    """Return the auto class of transformers that loads a configuration's language model.

    Parameters
    ----------
    name : str
        What the user calls the model, for the refusal.

    Raises
    ------
    Refused
        If the model is an encoder-decoder, or transformers maps neither a causal language model nor an image-text
        model to it, or its checkpoint was saved from another class, whose weights lack the LM head.
    """
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    kind = config.model_type
    if config.is_encoder_decoder or getattr(config.get_text_config(), "is_encoder_decoder", False):
        raise Refused(
            f"model {name!r} is an encoder-decoder ({kind}), not a causal language model; choose a decoder-only model"
        )
    saved_as = config.architectures or []
    known = {
        auto: {found.__name__ for found in _classes(mapping, config)}
        for auto, mapping in (
            (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING),
            (AutoModelForImageTextToText, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING),
        )
    }
    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):  # code of the model's own repository
        known[AutoModelForCausalLM] |= set(saved_as)
    for auto, names in known.items():
        if names & set(saved_as):
            return auto
    fitting = [auto for auto, names in known.items() if names]
    if not fitting:
        raise Refused(f"model {name!r}: transformers has no causal language model of type {kind}; choose another model")
    if saved_as and not any(str(one).endswith(_CAUSAL) for one in saved_as):
        raise Refused(f"model {name!r} is a {saved_as[0]}, not a causal language model; choose one with an LM head")
    return fitting[0]


def _classes(mapping: Any, config: PreTrainedConfig) -> tuple[type, ...]:
    found = mapping.get(type(config), ())
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def skeleton(config: PreTrainedConfig, name: str = "", *, trust_remote_code: bool = False) -> PreTrainedModel:
    """Build the modules of a model's language part without memory for its weights.

    Raises
    ------
    Refused
        As :func:`auto_class`, and if transformers cannot build the architecture here, with its reason.
    """
    import torch

    name = name or config.name_or_path or config.model_type
    auto = auto_class(config, name)
    try:
        with torch.device("meta"):
            model: PreTrainedModel = auto.from_config(config, trust_remote_code=trust_remote_code)
    except (ImportError, ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError) as error:
        raise Refused(f"model {name!r} ({config.model_type}) cannot be built: {brief(error)}") from error
    keep_language(model)
    return model


def keep_language(model: PreTrainedModel) -> None:
    """Take away what a model has for images and sound.

    Their projections are named like the language model's, so adapters would be put on them; and nothing here runs them.
    What is left keeps its names, so an adapter fits the whole model.
    """
    from transformers import PreTrainedModel

    config, text = model.config, model.config.get_text_config()
    if text is config:
        others = [part for key in config.sub_configs if (part := getattr(config, key, None)) is not None]
        for name, module in list(model.named_modules()):
            if isinstance(module, PreTrainedModel) and any(module.config is other for other in others):
                holder, _, attribute = name.rpartition(".")
                delattr(model.get_submodule(holder), attribute)
        return
    for key in config.sub_configs:
        if getattr(config, key, None) is not text:
            setattr(config, key, None)  # transformers warns at every scoring of a part that is described and not there
    needed, whole = {model.get_decoder(), model.get_input_embeddings()}, model.base_model
    for name, part in list(whole.named_children()):
        if needed.isdisjoint(part.modules()):
            delattr(whole, name)


def longest_input(model: PreTrainedModel) -> int | None:
    """Return how many tokens a model reads at most, as its configuration and its position embeddings have it.

    Parameters
    ----------
    model : PreTrainedModel
        Also on ``meta``.

    Returns
    -------
    int, optional
        None if the architecture sets no limit.
    """
    text = model.config.get_text_config()
    stated = next((limit for name in _LIMITS if (limit := _positive(getattr(text, name, None)))), None)
    found = [limit for limit in (stated, *_embedded_positions(model)) if limit is not None]
    return min(found, default=None)


def has_position_table(model: PreTrainedModel) -> bool:
    """Whether a model's positions are looked up in a table, which ends somewhere."""
    return any(True for _ in _embedded_positions(model))


def _embedded_positions(model: PreTrainedModel) -> Iterator[int]:
    """Yield how many positions each table of position embeddings has for tokens of text."""
    from torch import nn

    for name, module in model.named_modules():
        if not isinstance(module, nn.Embedding) or any(other in name.lower() for other in _OTHER_SENSES):
            continue
        if "position" in name.lower() or name.endswith("wpe"):
            # Some tables begin with rows for padding: OPT's with two, RoBERTa's up to that of the padding token.
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            yield module.num_embeddings - (_positive(getattr(module, "offset", None)) or skipped)


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def rope_switches(config: PreTrainedConfig) -> tuple[int, ...]:
    """Return the lengths above which a model computes *every* position of an input otherwise.

    LongRoPE (Phi-3, arXiv 2402.13753) has one set of rotary frequencies for inputs up to the original length and
    another for longer ones; dynamic NTK scaling another set for each longer length. transformers chooses by the longest
    input of a batch, so inputs of both sides must never be in one.
    """
    text = config.get_text_config()
    found = set()
    for parameters in _rope_parameters(getattr(text, "rope_parameters", None)):
        kind = str(parameters.get("rope_type", "default"))
        if kind == "longrope" or "dynamic" in kind:
            original = parameters.get("original_max_position_embeddings") if kind == "longrope" else None
            limit = original or getattr(text, "original_max_position_embeddings", None) or text.max_position_embeddings
            found.add(int(limit))
    return tuple(sorted(found))


def _rope_parameters(parameters: object) -> Iterator[dict[str, Any]]:
    """Yield the parameters of every rotary embedding; some architectures have one for each type of layer."""
    if not isinstance(parameters, dict):
        return
    if "rope_type" in parameters:
        yield parameters
    for value in parameters.values():
        yield from _rope_parameters(value)


def brief(error: BaseException) -> str:
    """Return the telling line of an error of transformers: the first, but validators put their reason last."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    telling = lines[-1 if "Validation" in type(error).__name__ else 0] if lines else ""
    return f"{type(error).__name__}: {telling}".rstrip(": ")
