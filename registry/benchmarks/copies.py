"""Cells whose items are copies of one another: a language that was never translated is no second language."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

from registry.benchmarks.items import Item
from registry.benchmarks.prompts import Prompt
from registry.benchmarks.texts import fold_text, normalize_text
from registry.cells import Cell

__all__ = ["Copies", "Overlap", "find_copies", "find_overlaps"]

#: Groups of cells that have the same items.
Copies = tuple[tuple[Cell, ...], ...]

#: From this share of equal questions on, two languages are reported.
_MUCH = 0.5


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two languages of a task, how many items they have, and in how many of them the question is the same text."""

    cells: tuple[Cell, Cell]
    same: int
    items: int

    def __str__(self) -> str:
        return f"{self.same} of {self.items} questions of {self.cells[0]} and {self.cells[1]} are the same text"


def find_copies(items: Mapping[Cell, Sequence[Item]], prompts: Mapping[str, Prompt]) -> Copies:
    """Return the groups of cells that have the same questions, options and answers, asked in the same way.

    Texts that only Unicode spells differently are the same; see :func:`registry.benchmarks.texts.normalize_text`.
    """
    groups: dict[str, list[Cell]] = defaultdict(list)
    for cell, found in items.items():
        groups[_content(found, prompts[cell.task])].append(cell)
    return tuple(tuple(cells) for cells in groups.values() if len(cells) > 1)


def _content(items: Iterable[Item], prompt: Prompt) -> str:
    digest = hashlib.sha256(json.dumps(asdict(prompt), sort_keys=True).encode())
    for item in items:
        texts = [normalize_text(item.question), *map(normalize_text, item.options)]
        digest.update(json.dumps([texts, item.answer]).encode())
    return digest.hexdigest()


def find_overlaps(items: Mapping[Cell, Sequence[Item]]) -> tuple[Overlap, ...]:
    """Return the pairs of a task's languages in which at least half of the questions, though not all, are one text."""
    found = []
    questions = {cell: [fold_text(item.question) for item in of_cell] for cell, of_cell in items.items()}
    for one, other in combinations(items, 2):
        if one.task != other.task:
            continue
        pairs = zip(questions[one], questions[other], strict=True)
        same, count = sum(ours == theirs for ours, theirs in pairs), len(questions[one])
        if _MUCH * count <= same < count:
            found.append(Overlap((one, other), same, count))
    return tuple(found)
