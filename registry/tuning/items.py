"""What a search for a recipe may look at: items of the training side alone, some of them held out to judge on.

The test pool of a benchmark is never asked for, so that no tuned recipe has seen what it is later tested on.
"""

from __future__ import annotations

import csv
import math
import random
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from registry.benchmarks.aligned import AlignedItems, Benchmark, align
from registry.benchmarks.items import Item
from registry.benchmarks.splits import Split
from registry.benchmarks.tables import read_table
from registry.cells import Cell, Grid
from registry.config.data import SplitSpec
from registry.errors import Refused, unknown
from registry.paths import resolved_path

__all__ = ["held_out", "training_side"]


def training_side(benchmark: Benchmark, grid: Grid, split: SplitSpec) -> AlignedItems:
    """Choose the training items that the study itself would choose, without reading its test items.

    Returns
    -------
    AlignedItems
        ``train`` is the study's; ``test`` holds nothing but items of the training pool and has no meaning.

    Raises
    ------
    Refused
        As :func:`registry.benchmarks.aligned.align` does.
    """

    def pool(cell: Cell, part: Split) -> tuple[Item, ...]:
        return benchmark.pool(cell, "train")

    def broken(cell: Cell, part: Split) -> Mapping[str, str]:
        return benchmark.broken(cell, "train")

    blind = replace(benchmark, pool=pool, broken=broken)
    if not split.manifest:
        # Where one pool is divided between both splits, how many are tested on decides which are left to train on.
        test = {task: split.count("test", task) if task in benchmark.one_pool else 0 for task in grid.tasks}
        return align(blind, grid, replace(split, test=test, overlap="allow"))
    folder = resolved_path(split.manifest)
    with tempfile.TemporaryDirectory() as name:
        for task in grid.tasks:
            _write_training_rows(folder / f"{task}.csv", Path(name))
        try:
            return align(blind, grid, replace(split, manifest=name, overlap="allow"))
        except Refused as error:
            raise Refused(str(error).replace(name, str(folder))) from None


def held_out(benchmark: Benchmark, grid: Grid, split: SplitSpec, *, share: float) -> AlignedItems:
    """Divide the training side in two: ``train``, and as ``test`` the items to judge on.

    The ids are held out task by task, the same in every language. An item that stands a second time among those trained
    on, under another id, is not judged on.

    Raises
    ------
    Refused
        If a task has too few training items to divide.
    """
    side = training_side(benchmark, grid, split)
    parts: dict[tuple[Cell, Split], tuple[Item, ...]] = {}
    for task in grid.tasks:
        cells = [Cell(task, language) for language in grid.languages]
        judged = _judged(task, [side.train(cell) for cell in cells], share, split.seed)
        drawn = _drawn(task, [item.id for item in side.train(cells[0])], share, split.seed)
        for cell in cells:
            parts[cell, "train"] = tuple(item for item in side.train(cell) if item.id not in drawn)
            parts[cell, "test"] = tuple(item for item in side.train(cell) if item.id in judged)
    styles = {task: benchmark.prompts[task] for task in grid.tasks}
    divided = Benchmark(
        benchmark.name, grid, styles, lambda cell, part: parts[cell, part], headlines=benchmark.headlines
    )
    return align(divided, grid, SplitSpec(seed=split.seed, differing="allow"))


def _drawn(task: str, ids: list[str], share: float, seed: int) -> set[str]:
    count = max(1, math.floor(share * len(ids)))
    if len(ids) < 2:
        raise Refused(f"{task}: one training item cannot be divided into one to train on and one to judge on; add more")
    return set(random.Random(seed).sample(sorted(ids), count))


def _judged(task: str, languages: list[tuple[Item, ...]], share: float, seed: int) -> set[str]:
    """Return the ids held out that are not, in any language, the same question as one trained on."""
    judged = _drawn(task, [item.id for item in languages[0]], share, seed)
    drawn = set(judged)
    for items in languages:
        trained = {item.content for item in items if item.id not in drawn}
        judged -= {item.id for item in items if item.id in drawn and item.content in trained}
    if not judged:
        raise Refused(f"{task}: every training item held out is also trained on under another id; remove such items")
    return judged


def _write_training_rows(path: Path, folder: Path) -> None:
    """Write a manifest whose test rows are its training rows, each training row on the line it had."""
    if not path.is_file():
        raise unknown("manifest", path.name, (file.name for file in path.parent.glob("*.csv")), where=str(path.parent))
    table = read_table(path)
    rows = [row for row in table.rows if str(row.values.get("split", "")).strip() != "test"]
    with (folder / path.name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.columns)
        line = 2
        for row in rows:
            file.write("\n" * (row.line - line))
            writer.writerow(list(row.values.values()))
            line = row.line + 1
        writer.writerows(("test", row.values["id"]) for row in rows if row.values.get("split") == "train")
