"""How a row of a table becomes an item: columns, templates and answers as a study file's FilesTask says."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from functools import cache

from registry.benchmarks.items import Item
from registry.benchmarks.prompts import PROMPTS
from registry.benchmarks.tables import Problems, Row, Table
from registry.benchmarks.templates import Template
from registry.dataspec import FilesTask
from registry.refusal import Refused, unknown

__all__ = ["check_task", "columns_of", "items_of", "text_of"]


def check_task(where: str, task: FilesTask) -> None:
    """Refuse a mapping that no file could fit.

    Parameters
    ----------
    where
        The task's place in the study file, for the message.

    Raises
    ------
    Refused
        If a key names a prompt style or a column that is not there, or a template is broken.
    """
    if task.prompt not in PROMPTS:
        raise unknown("prompt style", task.prompt, PROMPTS, where=f"{where}.prompt")
    for key, text in _templates(task):
        Template.parse(text, f"{where}.{key}")
    replaced = {*_columns(task.question), *(column for option in task.options for column in _columns(option))}
    for column in task.words:
        if column not in replaced:
            raise unknown("column in question or options", column, replaced, where=f"{where}.words")
    read = set(columns_of(task)) - {task.id}
    for column in task.columns_from:
        if column not in read:
            raise unknown("column that is read", column, read, where=f"{where}.columns_from")


def _templates(task: FilesTask) -> Iterator[tuple[str, str]]:
    """Yield the texts of a task that may be templates, with the key of the study file that holds each."""
    yield "question", task.question
    yield from (("options", option) for option in task.options)
    yield "answer", task.answer


@cache
def _template(text: str) -> Template:
    return Template.parse(text, repr(text))  # its place was told by `check_task` if it is broken


def _columns(text: str) -> tuple[str, ...]:
    return _template(text).columns


def columns_of(task: FilesTask) -> dict[str, str]:
    """Every column a task reads, with the key of the study file that names it."""
    named = {column: key for key, text in reversed(list(_templates(task))) for column in _columns(text)}
    return {task.id: "id"} | named


def items_of(
    table: Table, task: FilesTask, language: str, borrowed: Mapping[str, Mapping[str, object]] | None = None
) -> tuple[Item, ...]:
    """Map every row of a table to an item.

    Parameters
    ----------
    borrowed
        Column → id → the value that takes the place of the row's own.

    Raises
    ------
    Refused
        If any row is no item: with each fault's file, line and remedy.
    """
    problems, items, lines = Problems(table.path), [], dict[str, int]()
    for row in table.rows:
        try:
            item = _item(_lent(row, task, borrowed or {}), task, language)
            if item.id in lines:
                raise ValueError(f"id {item.id!r} already stands in line {lines[item.id]}; ids name one row of a file")
        except ValueError as fault:
            problems.add(row.line, fault)
        else:
            items.append(item)
            lines[item.id] = row.line
    problems.refuse()
    return tuple(items)


def _lent(row: Row, task: FilesTask, borrowed: Mapping[str, Mapping[str, object]]) -> Mapping[str, object]:
    """Return a row's values with the borrowed columns put in."""
    id = text_of(row.values, task.id)
    for column, values in borrowed.items():
        if id not in values:
            lender = task.columns_from[column]
            raise ValueError(f"id {id!r} is not in the file of {lender!r}, which columns_from takes {column!r} from")
    return {**row.values, **{column: values[id] for column, values in borrowed.items()}}


def _item(values: Mapping[str, object], task: FilesTask, language: str) -> Item:
    """Map one row; a fault is a ValueError that says the remedy."""
    options = tuple(_options(values, task, language))
    if len(options) > len(string.ascii_uppercase):
        raise ValueError(f"{len(options)} options; there are letters for {len(string.ascii_uppercase)}")
    words = {column: _word(values, column, task, language) for column in _columns(task.question)}
    for column, word in words.items():
        if not word:
            raise ValueError(f"column {column!r} is empty, so the question is; fill it")
    question = _template(task.question).fill(words)
    answer = {column: _filled(values, column) for column in _columns(task.answer)}
    return Item(
        _filled(values, task.id), question, options, _answer(_template(task.answer).fill(answer), options, task)
    )


def _options(values: Mapping[str, object], task: FilesTask, language: str) -> Iterator[str]:
    """Yield the texts of the options; blank ones at the end mean that this item has fewer than others."""
    if task.choices:
        yield from task.choices
        return
    templates = [_template(option) for option in task.options]
    if len(templates) == 1:
        yield from _listed(values, templates[0])
        return
    words = [{column: _word(values, column, task, language) for column in found.columns} for found in templates]
    while words and not any(words[-1].values()):
        words.pop()
    for template, found in zip(templates, words, strict=False):
        yield template.fill(found) if all(found.values()) else ""  # an item refuses empty options


def _listed(values: Mapping[str, object], template: Template) -> Iterator[str]:
    """Yield the options of the one column that holds them all as a list."""
    lists = [column for column in template.columns if isinstance(values.get(column), list)]
    if len(lists) != 1 or len(template.columns) != 1:
        remedy = "name a column per option, or use .jsonl with lists"
        raise ValueError(f"column {template.columns[0]!r} is no list of options; {remedy}")
    (column,) = lists
    listed = values[column]
    assert isinstance(listed, list)
    for option in listed:
        yield template.fill({column: _plain(option, column)})


def _answer(text: str, options: tuple[str, ...], task: FilesTask) -> int:
    """Return the index of the right option."""
    if task.answer_is == "text":
        if text not in options:
            raise unknown("option", text, options)
        return options.index(text)
    if task.answer_is == "letter":
        valid = string.ascii_uppercase[: len(options)]
        if len(text) != 1 or text.upper() not in valid:
            raise ValueError(f"answer {text!r} is no letter of an option; there are {', '.join(valid)}")
        return valid.index(text.upper())
    if not text.isdecimal() or not int(text) < len(options):
        raise ValueError(f"answer {text!r} is no index of an option; they count from 0 to {len(options) - 1}")
    return int(text)


def _word(values: Mapping[str, object], column: str, task: FilesTask, language: str) -> str:
    """Return a column's text, or the word that the study puts in its place."""
    text = text_of(values, column)
    words = task.words.get(column)
    if words is None:
        return text
    if text not in words:
        raise unknown(f"entry in words.{column} for", text, words)
    return words[text][language]


def _filled(values: Mapping[str, object], column: str) -> str:
    text = text_of(values, column)
    if not text:
        raise ValueError(f"column {column!r} is empty; fill it")
    return text


def text_of(values: Mapping[str, object], column: str) -> str:
    """Return a column's value as text."""
    if column not in values:
        raise unknown("column", column, values)
    return _plain(values[column], column)


def _plain(value: object, column: str) -> str:
    """Return a value as text without blanks around it; numbers may be ids and answers, a null is an empty text."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Refused(f"column {column!r} holds a {type(value).__name__}; a text or a number is needed")
    text = str(value).strip()
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"column {column!r} holds half of a surrogate pair, which is no character; replace it")
    return text
