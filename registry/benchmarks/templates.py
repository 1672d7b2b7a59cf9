"""Templates of a study file: text with columns in braces, each changed by small operations.

``{premise|drop_last} {question}`` is the column ``premise`` without its last character, a space, and the column
``question``. Operations are applied from left to right. They are a closed set, and a column is a name and nothing else,
so no template can reach an attribute, an index or a format of a value.

A character is a Unicode code point, as in Python and so in lm-evaluation-harness: ``drop_last`` is ``text[:-1]``, and
where the last letter is written with a combining mark, it drops the mark.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from registry.benchmarks.texts import is_visible
from registry.errors import Refused, unknown

__all__ = ["OPERATIONS", "Placeholder", "Template"]

_BRACED = re.compile(r"\{([^{}]*)\}")


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _upper_first(text: str) -> str:
    return text[:1].title() + text[1:]  # the title case of a ligature is two letters, one of them large


def _drop_last(text: str) -> str:
    return text[:-1]


def _drop_punctuation(text: str) -> str:
    """Take punctuation of any script off the end, with the blanks and invisible characters around it."""
    end = len(text)
    while end and (not is_visible(text[end - 1]) or unicodedata.category(text[end - 1]).startswith("P")):
        end -= 1
    return text[:end]


#: What a template may do with a column's text, by the name it writes behind ``|``.
OPERATIONS: dict[str, Callable[[str], str]] = {
    "strip": str.strip,
    "lower": str.lower,
    "lower_first": _lower_first,
    "upper_first": _upper_first,
    "drop_last": _drop_last,
    "drop_punctuation": _drop_punctuation,
}


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A column in a template, and the operations on its text in their order."""

    column: str
    operations: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "|".join((self.column, *self.operations))

    def changed(self, text: str) -> str:
        """Return a text with the operations applied."""
        for name in self.operations:
            text = OPERATIONS[name](text)
        return text


@dataclass(frozen=True, slots=True)
class Template:
    """A text of a study file that holds columns: alternately what stands between them, and a placeholder."""

    literals: tuple[str, ...]
    placeholders: tuple[Placeholder, ...]

    @classmethod
    def parse(cls, text: str, where: str) -> Template:
        """Read a template, or a column's name alone.

        Parameters
        ----------
        where
            Its place in the study file, for the message.

        Raises
        ------
        Refused
            If a brace has no partner, or an operation does not exist.
        """
        if not set("{}") & set(text):
            return cls(("", ""), (Placeholder(text),))
        parts = _BRACED.split(text)  # literals at even places, what stood in braces at odd ones
        if set("{}") & set("".join(parts[::2])):
            raise Refused(f"{where}: {text!r} has a lone brace; write columns as {{column}}")
        return cls(tuple(parts[::2]), tuple(_placeholder(part, where) for part in parts[1::2]))

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns it holds, in the order met."""
        return tuple(dict.fromkeys(placeholder.column for placeholder in self.placeholders))

    def fill(self, texts: Mapping[str, str]) -> str:
        """Return the text with every column's text, changed by its operations, in its place.

        Raises
        ------
        ValueError
            If operations leave nothing of a column that has a text.
        """
        filled = [self.literals[0]]
        for placeholder, literal in zip(self.placeholders, self.literals[1:], strict=True):
            text = placeholder.changed(texts[placeholder.column])
            if not is_visible(text) and texts[placeholder.column]:
                given = texts[placeholder.column]
                raise ValueError(f"{{{placeholder}}} leaves nothing of {given!r}; take an operation out, or correct it")
            filled += [text, literal]
        return "".join(filled)


def _placeholder(text: str, where: str) -> Placeholder:
    if "|" not in text:
        return Placeholder(text)
    column, *operations = (part.strip() for part in text.split("|"))
    for name in operations:
        if name not in OPERATIONS:
            raise unknown("operation", name, OPERATIONS, where=f"{where}: {{{text}}}")
    return Placeholder(column, tuple(operations))
