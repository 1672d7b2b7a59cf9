"""How a row of a table becomes an item: columns, templates and answers as a study file's FilesTask says."""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache

from registry.benchmarks.items import Item
from registry.benchmarks.prompts import PROMPTS
from registry.benchmarks.splits import warn
from registry.benchmarks.tables import Problems, Table, TableRow
from registry.benchmarks.templates import Template
from registry.benchmarks.texts import cell_id, cell_text, code_points, emptiness, find_text, is_visible, normalize_text
from registry.config.data import FilesTask
from registry.errors import unknown

__all__ = ["check_task", "columns_of", "id_of", "items_of", "value_of"]

_PRINTED_NAN = ("nan", "NaN", "<NA>", "NaT")


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
    return Template.parse(text, repr(text))  # `check_task` has reported a broken one with its place


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
    _warn_of_printed_nan(table, task)
    return tuple(items)


def _warn_of_printed_nan(table: Table, task: FilesTask) -> None:
    """Warn of texts that data frames make of a missing value; in a few data sets they are words."""
    columns = [normalize_text(column) for column in columns_of(task)]
    lines = [row.line for row in table.rows if any(row.values.get(column) in _PRINTED_NAN for column in columns)]
    if lines:
        message = f"{table.path}:{lines[0]}: {len(lines)} rows hold the text 'nan', which stands for a missing value in"
        warn(f"{message} data frames; if it does here, leave the cell empty")


def _lent(row: TableRow, task: FilesTask, borrowed: Mapping[str, Mapping[str, object]]) -> Mapping[str, object]:
    """Return a row's values with the borrowed columns put in."""
    id = id_of(row.values, task.id)
    for column, values in borrowed.items():
        if id not in values:
            lender = task.columns_from[column]
            raise ValueError(f"id {id!r} is not in the file of {lender!r}, which columns_from takes {column!r} from")
    return {**row.values, **{normalize_text(column): values[id] for column, values in borrowed.items()}}


def _item(values: Mapping[str, object], task: FilesTask, language: str) -> Item:
    """Map one row; a fault is a ValueError that says the remedy."""
    options = tuple(_options(values, task, language))
    if len(options) > len(string.ascii_uppercase):
        raise ValueError(f"{len(options)} options; there are letters for {len(string.ascii_uppercase)}")
    words = {column: _word(values, column, task, language) for column in _columns(task.question)}
    for column, word in words.items():
        if not word:
            held = emptiness(value_of(values, column))
            raise ValueError(f"column {column!r} is empty{held}, so the question is; fill it")
    question = _template(task.question).fill(words)
    answer = _template(task.answer).fill({column: _answer_text(values, column) for column in _columns(task.answer)})
    return Item(_filled(values, task.id), question, options, _answer(normalize_text(answer), options, task))


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
    column, *others = template.columns
    listed = value_of(values, column)
    if others or not isinstance(listed, list):
        remedy = "name a column per option, or use .jsonl with lists"
        raise ValueError(f"column {column!r} is no list of options; {remedy}")
    for text in (cell_text(option, column) for option in listed):
        yield template.fill({column: text}) if text else ""  # an item refuses empty options


def _answer(text: str, options: tuple[str, ...], task: FilesTask) -> int:
    """Return the index of the right option."""
    if task.answer_is == "text":
        found = find_text(text, options)
        if found is None:
            raise unknown("option", text, options)
        return options.index(found)
    if task.answer_is == "letter":
        valid = string.ascii_uppercase[: len(options)]
        letter = unicodedata.normalize("NFKC", text).upper()  # Ａ of a text in Chinese is A
        if len(letter) != 1 or letter not in valid:
            spelled = "" if text.isascii() else f" (this is {code_points(text)})"
            raise ValueError(f"answer {text!r} is no letter of an option; there are {', '.join(valid)}{spelled}")
        return valid.index(letter)
    index = text.removesuffix(".0")  # as data frames write a column of numbers that lacked some
    if not index.isdecimal() or not int(index) < len(options):
        raise ValueError(f"answer {text!r} is no index of an option; they count from 0 to {len(options) - 1}")
    return int(index)


def _word(values: Mapping[str, object], column: str, task: FilesTask, language: str) -> str:
    """Return a column's text, or the word that the study puts in its place."""
    text = cell_text(value_of(values, column), column)
    words = task.words.get(column)
    if words is None:
        return text
    found = find_text(text, words)
    if found is None:
        raise unknown(f"entry in words.{column} for", text, words)
    return words[found][language]


def _answer_text(values: Mapping[str, object], column: str) -> str:
    """Return a column's text for the answer, spelled as in the options: operations change both alike."""
    value = value_of(values, column)
    return cell_text(value, column) if isinstance(value, str) and is_visible(value) else _filled(values, column)


def _filled(values: Mapping[str, object], column: str) -> str:
    text = id_of(values, column)
    if not text:
        raise ValueError(f"column {column!r} is empty{emptiness(value_of(values, column))}; fill it")
    return text


def id_of(values: Mapping[str, object], column: str) -> str:
    """Return a column's value as an id or an answer."""
    return cell_id(value_of(values, column), column)


def value_of(values: Mapping[str, object], column: str) -> object:
    """Return a column's value; a table's columns go by their normalised names.

    Raises
    ------
    Refused
        If the row has no such column.
    """
    name = normalize_text(column)
    if name not in values:
        raise unknown("column", column, values)
    return values[name]
