"""Benchmarks: tasks → aligned items → prompts and options.

>>> benchmark = load_benchmark(study.benchmark)
>>> items = align(benchmark, benchmark.select(study.tasks, study.languages), study.split)
>>> items.train(cell), items.test(cell), items.prompts[cell.task]
"""

from __future__ import annotations

from dataclasses import replace

from registry.benchmarks.aligned import AlignedItems, Benchmark, align
from registry.benchmarks.files import files_benchmark
from registry.benchmarks.hub.benchmark import hub_benchmark
from registry.benchmarks.items import Item
from registry.benchmarks.prompts import PROMPTS, Prompt
from registry.benchmarks.splits import SPLITS, Split, SplitManifest
from registry.cells import Grid
from registry.config.data import BenchmarkSpec
from registry.errors import unknown

__all__ = ["SPLITS", "AlignedItems", "Benchmark", "Item", "Prompt", "Split", "SplitManifest", "align", "load_benchmark"]


def load_benchmark(spec: BenchmarkSpec) -> Benchmark:
    """Open the benchmark that a study names; its items are read when they are asked for.

    Raises
    ------
    Refused
        If the study's description of a files benchmark does not fit its folder, a hub's mirror is not there, or a
        headline is chosen for a task that does not exist.
    """
    benchmark = {"demo": _demo_benchmark, "files": files_benchmark, "hub": hub_benchmark}[spec.kind](spec)
    headlines = spec.headlines(benchmark.grid.tasks)
    for task in headlines:
        if task not in benchmark.grid.tasks:
            raise unknown("task", task, benchmark.grid.tasks, where="benchmark.headline")
    return replace(benchmark, headlines=headlines) if headlines else benchmark


def _demo_benchmark(_: BenchmarkSpec) -> Benchmark:
    from registry.benchmarks import demo  # its texts are built on import, so only a study that uses them pays

    prompts = dict.fromkeys(demo.TASKS, PROMPTS["text"])
    return Benchmark("demo", Grid(demo.TASKS, demo.LANGUAGES), prompts, demo.items)
