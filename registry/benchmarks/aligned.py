"""A benchmark's cells with the same items, in the same order, in every language."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Literal

from tqdm import tqdm

from registry.benchmarks.agreement import agreeing, check_disjoint, disjoint, settle
from registry.benchmarks.copies import Copies, Overlap, find_copies, find_overlaps
from registry.benchmarks.items import Item
from registry.benchmarks.prompts import Prompt
from registry.benchmarks.splits import SPLITS, Pools, Split, SplitManifest, draw_manifest, read_manifest, shown
from registry.cells import Cell, Grid
from registry.config.data import SplitSpec
from registry.config.types import Headline
from registry.errors import Refused, unknown
from registry.paths import resolved_path

__all__ = ["AlignedItems", "Benchmark", "align"]


def _none_broken(cell: Cell, split: Split) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Benchmark:
    """Where items come from.

    Attributes
    ----------
    name
        "demo", "files" or "hub".
    grid
        Every task and language offered.
    prompts
        Task → prompt style.
    pool
        ``pool(cell, split)`` returns every item of a cell's split, checked, in the source's order.
    one_pool
        Tasks whose splits both come from the same items, so that one must be drawn from what the other left.
    published
        Whether the items are others' and nobody here can correct them: what is wrong with some is then left out of a
        draw by default, not refused.
    numbered
        Tasks whose ids only number the rows, which need not be the same question in every language.
    broken
        ``broken(cell, split)`` returns what is wrong with the rows that are no items, by id, once the pool was read.
    headlines
        Task → the accuracy that the study takes for its score, where it chooses one.
    """

    name: str
    grid: Grid
    prompts: Mapping[str, Prompt]
    pool: Callable[[Cell, Split], tuple[Item, ...]]
    one_pool: frozenset[str] = frozenset()
    published: bool = False
    numbered: frozenset[str] = frozenset()
    broken: Callable[[Cell, Split], Mapping[str, str]] = _none_broken
    headlines: Mapping[str, Headline] = field(default_factory=dict)

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
    """The items a study uses: for each cell of its grid a training and a test set. Made by :func:`align`.

    Attributes
    ----------
    prompts
        Task → prompt style, with the headline accuracy that the study takes.
    headlines
        Task → headline accuracy, of the tasks alone for which it is not the prompt style's own.
    """

    grid: Grid
    prompts: Mapping[str, Prompt]
    manifests: Mapping[str, SplitManifest]
    _items: Mapping[tuple[Cell, Split], tuple[Item, ...]] = field(repr=False)
    _digests: Mapping[tuple[Cell, Split], str] = field(repr=False)
    headlines: Mapping[str, Headline] = field(default_factory=dict)

    def train(self, cell: Cell) -> tuple[Item, ...]:
        """Training items of a cell, in the manifest's order."""
        return self._items[self._known(cell), "train"]

    def test(self, cell: Cell) -> tuple[Item, ...]:
        """Test items of a cell, in the manifest's order."""
        return self._items[self._known(cell), "test"]

    def manifest(self, task: str) -> SplitManifest:
        """The ids of a task's items."""
        if task not in self.manifests:
            raise unknown("task", task, self.manifests)
        return self.manifests[task]

    def digest(self, cell: Cell, split: Split) -> str:
        """SHA-256 over the prompt style and every item of a cell's split: ids, texts, answers and their order.

        Which accuracy the study takes for its score is no part of it: no text and no log-likelihood depends on that.
        """
        return self._digests[self._known(cell), split]

    def test_digest(self, cells: Iterable[Cell]) -> str:
        """SHA-256 over the test sets of several cells, whatever the order the cells are named in."""
        lines = sorted(f"{cell} {self.digest(cell, 'test')}" for cell in set(cells))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def twins(self, cell: Cell) -> tuple[Cell, ...]:
        """Return the other cells whose training items are, to the letter, this cell's."""
        own = self.digest(cell, "train")
        return tuple(other for other in self.grid if other != cell and self._digests[other, "train"] == own)

    @cached_property
    def copies(self) -> Mapping[Split, Copies]:
        """Groups of cells whose items of a split are the same."""
        return {part: find_copies(self._of(part), self.prompts) for part in SPLITS}

    @cached_property
    def overlaps(self) -> tuple[Overlap, ...]:
        """Pairs of languages that share at least half of a task's test questions, though not all of its items."""
        copied = {cell for group in self.copies["test"] for cell in group}
        found = find_overlaps(self._of("test"))
        return tuple(overlap for overlap in found if not copied.issuperset(overlap.cells))

    def _of(self, part: Split) -> dict[Cell, tuple[Item, ...]]:
        return {cell: self._items[cell, part] for cell in self.grid}

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
    _check_counts(benchmark, split)
    styles = {task: benchmark.prompts[task] for task in grid.tasks}
    chosen: dict[str, SplitManifest] = {}
    items: dict[tuple[Cell, Split], tuple[Item, ...]] = {}
    with tqdm(total=len(grid), desc="reading items", unit="cell", delay=2, leave=False, disable=None) as bar:
        for task in grid.tasks:
            pools = _pools(benchmark, task, grid.languages, bar.update)
            chosen[task] = _manifest(benchmark, task, pools, split)
            for language in grid.languages:
                for part in SPLITS:
                    known = pools[part][language]
                    items[Cell(task, language), part] = tuple(known[id] for id in chosen[task].ids(part))
    # A manifest says which items are used, so of its ids none is dropped.
    if (split.overlap or _default(benchmark, split)) == "refuse" or (split.manifest and split.overlap == "drop"):
        for cell in grid:
            check_disjoint(cell, items[cell, "train"], items[cell, "test"])
    digests = {(cell, part): _digest(found, styles[cell.task]) for (cell, part), found in items.items()}
    other = {task: name for task, name in benchmark.headlines.items() if task in styles}
    other = {task: name for task, name in other.items() if name != styles[task].headline}
    prompts = styles | {task: replace(styles[task], headline=name) for task, name in other.items()}
    return AlignedItems(grid, prompts, chosen, items, digests, other)


