"""Requests to a served adapter: rows and parameters, validated by pydantic before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import numpy as np
import pandas as pd
from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from registry.benchmarks.items import Item
from registry.benchmarks.prompts import Prompt, Query
from registry.benchmarks.texts import is_visible
from registry.config.messages import dotted, worded
from registry.errors import Refused
from registry.tracking.signature import DEFAULTS, FORMS

__all__ = ["ContinuationRow", "PromptRow", "QuestionRow", "RequestRow", "Settings", "read_rows", "read_settings"]

_MOST_ROWS = 1000
_MOST_OPTIONS = 100
_LETTERS = 26  # of options that are listed under a letter each

Checked = TypeVar("Checked")


def _python_value(given: object) -> object:
    """Return a number or list of numpy's as Python's own."""
    return given.tolist() if isinstance(given, np.generic | np.ndarray) else given


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text has half a character (a lone surrogate)") from None
    return text


def _visible(text: str) -> str:
    if not is_visible(text):
        raise ValueError("the text is empty")
    return text


def _scorable(texts: tuple[str, ...]) -> tuple[str, ...]:
    if len(texts) > _MOST_OPTIONS:
        raise ValueError(f"{len(texts):,} options; at most {_MOST_OPTIONS} are scored")
    return texts


def _chat_choice(given: object) -> bool | None:
    choices = {"": None, "true": True, "false": False}
    if not isinstance(given, str) or given.lower() not in choices:
        raise ValueError("write 'true' or 'false', or leave it out for the adapter's own way")
    return choices[given.lower()]


Text = Annotated[str, Field(strict=True), AfterValidator(_whole)]
VisibleText = Annotated[Text, AfterValidator(_visible)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_python_value), AfterValidator(_scorable)]


@dataclass(frozen=True)
class QuestionRow:
    """A question to be put into the adapter's own prompt; ``adapter`` is empty for the one that is served."""

    question: VisibleText
    options: Texts
    adapter: Text

    def __post_init__(self) -> None:
        _item(self.question, self.options)

    def query(self, prompt: Prompt) -> Query:
        """Return what is scored for the question in a prompt."""
        if prompt.scored == "letter" and len(self.options) > _LETTERS:
            raise Refused(f"{len(self.options)} options; this adapter's prompt has letters for {_LETTERS}")
        return prompt.query(_item(self.question, self.options))


@dataclass(frozen=True)
class ContinuationRow:
    """A context and the continuations to choose from, scored as they are."""

    context: VisibleText
    continuations: Texts
    adapter: Text

    def __post_init__(self) -> None:
        _item(self.context, self.continuations)  # the same conditions hold

    @property
    def options(self) -> tuple[str, ...]:
        """What is answered."""
        return self.continuations

    def query(self, prompt: Prompt) -> Query:
        """Return context and continuations; no prompt is put around them."""
        lengths = tuple(len(option.removeprefix(" ")) for option in self.continuations)
        return Query(self.context, self.continuations, lengths, answer=0)


@dataclass(frozen=True)
class PromptRow:
    """A prompt to be continued."""

    prompt: VisibleText
    adapter: Text


RequestRow = QuestionRow | ContinuationRow | PromptRow

_ROWS: Mapping[tuple[str, ...], TypeAdapter[Any]] = {
    form: TypeAdapter(kind) for form, kind in zip(FORMS, (QuestionRow, ContinuationRow, PromptRow), strict=True)
}


@dataclass(frozen=True)
class Settings:
    """The parameters of a request; see :data:`registry.tracking.signature.DEFAULTS`.

    ``chat_template`` is None where the adapter decides.
    """

    adapter: Text
    chat_template: Annotated[bool | None, PlainValidator(_chat_choice)]
    max_new_tokens: Annotated[int, BeforeValidator(_python_value), Field(strict=True, gt=0)]
    temperature: Annotated[float, BeforeValidator(_python_value), Field(strict=True, ge=0, le=10)]
    seed: Annotated[int, BeforeValidator(_python_value), Field(strict=True, ge=0, lt=2**63)]


_SETTINGS = TypeAdapter(Settings)


def read_settings(params: Mapping[str, Any] | None) -> Settings:
    """Validate the parameters of a request."""
    given = params or {}
    return _validated(_SETTINGS, {name: given.get(name, default) for name, default in DEFAULTS.items()})


def read_rows(data: pd.DataFrame, settings: Settings) -> list[RequestRow]:
    """Validate the rows of a request's table; what cannot be answered is refused with the reason."""
    if not isinstance(data, pd.DataFrame):
        raise Refused(f"a request is a table of rows, not {type(data).__name__}")
    if not 0 < len(data) <= _MOST_ROWS:
        raise Refused(f"a request has 1 to {_MOST_ROWS:,} rows, not {len(data):,}")
    form = _form(data)
    columns = {name: list(data[name]) for name in (*form, "adapter") if name in data}
    rows = []
    for number in range(len(data)):
        values = {name: None if _is_missing(column[number]) else column[number] for name, column in columns.items()}
        adapter = values.get("adapter")
        values["adapter"] = settings.adapter if adapter is None or adapter == "" else adapter
        try:
            rows.append(_validated(_ROWS[form], values))
        except Refused as error:
            raise Refused(f"row {number}: {error}") from None
    return rows


def _validated(schema: TypeAdapter[Checked], given: Mapping[str, object]) -> Checked:
    try:
        return schema.validate_python(given)
    except ValidationError as error:
        problems = error.errors()
    raise Refused("\n".join(": ".join(filter(None, (dotted(one["loc"]), worded(one)))) for one in problems))


def _form(data: pd.DataFrame) -> tuple[str, ...]:
    """Return the columns of the form that a table has."""
    there = {name for form in FORMS for name in form if name in data and not data[name].isna().all()}
    found = [form for form in FORMS if there.issuperset(form)]
    if len(found) != 1 or there != set(found[0]):
        forms = ", or ".join(" and ".join(form) for form in FORMS)
        raise Refused(f"a request has the columns {forms}; not {', '.join(sorted(there)) or 'none of them'}")
    return found[0]


def _item(question: str, options: tuple[str, ...]) -> Item:
    try:
        return Item("request", question, options, answer=0)
    except ValueError as error:
        raise ValueError(str(error).removeprefix("item 'request': ")) from None


def _is_missing(given: object) -> bool:
    return given is None or (isinstance(given, float) and math.isnan(given)) or given is pd.NA
