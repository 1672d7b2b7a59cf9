"""The two files of a LoRA adapter, as a study writes them: read strictly, without PEFT or PyTorch, and written anew.

PEFT's configuration can do much more than a study asks of it: name classes to import (``auto_mapping``), scale
otherwise, train further modules. Whatever a study never writes is refused, so that an adapter is what its recipe says.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError, safe_open

from registry.config.study import LoraSpec
from registry.errors import Refused

__all__ = ["CONFIG", "WEIGHTS", "AdapterConfig", "check_weights", "config_text", "read_config", "tensor_name"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_LARGEST = 1_000_000  # bytes of a configuration; a study's has under 2,000
_SHOWN = 60  # characters of a foreign value that an error repeats

#: Besides the recipe, what a study writes, and PEFT's own values for what it leaves as it is.
_FIXED: Mapping[str, object] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "bias": "none",
    "init_lora_weights": True,
    "megatron_core": "megatron.core",
    "qalora_group_size": 16,
}
_NEEDED = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "base_model_name_or_path")
_FREE = ("inference_mode", "peft_version", "fan_in_fan_out")  # decide nothing: PEFT sees itself how a layer lies
_RECIPE = ("r", "lora_alpha", "lora_dropout", "target_modules", "base_model_name_or_path", "revision")

_PREFIX = "base_model.model."  # what PEFT's files put before a module's name
_TENSOR = re.compile(r"base_model\.model\.(?P<module>[\w.-]+)\.lora_(?P<letter>[AB])\.weight")
_DTYPES = ("F32", "BF16", "F16")
_PLACE = re.compile(r"[A-Za-z]:[\\/]|[A-Za-z][A-Za-z0-9+.-]*://")  # of Windows, and addresses


@dataclass(frozen=True)
class AdapterConfig:
    """What an ``adapter_config.json`` says: the adapter's shape, its base and the base's commit on the hub, if any."""

    spec: LoraSpec
    base: str
    revision: str | None = None


def config_text(config: AdapterConfig) -> str:
    """Return the file's text, from these fields alone."""
    spec = config.spec
    content = dict(_FIXED) | {
        "inference_mode": True,
        "base_model_name_or_path": config.base,
        "revision": config.revision,
        "r": spec.rank,
        "lora_alpha": spec.alpha,
        "lora_dropout": spec.dropout,
        "target_modules": sorted(spec.targets),
    }
    return json.dumps(dict(sorted(content.items())), indent=2, ensure_ascii=False) + "\n"


def read_config(folder: Path) -> AdapterConfig:
    """Read the ``adapter_config.json`` of a folder.

    Raises
    ------
    Refused
        If it is absent, no JSON object, or says something that a study never writes.
    """
    content = _json(folder / CONFIG)
    if lacking := [key for key in _NEEDED if key not in content]:
        raise Refused(f"{CONFIG} lacks {', '.join(lacking)}")
    for key, value in content.items():
        if key in _RECIPE or key in _FREE:
            continue
        if value != _FIXED.get(key) and not _is_off(value):
            raise Refused(f"{CONFIG} says {_short(key)}: {_short(value)}, which a study never writes")
        if key in _NEEDED and value != _FIXED[key]:
            raise Refused(f"{CONFIG} says {key}: {_short(value)}, not {_FIXED[key]}")
    return AdapterConfig(_spec(content), _base(content), _revision(content))


def _json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _LARGEST:
            raise Refused(f"{CONFIG} has {file.stat().st_size:,} bytes; a study's has a few hundred")
        content = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_number)
    except FileNotFoundError:
        raise Refused(f"{CONFIG} is missing") from None
    except OSError as error:
        raise Refused(f"{CONFIG} cannot be read ({error.strerror})") from None
    except RecursionError:
        raise Refused(f"{CONFIG} is nested too deeply") from None
    except Refused:
        raise
    except ValueError as error:
        raise Refused(f"{CONFIG} is not JSON ({str(error)[:100]})") from None
    if not isinstance(content, dict):
        raise Refused(f"{CONFIG} holds a {type(content).__name__}, not an object")
    return content


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON's")


