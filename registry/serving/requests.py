"""What a request asks, read from its table and parameters; what cannot be answered is refused with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from registry.benchmarks.items import Item
from registry.benchmarks.prompts import Prompt
from registry.benchmarks.texts import is_visible
from registry.errors import Refused
from registry.tracking.signature import DEFAULTS, FORMS

__all__ = ["Continued", "Question", "Row", "Settings", "Written", "read_rows", "read_settings"]

_MOST_ROWS = 1000
_MOST_OPTIONS = 100
_LETTERS = 26  # of options that are listed under a letter each


@dataclass(frozen=True, slots=True)
class Question:
    """A question to be put into the adapter's own prompt."""

    item: Item

    def written(self, prompt: Prompt) -> Written:
        """Put it into a prompt."""
        if prompt.scored == "letter" and len(self.item.options) > _LETTERS:
            raise Refused(f"{len(self.item.options)} options; this adapter's prompt has letters for {_LETTERS}")
        query = prompt.query(self.item)
        return Written(query.context, query.continuations, query.lengths, self.item.options)


@dataclass(frozen=True, slots=True)
class Written:
    """A context and the continuations to choose from, scored as they stand.

    Attributes
    ----------
    lengths : tuple of int
        Characters that ``acc_norm`` divides by.
    options : tuple of str
        What is answered.
    """

    context: str
    continuations: tuple[str, ...]
    lengths: tuple[int, ...]
    options: tuple[str, ...]

    def written(self, prompt: Prompt) -> Written:
        """Return it as it stands."""
        return self


@dataclass(frozen=True, slots=True)
class Continued:
    """A prompt to be continued."""

    prompt: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a request; ``adapter`` is empty for the one that is served."""

    number: int
    asked: Question | Written | Continued
    adapter: str


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of a request; ``chat`` is None where the adapter decides."""

    adapter: str
    chat: bool | None
    max_new_tokens: int
    temperature: float
    seed: int


def read_settings(params: Mapping[str, Any] | None) -> Settings:
    """Check the parameters of a request; see :data:`registry.tracking.signature.DEFAULTS`."""
    given = DEFAULTS | dict(params or {})
    chats = {"": None, "true": True, "false": False}
    chat, tokens, temperature, seed = (given[name] for name in list(DEFAULTS)[1:])
    if not isinstance(chat, str) or chat.lower() not in chats:
        raise Refused(f"chat_template: {chat!r} is neither 'true' nor 'false'; leave it out for the adapter's own way")
    if not _is_whole(tokens) or tokens < 1:
        raise Refused(f"max_new_tokens: {tokens!r} is not a whole number above 0")
    if not isinstance(temperature, int | float | np.number) or not 0 <= float(temperature) <= 10:
        raise Refused(f"temperature: {temperature!r} is not between 0 and 10")
    if not _is_whole(seed) or not 0 <= seed < 2**63:
        raise Refused(f"seed: {seed!r} is not a whole number from 0 on")
    return Settings(
        _text("adapter", given["adapter"], blank=True), chats[chat.lower()], int(tokens), float(temperature), int(seed)
    )


def read_rows(data: pd.DataFrame, settings: Settings) -> list[Row]:
    """Read the rows of a request's table."""
    if not isinstance(data, pd.DataFrame):
        raise Refused(f"a request is a table of rows, not {type(data).__name__}")
    if not 0 < len(data) <= _MOST_ROWS:
        raise Refused(f"a request has 1 to {_MOST_ROWS:,} rows, not {len(data):,}")
    form = _form(data)
    columns = {name: list(data[name]) for name in (*form, "adapter") if name in data}
    rows = []
    for number in range(len(data)):
        try:
            rows.append(_row(number, form, {name: values[number] for name, values in columns.items()}, settings))
        except ValueError as error:
            raise Refused(f"row {number}: {error}") from None
    return rows


def _form(data: pd.DataFrame) -> tuple[str, ...]:
    """Return the columns of the form that a table has."""
    there = {name for form in FORMS for name in form if name in data and not data[name].isna().all()}
    found = [form for form in FORMS if there.issuperset(form)]
    if len(found) != 1 or there != set(found[0]):
        forms = ", or ".join(" and ".join(form) for form in FORMS)
        raise Refused(f"a request has the columns {forms}; not {', '.join(sorted(there)) or 'none of them'}")
    return found[0]


def _row(number: int, form: tuple[str, ...], values: Mapping[str, object], settings: Settings) -> Row:
    named = values.get("adapter")
    adapter = settings.adapter if _is_missing(named) else _text("adapter", named, blank=True) or settings.adapter
    text = _text(form[0], values[form[0]])
    if len(form) == 1:
        return Row(number, Continued(text), adapter)
    options = _texts(form[1], values[form[1]])
    if form[0] == "question":
        return Row(number, Question(_item(text, options)), adapter)
    item = _item(text, options)  # the same holds of continuations
    lengths = tuple(len(option.removeprefix(" ")) for option in options)
    return Row(number, Written(item.question, options, lengths, options), adapter)


def _item(question: str, options: tuple[str, ...]) -> Item:
    try:
        return Item("asked", question, options, answer=0)
    except ValueError as error:
        raise Refused(str(error).removeprefix("item 'asked': ")) from None


def _texts(name: str, given: object) -> tuple[str, ...]:
    if not isinstance(given, Sequence | np.ndarray) or isinstance(given, str | bytes):
        raise Refused(f"{name} must be a list of texts, not {_kind(given)}")
    if len(given) > _MOST_OPTIONS:
        raise Refused(f"{len(given):,} {name}; at most {_MOST_OPTIONS} are scored")
    one = name.removesuffix("s")
    return tuple(_text(f"one {one}", text, blank=True) for text in given)


def _text(name: str, given: object, *, blank: bool = False) -> str:
    if not isinstance(given, str):
        raise Refused(f"{name} must be text, not {_kind(given)}")
    if not blank and not is_visible(given):
        raise Refused(f"{name} is empty")
    try:
        given.encode()
    except UnicodeEncodeError:
        raise Refused(f"{name} is not text: it holds half a character (a lone surrogate)") from None
    return str(given)


def _kind(given: object) -> str:
    return "nothing" if _is_missing(given) else type(given).__name__


def _is_missing(given: object) -> bool:
    return given is None or (isinstance(given, float) and math.isnan(given)) or given is pd.NA


def _is_whole(given: object) -> bool:
    return isinstance(given, int | np.integer) and not isinstance(given, bool)
