"""What is wrong with the content of a file that pydantic validates: file, line, key and remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from registry.config.data import BenchmarkSpec, FilesTask, SplitSpec
from registry.config.promotion import PromotionPolicy
from registry.config.study import BaseSpec, LoraSpec, Recipe, Study
from registry.config.tuning import Dimension, TuneSpace, TuneSpec
from registry.errors import Refused, unknown

__all__ = ["FileSchema", "Location", "brief", "dotted", "line_of", "validate", "validated", "worded"]

#: Keys and list positions that lead to a value: ("models", 0, "name").
Location = tuple[str | int, ...]

Content = TypeVar("Content")


@dataclass(frozen=True)
class FileSchema(Generic[Content]):
    """What a kind of file may hold.

    Attributes
    ----------
    kind
        The dataclass that its content is validated as.
    noun
        What messages call it.
    levels
        Location → dataclass of the mapping there; ``*`` stands for a position in a list or a name of the user's.
    file_keys
        Keys of the file that the dataclass does not have.
    """

    kind: type[Content]
    noun: str
    levels: Mapping[Location, Any]
    file_keys: tuple[str, ...] = ()

    def keys_at(self, location: Location) -> list[str]:
        """Return the keys that a file may have at a location."""
        for pattern, owner in self.levels.items():
            fits = (one in ("*", other) for one, other in zip(pattern, location, strict=False))
            if len(pattern) == len(location) and all(fits):
                return [*owner.__dataclass_fields__, *(() if location else self.file_keys)]
        raise KeyError(location)


_STUDY = FileSchema(
    Study,
    "study",
    {
        (): Study,
        ("benchmark",): BenchmarkSpec,
        ("benchmark", "tasks", "*"): FilesTask,
        ("models", "*"): BaseSpec,
        ("split",): SplitSpec,
        ("recipe",): Recipe,
        ("recipe", "lora"): LoraSpec,
        ("tune",): TuneSpec,
        ("tune", "space"): TuneSpace,
        ("tune", "space", "*"): Dimension,
        ("promotion", "*"): PromotionPolicy,
    },
    file_keys=("extends", "variants"),
)

# Characters of a value that a message repeats, and mistakes that are spelled out.
_LONGEST = 200
_SHOWN = 20

_NOTHING_INHERITED = "; null takes away what is inherited, and nothing is here: give a value, or leave the key out"

# Findings that pydantic words for programmers.
_WORDING = {
    "tuple_type": "a list is needed, such as [a, b]",
    "dict_type": "a mapping is needed, such as {a: b}",
    "dataclass_type": "a mapping is needed, such as {a: b}",
    "string_pattern_mismatch": "a name is letters, digits, '_', '-' and '.', the first a letter or digit",
}


def validated(content: dict[str, Any], *, where: str, text: str | None = None, inside: Location = ()) -> Study:
    """Return the study of a content; see :func:`validate`."""
    return validate(_STUDY, content, where=where, text=text, inside=inside)


def validate(
    schema: FileSchema[Content],
    content: Mapping[Any, Any],
    *,
    where: str,
    text: str | None = None,
    inside: Location = (),
) -> Content:
    """Return what a file holds, as its dataclass.

    Parameters
    ----------
    where
        What a message names: the file, or what else the content is from.
    text
        The file's, in which lines are looked up.
    inside
        Where in the text a variant's part of the content stands.

    Raises
    ------
    Refused
        With a line for each mistake.
    """
    try:
        return TypeAdapter(schema.kind).validate_python(content)
    except ValidationError as error:
        found = error.errors()
    # A list whose entries are wrong is also reported as too short; the entries say more.
    inner = {problem["loc"][:depth] for problem in found for depth in range(len(problem["loc"]))}
    lines = [_explain(problem, schema, where, text, inside) for problem in found if problem["loc"] not in inner]
    more = [f"and {len(lines) - _SHOWN:,} more mistakes"] if len(lines) > _SHOWN else []
    raise Refused("\n".join([*lines[:_SHOWN], *more]))


def _explain(problem: Any, schema: FileSchema[Any], where: str, text: str | None, inside: Location) -> str:
    """Turn one of pydantic's findings into file, line, key and remedy."""
    location = tuple(part for part in problem["loc"] if part != "[key]")
    within: Location = ()
    if text is not None:
        within = inside if _stands(inside + location, text) else ()
        where = f"{where}:{line_of(within + location, text)}"
    if problem["type"] == "unexpected_keyword_argument":
        place = f" in {dotted((within + location)[:-1])}" if (within + location)[:-1] else ""
        return str(unknown("key", str(location[-1]), schema.keys_at(location[:-1]), where=where + place))
    key = dotted(within + location) or f"the {schema.noun}"
    if problem["type"] == "missing":
        taken = text is not None and _stands(within + location, text)  # by a null: its value is not among the content
        null = f": a {schema.noun} must have it, so null cannot take it away" if taken else ""
        return f"{where}: {key} is missing{null}"
    remedy = _NOTHING_INHERITED if problem["input"] is None and isinstance(location[-1], str) else ""
    return f"{where}: {key}: {worded(problem)}{remedy}"


def worded(problem: Any) -> str:
    """Word one of pydantic's findings on a value, without saying where the value stands."""
    message = _WORDING.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    given = "" if isinstance(problem["input"], dict) else f" (got {brief(problem['input'])})"
    return f"{message[:1].lower()}{message[1:]}{given}{_remedy(problem['input'])}"


def brief(value: object) -> str:
    """Write a value as a message repeats it."""
    try:
        text = repr(value)
    except RecursionError:
        text = type(value).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _remedy(value: object) -> str:
    if isinstance(value, bool):  # Norwegian is the classic: [en, no] holds False
        return "; YAML reads no, yes, on and off as truth values: quote the text, such as 'no'"
    return ""


def dotted(location: Sequence[str | int]) -> str:
    """Write a location as ``models[0].name``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")


def line_of(location: Location, text: str) -> int:
    """Return the line (from 1) on which a location, or the nearest thing around it, stands in the YAML text."""
    return _place(location, text)[0]


def _stands(location: Location, text: str) -> bool:
    """Whether the YAML text has a location."""
    return _place(location, text)[1]


def _place(location: Location, text: str) -> tuple[int, bool]:
    """Return the line of a location, or of the nearest thing around it, and whether it is there."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    line, there = (node.start_mark.line if node is not None else 0), True
    for part in location:
        child, there = None, False
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, child, there = key.start_mark.line, value, True
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            child, there = node.value[part], True
            line = child.start_mark.line
        node = child
    return line + 1, there
