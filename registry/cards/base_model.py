"""The base model of an adapter: where it is, and the lines that load it as the study held it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from registry.models.base import Base, trained_base
from registry.tracking.names import Tag

__all__ = ["Dtype", "auto_class", "base_dtype", "find_base", "imports", "load_arguments"]

_DTYPES: Mapping[str, Dtype] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

_AUTO_CLASSES = ("AutoModelForCausalLM", "AutoModelForImageTextToText")

_BITSANDBYTES = {
    "8bit": "BitsAndBytesConfig(load_in_8bit=True)",
    "4bit": 'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, '
    'bnb_4bit_compute_dtype="{dtype}")',
}


def find_base(serving: Mapping[str, Any], tags: Mapping[str, str], folder: str) -> Base:
    """Find the base that an adapter was trained on, in ``folder`` if one is given, else where it was.

    Raises
    ------
    Refused
        If it is not there, or another one is.
    """
    trained = serving["base"]
    hint = tags.get(Tag.BASE_PATH, "")
    return trained_base(trained["name"], trained["revision"], folder, hint=hint, remedy="name its folder with -P base=")


def base_dtype(serving: Mapping[str, Any]) -> Dtype:
    """Return the data type that the study held the base in, and computed in."""
    return _DTYPES[str(serving.get("precision", "fp32"))]  # adapters registered before there was the choice have none


def imports(serving: Mapping[str, Any]) -> str:
    """Return the line that imports what :func:`load_arguments` needs."""
    quantised = ", BitsAndBytesConfig" * _quantised(serving)
    return f"from transformers import {auto_class(serving)}, AutoTokenizer{quantised}"


def auto_class(serving: Mapping[str, Any]) -> str:
    """Return the name of the class that loads the base, from the text of a foreign MLmodel only a known one."""
    recorded = serving["base"].get("auto_class")
    return recorded if recorded in _AUTO_CLASSES else _AUTO_CLASSES[0]


def load_arguments(serving: Mapping[str, Any], revision: str | None) -> str:
    """Return what ``from_pretrained`` is given behind the base's name, from the comma on.

    Without a data type transformers takes that of the file, which need not be the study's.
    """
    dtype = base_dtype(serving)
    pinned = f", revision={revision!r}" if revision else ""
    if not _quantised(serving):
        return f'{pinned}, dtype="{dtype}"'
    configuration = _BITSANDBYTES[serving["quantization"]].format(dtype=dtype)
    return f'{pinned}, dtype="{dtype}", quantization_config={configuration}'


def _quantised(serving: Mapping[str, Any]) -> bool:
    return serving.get("quantization") is not None


# --- data types that a merged model may be written in


Dtype = Literal["float32", "bfloat16", "float16"]