def _check_counts(benchmark: Benchmark, split: SplitSpec) -> None:
    """Refuse a number of items for a task that the benchmark does not have."""
    for part in SPLITS:
        counts = split.train if part == "train" else split.test
        for task in counts if isinstance(counts, dict) else ():
            if task not in (*benchmark.grid.tasks, "default"):
                raise unknown("task", task, (*benchmark.grid.tasks, "default"), where=f"split.{part}")


def _manifest(benchmark: Benchmark, task: str, pools: Pools, split: SplitSpec) -> SplitManifest:
    """Draw or read a task's items, what the study does not say about faults being settled by the benchmark."""
    default = _default(benchmark, split)
    missing = split.missing or default
    differing: Literal["refuse", "drop", "allow"] = "allow" if task in benchmark.numbered else default
    differing = split.differing or differing
    if split.manifest:
        broken = {part: {one: benchmark.broken(Cell(task, one), part) for one in pools[part]} for part in SPLITS}
        manifest = read_manifest(task, resolved_path(split.manifest), pools, broken=broken, drop=missing == "drop")
    else:
        kept = agreeing(task, pools) if differing == "drop" else pools
        if (split.overlap or default) == "drop":
            kept = disjoint(task, kept, one_pool=task in benchmark.one_pool)
        manifest = draw_manifest(task, kept, replace(split, missing=missing), one_pool=task in benchmark.one_pool)
    return settle(task, pools, manifest, differing, numbered=task in benchmark.numbered)


def _default(benchmark: Benchmark, split: SplitSpec) -> Literal["refuse", "drop"]:
    """Return what is done about faulty items where the study does not say."""
    return "drop" if benchmark.published and not split.manifest else "refuse"


def _pools(benchmark: Benchmark, task: str, languages: Iterable[str], read: Callable[[], object]) -> Pools:
    pools: dict[Split, dict[str, dict[str, Item]]] = {"train": {}, "test": {}}
    for language in languages:
        cell = Cell(task, language)
        pools["train"][language] = _by_id(benchmark, cell, "train")
        once = task in benchmark.one_pool
        pools["test"][language] = pools["train"][language] if once else _by_id(benchmark, cell, "test")
        read()
    return pools


def _by_id(benchmark: Benchmark, cell: Cell, split: Split) -> dict[str, Item]:
    items = benchmark.pool(cell, split)
    found = {item.id: item for item in items}
    if len(found) < len(items):
        ids = [item.id for item in items]
        raise Refused(f"{cell} {split}: ids used twice: {shown(sorted(id for id in found if ids.count(id) > 1))}")
    return found


def _digest(items: tuple[Item, ...], prompt: Prompt) -> str:
    """Hash one JSON line for the prompt style and one per item, so that no two contents run into the same text."""
    lines: list[object] = [asdict(prompt), *([item.id, item.question, item.options, item.answer] for item in items)]
    text = "\n".join(json.dumps(line, ensure_ascii=False, sort_keys=True) for line in lines)
    return hashlib.sha256(text.encode()).hexdigest()
