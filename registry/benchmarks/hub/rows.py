"""How a row of each published data set becomes an item, as lm-evaluation-harness reads it.

Texts are cleaned where the harness's multilingual tasks clean them, and the same texts are trained on: ARC's questions
and options, HellaSwag's contexts and endings, TruthfulQA's questions. A row that is no item is reported and left out; a
data set that lacks a column is refused.
"""

from __future__ import annotations

import ast
import string
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from registry.benchmarks.items import Item
from registry.benchmarks.prompts import clean_hellaswag
from registry.benchmarks.texts import cell_id, is_missing, is_visible
from registry.errors import Refused, unknown

__all__ = ["Rows", "items_of_rows", "listed", "unprinted"]

Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Rows:
    """A split's items, in its order, and the rows that are none: id → what is wrong with it, and its row from 0."""

    items: tuple[Item, ...]
    broken: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Schema:
    """How a row is read, the columns that takes, and the one that holds the id; None numbers the rows from 0."""

    read: Callable[[str, Row], Item]
    columns: tuple[str, ...]
    id: str | None = None


def items_of_rows(task: str, rows: Iterable[Row], columns: Iterable[str], where: str) -> Rows:
    """Map every row of a data set's split to an item.

    Parameters
    ----------
    columns
        The columns that the split has.
    where
        The split, for messages.

    Raises
    ------
    Refused
        If a column of the published schema is not there.
    """
    columns = tuple(columns)
    schema = _schema(task, columns)
    for column in (*((schema.id,) if schema.id else ()), *schema.columns):
        if column not in columns:
            raise Refused(f"{unknown('column', column, columns, where=where)}; this is not the published layout")
    items: list[Item] = []
    broken: dict[str, str] = {}
    places: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        id = f"row {number}"
        try:
            id = _id(row[schema.id]) if schema.id else str(number)
            places[id].append(number)
            items.append(schema.read(id, row))
        except ValueError as fault:
            broken[id] = f"{str(fault).removeprefix(f'item {id!r}: ')} (row {number})"
    broken |= {id: f"rows {', '.join(map(str, rows))} share this id" for id, rows in places.items() if len(rows) > 1}
    return Rows(tuple(item for item in items if item.id not in broken), broken)


def _arc(id: str, row: Row) -> Item:
    options = [_text(row, f"option_{letter}", blank=True) for letter in "abcde"]
    while options and not is_visible(options[-1]):
        options.pop()
    options = [clean_hellaswag(option) for option in options]
    return Item(id, clean_hellaswag(_text(row, "instruction")), tuple(options), _letter(row, len(options)))


def _mmlu(id: str, row: Row) -> Item:
    options = tuple(_text(row, f"option_{letter}") for letter in "abcd")
    return Item(id, _text(row, "question").strip(), options, _letter(row, len(options)))


def _hellaswag(id: str, row: Row) -> Item:
    first, second = _text(row, "ctx_a", blank=True), _text(row, "ctx_b", blank=True)
    if not is_visible(first + second):
        raise ValueError("ctx_a and ctx_b are empty, so the question is")
    endings = [clean_hellaswag(_plain(ending, "endings")) for ending in listed(row["endings"], "endings")]
    if len(endings) != 4:
        raise ValueError(f"{len(endings)} endings; HellaSwag has 4")
    label = cell_id(row["label"], "label")
    if label not in ("0", "1", "2", "3"):
        raise ValueError(f"label {label!r} is no index of an ending; they count from 0 to 3")
    context = f"{_text(row, 'activity_label')}: {first} {second.capitalize()}"
    return Item(id, clean_hellaswag(context), tuple(endings), int(label))


def _truthfulqa(id: str, row: Row) -> Item:
    return _first_right(id, row, row["mc1_targets_choices"], row["mc1_targets_labels"])


def _truthfulqa_english(id: str, row: Row) -> Item:
    targets = row["mc1_targets"]
    found = unprinted(targets) if isinstance(targets, str) else targets
    if not (isinstance(found, Mapping) and {"choices", "labels"} <= set(found)):
        raise ValueError("column 'mc1_targets' does not hold choices and labels")
    return _first_right(id, row, found["choices"], found["labels"])


