"""The demo grid's items: four tasks in eight languages, built from the lexicon, the same ones on every machine.

==========  ==========================================================  =======================================
task        question                                                    options
==========  ==========================================================  =======================================
kind        which group does the word belong to?                        four kinds, of different groups
place       where is it usually found?                                  four places, of different groups
pair        which word goes best with it?                               four words of the same language
translate   what is it in English (in Spanish, for English words)?      four words of that language
==========  ==========================================================  =======================================

Train and test share no concept in any role: a concept asked about, answered with or offered as a wrong word in one is
not in the other, in any task or language. A third share of the concepts is spare: only its questions may be seen by a
base model before a study. What train and test do share are the wording of the questions and the labels of kinds and
places, of which there are only a few.

Items are aligned: in every language the same id asks about the same concept, offers the same options in the same order
and has the same right answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import get_args

from registry.benchmarks.aligned import Benchmark
from registry.benchmarks.demo.lexicon import LANGUAGES, Concept, Lexicon, Split, lexicon
from registry.benchmarks.items import Item
from registry.benchmarks.prompts import PROMPTS
from registry.cells import Cell, Grid
from registry.config.data import BenchmarkSpec

__all__ = ["ITEMS_PER_SPLIT", "LANGUAGES", "TASKS", "items", "open_demo"]

TASKS: tuple[str, ...] = ("kind", "place", "pair", "translate")

#: Number of items of a cell's train split and of its test split.
ITEMS_PER_SPLIT = 120

_OPTIONS = 4

#: Whether the answers of two concepts must not be options of one question.
_Clash = Callable[[Concept, Concept], bool]


@dataclass(frozen=True, slots=True)
class _Plan:
    """An item before it is put into words: the concepts whose answers are its options, in order."""

    asked: Concept
    offered: tuple[Concept, ...]


def items(cell: Cell, split: Split) -> tuple[Item, ...]:
    """Return the items of one cell.

    Parameters
    ----------
    cell : Cell
        A task of `TASKS` in a language of `LANGUAGES`.
    split : {"train", "test", "spare"}
        ``train`` and ``test`` have `ITEMS_PER_SPLIT` items each. ``spare`` has the few questions that base models may
        see before any study; no study uses them.

    Raises
    ------
    ValueError
        If the cell is not in the demo grid or there is no such split.
    """
    if cell.task not in TASKS or cell.language not in LANGUAGES:
        raise ValueError(
            f"{cell} is no cell of the demo grid: tasks {', '.join(TASKS)}; languages {', '.join(LANGUAGES)}"
        )
    if split not in get_args(Split):
        raise ValueError(f"{split!r} is no split of the demo grid: choose one of {', '.join(get_args(Split))}")
    return _items(cell, split)


@cache
def _items(cell: Cell, split: Split) -> tuple[Item, ...]:
    words = lexicon()
    answer = partial(words.answer, cell.task, cell.language)
    return tuple(
        Item(
            id=f"{cell.task}-{plan.asked.id}",
            question=words.question(cell.task, cell.language, plan.asked),
            options=tuple(answer(concept) for concept in plan.offered),
            answer=plan.offered.index(plan.asked),
        )
        for plan in _plans(cell.task, split)
    )


@cache
def _plans(task: str, split: Split) -> tuple[_Plan, ...]:
    """Draw the wrong options and the order; nothing here knows of a language, so that items stay aligned."""
    words = lexicon()
    rng = random.Random(f"demo {task} {split}")
    asked = list(words.split(split))
    if split != "spare" and len(asked) != ITEMS_PER_SPLIT:
        raise ValueError(f"lexicon.csv has {len(asked)} {split} concepts; the grid needs {ITEMS_PER_SPLIT}")
    rng.shuffle(asked)
    clash = _clash(task, words)
    plans = []
    for index, concept in enumerate(asked):
        offered = _wrong(concept, asked, clash, rng)
        offered.insert(index % _OPTIONS, concept)
        plans.append(_Plan(concept, tuple(offered)))
    return tuple(plans)


def _wrong(asked: Concept, pool: list[Concept], clash: _Clash, rng: random.Random) -> list[Concept]:
    # Drawing concepts, not labels, offers a label as a wrong option in proportion to how often it is right, so that
    # preferring frequent labels earns nothing.
    offered = [asked]
    for concept in rng.sample(pool, len(pool)):
        if not any(clash(other, concept) for other in offered):
            offered.append(concept)
        if len(offered) == _OPTIONS:
            return offered[1:]
    raise ValueError(f"too few concepts to offer beside {asked.id}")


def _clash(task: str, words: Lexicon) -> _Clash:
    match task:
        case "kind":
            return lambda one, other: words.kinds[one.kind].group == words.kinds[other.kind].group
        case "place":
            return lambda one, other: words.places[one.place].group == words.places[other.place].group
        case "pair":
            return partial(_pair_clash, words)
    return lambda one, other: one.id == other.id


def _pair_clash(words: Lexicon, one: Concept, other: Concept) -> bool:
    # The options are the partners. The asked word is no option, and a wrong word is not of the same kind and place as
    # the asked word or the right one: it could be argued for.
    right, wrong = words.concepts[one.partner], words.concepts[other.partner]
    return wrong.id == one.id or (wrong.kind, wrong.place) in ((one.kind, one.place), (right.kind, right.place))


def open_demo(_: BenchmarkSpec) -> Benchmark:
    """Open the built-in grid, whose texts are built when this module is imported."""
    return Benchmark("demo", Grid(TASKS, LANGUAGES), dict.fromkeys(TASKS, PROMPTS["text"]), items)