def _is_off(value: object) -> bool:
    """Whether an option of PEFT's that a study does not use is absent in all but name."""
    return value is None or value is False or value in ({}, [])


def _spec(content: Mapping[str, Any]) -> LoraSpec:
    rank, alpha, dropout = (content[key] for key in ("r", "lora_alpha", "lora_dropout"))
    targets = content["target_modules"]
    if type(rank) is not int or rank < 1:
        raise Refused(f"{CONFIG} says r: {_short(rank)}, not a whole number above 0")
    if type(alpha) not in (int, float) or not 0 < alpha < 1e6:
        raise Refused(f"{CONFIG} says lora_alpha: {_short(alpha)}, not a number above 0")
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise Refused(f"{CONFIG} says lora_dropout: {_short(dropout)}, not a number from 0 to 1")
    if not isinstance(targets, list) or not targets or not all(isinstance(name, str) for name in targets):
        raise Refused(f"{CONFIG} says target_modules: {_short(targets)}, not a list of names")
    try:
        return LoraSpec(rank=rank, alpha=float(alpha), dropout=float(dropout), targets=tuple(sorted(targets)))
    except ValueError:
        raise Refused(f"{CONFIG} says target_modules: {_short(targets)}, which are no names of modules") from None


def _base(content: Mapping[str, Any]) -> str:
    base = content["base_model_name_or_path"]
    if not isinstance(base, str) or not base.strip() or not base.isprintable():
        raise Refused(f"{CONFIG} says base_model_name_or_path: {_short(base)}, not the name of a base")
    parts = base.replace("\\", "/").split("/")
    if base[0] in "/\\~" or ".." in parts or _PLACE.match(base):
        raise Refused(f"{CONFIG} names as its base {_short(base)}, a place on some machine; a study writes a name")
    return base


def _revision(content: Mapping[str, Any]) -> str | None:
    revision = content.get("revision")
    if revision is not None and not (isinstance(revision, str) and re.fullmatch(r"[\w./-]{1,100}", revision)):
        raise Refused(f"{CONFIG} says revision: {_short(revision)}, not a commit")
    return revision


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def tensor_name(module: str, letter: str) -> str:
    """Return what a module's factor, A or B, is called in the file of weights."""
    return f"{_PREFIX}{module}.lora_{letter}.weight"


def check_weights(folder: Path, spec: LoraSpec) -> list[str]:
    """Read the header of a folder's weights, and return the modules that it has factors of.

    Raises
    ------
    Refused
        If the file is absent or malformed, or holds anything but the two factors of the modules that ``spec`` names.
    """
    shapes: dict[str, dict[str, list[int]]] = {}
    try:
        with safe_open(folder / WEIGHTS, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                found = _TENSOR.fullmatch(name)
                if found is None or part.get_dtype() not in _DTYPES:
                    raise Refused(f"{WEIGHTS}: {_short(name)} ({part.get_dtype()}) is no factor of a linear layer")
                shapes.setdefault(found["module"], {})[found["letter"]] = part.get_shape()
    except FileNotFoundError:
        raise Refused(f"{WEIGHTS} is missing") from None
    except (OSError, SafetensorError) as error:
        raise Refused(f"{WEIGHTS} cannot be read ({str(error)[:100]})") from None
    if not shapes:
        raise Refused(f"{WEIGHTS} holds no weights")
    for module, pair in shapes.items():
        _check_pair(module, pair, spec)
    return list(shapes)


def _check_pair(module: str, pair: Mapping[str, list[int]], spec: LoraSpec) -> None:
    if not any(f".{module}".endswith(f".{target}") for target in spec.targets):
        raise Refused(f"{WEIGHTS} holds weights of {_short(module)}, which is none of its target_modules")
    a, b = pair.get("A"), pair.get("B")
    if a is None or b is None:
        raise Refused(f"{WEIGHTS} lacks a factor of {_short(module)}")
    if len(a) != 2 or len(b) != 2 or not a[0] == b[1] == spec.rank or not math.prod((*a, *b)):
        shapes = f"{tuple(a)} and {tuple(b)}"
        raise Refused(f"{WEIGHTS}: the factors of {_short(module)} are {shapes}, the rank is {spec.rank}")
