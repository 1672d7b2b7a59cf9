"""Names that come from outside: whether they can name cells, models and studies here, and what is known of a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from registry.config.names import recorded_name
from registry.config.types import Name
from registry.errors import Refused
from registry.models.base import KNOWN

__all__ = [
    "NAME_RULE",
    "describe_model",
    "family_and_size",
    "is_model",
    "is_name",
    "read_families",
    "size_of",
    "study_name",
]

_NAME: TypeAdapter[str] = TypeAdapter(Name)
_LONGEST_MODEL = 120  # as in registry.config.study.BaseSpec

#: For messages.
NAME_RULE = "letters, digits, '_', '-' and '.', the first a letter or digit, 60 at most"

_SIZE = re.compile(r"([0-9]*\.?[0-9]+)\s*[bB]?")


def is_name(text: str) -> bool:
    """Whether a text can name a task, a language or a study: cells name metrics and files."""
    try:
        _NAME.validate_python(text)
    except ValidationError:
        return False
    return not text.endswith("\n")  # a pattern's $ also matches before a last line break


def is_model(text: str) -> bool:
    """Whether a text can name a model: a name, or a hub id ``owner/name``."""
    owner, slash, name = text.rpartition("/")
    return len(text) <= _LONGEST_MODEL and is_name(name) and (not slash or is_name(owner))


def study_name(given: str, source: Path) -> str:
    """Return the name a study is to have: what was given, as a name or the path of a study file, else the source's own.

    A manifest's own is its folder's.

    Raises
    ------
    Refused
        If that cannot name a study.
    """
    own = source.resolve()
    if not own.is_dir() and own.stem == "manifest":  # many a folder's manifest is called so
        own = own.parent
    name = recorded_name(given) if given else own.name if own.is_dir() else own.stem
    if not is_name(name):
        what = f"study={given!r}" if given else f"the name of {source} as a study's"
        raise Refused(f"{what} is not usable: a study's name is {NAME_RULE}; give another with study=NAME")
    return name


def read_families(text: str) -> dict[str, str]:
    """Read ``model=family`` pairs that are separated by commas.

    Raises
    ------
    Refused
        If a pair lacks one of its sides, a side is no name, or a model stands twice.
    """
    families: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        model, equals, family = (part.strip() for part in pair.partition("="))
        if not equals or not is_model(model) or not is_name(family) or model in families:
            raise Refused(
                f"families: {pair!r} is not usable; write model=family once per model, separated by commas, such as "
                "families=lab/one-7b=One,lab/two-1b=Two"
            )
        families[model] = family
    return families


def describe_model(name: str) -> tuple[str, float] | None:
    """Return family and size in billions of a model of the paper or the built-in grid, with or without its owner."""
    wanted = name.replace("__", "/").lower()  # lm-evaluation-harness writes owner__name for folders
    for known, facts in KNOWN.items():
        if wanted in (known.lower(), known.rpartition("/")[2].lower()):
            return facts
    return None


def size_of(text: str) -> float | None:
    """Read billions of parameters, ``7``, ``0.5`` or ``7B``; None if it is no such number."""
    found = _SIZE.fullmatch(text.strip())
    size = float(found.group(1)) if found else 0.0
    return size if size > 0 else None


def family_and_size(
    name: str, families: Mapping[str, str], size: float | None, *, where: str, remedy: str
) -> tuple[str, float]:
    """Return a model's family and size: from the table of known models, else as the import gives them.

    Raises
    ------
    Refused
        If the model is not known and its family or size is missing, with the remedy.
    """
    known = describe_model(name)
    if known is not None:
        return known
    family = families.get(name)
    if family is None or size is None:
        lacking = " and ".join(part for part, there in (("family", family), ("size", size)) if there is None)
        raise Refused(f"{where}: the {lacking} of model {name!r} is not known; {remedy}")
    return family, size