def _first_right(id: str, row: Row, choices: object, labels: object) -> Item:
    """Return TruthfulQA's item, whose right option is the first of mc1; its choices are not cleaned."""
    options = [_plain(choice, "mc1 choices") for choice in listed(choices, "mc1 choices")]
    right = [cell_id(label, "mc1 labels") for label in listed(labels, "mc1 labels")]
    if len(right) != len(options):
        raise ValueError(f"{len(options)} mc1 choices and {len(right)} labels")
    if right != ["1", *["0"] * (len(right) - 1)]:
        raise ValueError(f"the mc1 labels are {', '.join(right)}; the first choice, and no other, should be right")
    return Item(id, clean_hellaswag(_text(row, "question")), tuple(options), 0)


_SCHEMAS = {
    "arc_challenge": _Schema(_arc, ("instruction", *(f"option_{letter}" for letter in "abcde"), "answer"), "id"),
    "global_mmlu": _Schema(_mmlu, ("question", *(f"option_{letter}" for letter in "abcd"), "answer"), "sample_id"),
    "hellaswag": _Schema(_hellaswag, ("activity_label", "ctx_a", "ctx_b", "endings", "label"), "id"),
    "truthfulqa": _Schema(_truthfulqa, ("question", "mc1_targets_choices", "mc1_targets_labels")),
}
_ENGLISH = _Schema(_truthfulqa_english, ("question", "mc1_targets"))


def _schema(task: str, columns: tuple[str, ...]) -> _Schema:
    """Return a task's schema; the English TruthfulQA has choices and labels in one column."""
    return _ENGLISH if task == "truthfulqa" and "mc1_targets" in columns else _SCHEMAS[task]


def _id(value: object) -> str:
    id = cell_id(value, "id")
    if not id:
        raise ValueError("the id is empty")
    return id


def _text(row: Row, column: str, *, blank: bool = False) -> str:
    """Return a column's text as it stands; null and NaN are an empty text, where that is allowed."""
    return "" if blank and is_missing(row[column]) else _plain(row[column], column)


def _plain(value: object, column: str) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"column {column!r} holds {'nothing' if value is None else f'a {type(value).__name__}'}, no text")


def _letter(row: Row, options: int) -> int:
    """Return the index of the option whose letter ``answer`` is."""
    valid, answer = string.ascii_uppercase[:options], cell_id(row["answer"], "answer")
    if len(answer) != 1 or answer not in valid:
        raise ValueError(f"answer {answer!r} is no letter of an option; there are {', '.join(valid) or 'none'}")
    return valid.index(answer)


# --- lists and mappings that a data set holds as the text Python or numpy printed: read without running any of it


def unprinted(text: str) -> object:
    """Read a printed value: texts, numbers, lists, tuples, mappings and ``array([...], dtype=...)`` around them.

    Parameters
    ----------
    text
        Such as ``"{'choices': array(['a', 'b'], dtype=object), 'labels': array([1, 0])}"``.

    Raises
    ------
    ValueError
        If the text is anything else; nothing in it is looked up, called or computed.
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{_short(repr(text))} is no printed list or mapping ({type(error).__name__})") from None


def listed(value: object, column: str) -> list[object]:
    """Return a column's list, which may lie there as a printed one.

    Raises
    ------
    ValueError
        If it is no list.
    """
    found = unprinted(value) if isinstance(value, str) else value
    if isinstance(found, list):
        return found
    raise ValueError(f"column {column!r} holds no list but {_short(repr(value))}")


def _value(node: ast.expr) -> object:
    """Return what a node of the printed grammar stands for."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
        if isinstance(node.value, str):
            node.value.encode()  # an escape may name half of a surrogate pair, which is no character
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(element) for element in node.elts]
    if isinstance(node, ast.Dict):
        return {_key(key): _value(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.Call):
        return _array(node)
    raise ValueError(f"{_short(ast.unparse(node))} has no place in a printed list or mapping")


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError("the keys of a printed mapping are texts")


def _array(node: ast.Call) -> object:
    """Return the list inside ``array([...])``; the dtype it names says nothing that the values do not."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    keywords = [keyword.arg for keyword in node.keywords]
    if name == "array" and len(node.args) == 1 and isinstance(node.args[0], ast.List) and keywords in ([], ["dtype"]):
        return _value(node.args[0])
    raise ValueError(f"{_short(ast.unparse(node))} has no place in a printed list or mapping")


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
