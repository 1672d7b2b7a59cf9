"""A benchmark's cells with the same items, in the same order, in every language."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field

from registry.benchmarks.items import Item
from registry.benchmarks.prompts import Prompt
from registry.benchmarks.splits import SPLITS, Manifest, Pools, Split, draw_manifest, read_manifest, shown
from registry.benchmarks.tables import located
from registry.cells import Cell, Grid
from registry.refusal import Refused, unknown
from registry.study import SplitSpec

__all__ = ["AlignedItems", "Benchmark", "align"]


@dataclass(frozen=True)
class Benchmark:
    """Where items come from.

    Attributes
    ----------
    name
        "demo" or "files".
    grid
        Every task and language offered.
    prompts
        Task → prompt style.
    pool
        ``pool(cell, split)`` returns every item of a cell's split, checked, in the source's order.
    one_pool
        Tasks whose splits both come from the same items, so that one must be drawn from what the other left.
    """

    name: str
    grid: Grid
    prompts: Mapping[str, Prompt]
    pool: Callable[[Cell, Split], tuple[Item, ...]]
    one_pool: frozenset[str] = frozenset()

    def select(self, tasks: Iterable[str] = (), languages: Iterable[str] = ()) -> Grid:
        """Return the grid of the named tasks and languages, all of them where none is named.

        Raises
        ------
        Refused
            If the benchmark lacks one of them.
        """
        chosen = {"task": tuple(tasks), "language": tuple(languages)}
        for kind, offered in (("task", self.grid.tasks), ("language", self.grid.languages)):
            for name in chosen[kind]:
                if name not in offered:
                    raise unknown(kind, name, offered, where=f"benchmark {self.name}")
        return Grid(chosen["task"] or self.grid.tasks, chosen["language"] or self.grid.languages)


@dataclass(frozen=True)
class AlignedItems:
    """The items a study uses: for each cell of its grid a training and a test set. Made by :func:`align`."""

    grid: Grid
    prompts: Mapping[str, Prompt]
    manifests: Mapping[str, Manifest]
    _items: Mapping[tuple[Cell, Split], tuple[Item, ...]] = field(repr=False)
    _digests: Mapping[tuple[Cell, Split], str] = field(repr=False)

    def train(self, cell: Cell) -> tuple[Item, ...]:
        """Training items of a cell, in the manifest's order."""
        return self._items[self._known(cell), "train"]

    def test(self, cell: Cell) -> tuple[Item, ...]:
        """Test items of a cell, in the manifest's order."""
        return self._items[self._known(cell), "test"]

    def manifest(self, task: str) -> Manifest:
        """The ids of a task's items."""
        if task not in self.manifests:
            raise unknown("task", task, self.manifests)
        return self.manifests[task]

    def digest(self, cell: Cell, split: Split) -> str:
        """SHA-256 over the prompt style and every item of a cell's split: ids, texts, answers and their order."""
        return self._digests[self._known(cell), split]

    def test_digest(self, cells: Iterable[Cell]) -> str:
        """SHA-256 over the test sets of several cells, whatever the order the cells are named in."""
        lines = sorted(f"{cell} {self.digest(cell, 'test')}" for cell in set(cells))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _known(self, cell: Cell) -> Cell:
        if cell not in self.grid:
            raise unknown("cell", str(cell), map(str, self.grid))
        return cell


def align(benchmark: Benchmark, grid: Grid, split: SplitSpec) -> AlignedItems:
    """Choose the items of every cell of a grid, the same ids in the same order in every language.

    Parameters
    ----------
    grid
        The tasks and languages used; the ids only have to exist in these.

    Raises
    ------
    Refused
        If the ids differ between languages, translations disagree on the answer or the number of options, a question
        is in both training and test, or too few items exist.
    """
    folder = located(split.manifest) if split.manifest else None
    chosen: dict[str, Manifest] = {}
    items: dict[tuple[Cell, Split], tuple[Item, ...]] = {}
    for task in grid.tasks:
        pools = _pools(benchmark, task, grid.languages)
        if folder:
            manifest = read_manifest(task, folder, pools)
        else:
            manifest = draw_manifest(task, pools, split, one_pool=task in benchmark.one_pool)
        _check_answers(task, pools, manifest)
        for language in grid.languages:
            for part in SPLITS:
                known = pools[part][language]
                items[Cell(task, language), part] = tuple(known[id] for id in manifest.ids(part))
        chosen[task] = manifest
    if split.overlap == "refuse":
        for cell in grid:
            _check_disjoint(cell, items[cell, "train"], items[cell, "test"])
    digests = {(cell, part): _digest(found, benchmark.prompts[cell.task]) for (cell, part), found in items.items()}
    return AlignedItems(grid, benchmark.prompts, chosen, items, digests)


def _pools(benchmark: Benchmark, task: str, languages: Iterable[str]) -> Pools:
    cells = {language: Cell(task, language) for language in languages}
    return {split: {language: _by_id(benchmark, cell, split) for language, cell in cells.items()} for split in SPLITS}


def _by_id(benchmark: Benchmark, cell: Cell, split: Split) -> dict[str, Item]:
    items = benchmark.pool(cell, split)
    found = {item.id: item for item in items}
    if len(found) < len(items):
        ids = [item.id for item in items]
        raise Refused(f"{cell} {split}: ids used twice: {shown(sorted(id for id in found if ids.count(id) > 1))}")
    return found


def _check_answers(task: str, pools: Pools, manifest: Manifest) -> None:
    """Refuse translations with another right option, or more or fewer options: one of the files is wrong."""
    for split in SPLITS:
        first, *others = pools[split].items()
        for language, items in others:
            kinds = {id: (_shape(first[1][id]), _shape(items[id])) for id in manifest.ids(split)}
            wrong = [id for id, (one, other) in kinds.items() if one != other]
            if wrong:
                where = f"{task} {split}: {len(wrong)} ids have another answer or number of options"
                remedy = "correct the files, or leave the ids out by a manifest"
                raise Refused(f"{where} in {language} than in {first[0]}: {shown(wrong)}; {remedy}")


def _shape(item: Item) -> tuple[int, int]:
    return len(item.options), item.answer


def _check_disjoint(cell: Cell, train: tuple[Item, ...], test: tuple[Item, ...]) -> None:
    """Refuse a question with the same options in training and test, whatever its ids there."""
    trained = {_content(item): item.id for item in train}
    both = [f"{trained[_content(item)]} = {item.id}" for item in test if _content(item) in trained]
    if both:
        remedy = "leave them out by a manifest, or set split.overlap: allow"
        where = f"{cell}: {len(both)} questions are in training and in test (train id = test id)"
        raise Refused(f"{where}: {shown(both)}; {remedy}")


def _content(item: Item) -> tuple[str, frozenset[str]]:
    return item.question, frozenset(item.options)


def _digest(items: tuple[Item, ...], prompt: Prompt) -> str:
    """Hash one JSON line for the prompt style and one per item, so that no two contents run into the same text."""
    lines: list[object] = [asdict(prompt), *([item.id, item.question, item.options, item.answer] for item in items)]
    text = "\n".join(json.dumps(line, ensure_ascii=False, sort_keys=True) for line in lines)
    return hashlib.sha256(text.encode()).hexdigest()
