"""A toy kind of benchmark: which of four numbers is the largest, in languages that a study names itself."""

from __future__ import annotations

import random

from registry.benchmarks.aligned import Benchmark
from registry.benchmarks.items import Item
from registry.benchmarks.prompts import PROMPTS
from registry.benchmarks.splits import Split
from registry.cells import Cell, Grid
from registry.config.data import BenchmarkSpec
from registry.errors import Refused


def open_numbers(spec: BenchmarkSpec) -> Benchmark:
    """Open the benchmark; ``options.languages`` are its languages, written in words that differ by the name alone."""
    languages = spec.options.get("languages")
    if not languages:
        raise Refused("benchmark.options.languages: name at least one language")
    return Benchmark("numbers", Grid(("largest",), tuple(languages)), {"largest": PROMPTS["text"]}, _items)


def _items(cell: Cell, split: Split) -> tuple[Item, ...]:
    draws, items = random.Random(split), []
    for number in range(40):
        values = draws.sample(range(1000), 4)
        options = tuple(f"{cell.language} {value}" for value in values)
        items.append(Item(f"{split}-{number}", f"{cell.language}: {values}", options, values.index(max(values))))
    return tuple(items)
