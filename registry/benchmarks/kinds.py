"""The kinds of benchmarks that a study file may name as ``benchmark.kind``.

Adding one is a module with a function that opens it, and a line in :data:`KINDS`. The function is given the study's
``benchmark`` section and returns a :class:`registry.benchmarks.aligned.Benchmark`; what a kind needs besides the
section's own keys stands under ``options``, which the kind checks itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING

from registry.errors import unknown

if TYPE_CHECKING:
    from registry.benchmarks.aligned import Benchmark
    from registry.config.data import BenchmarkSpec

__all__ = ["KINDS", "BenchmarkKind", "load_benchmark"]


def _no_check(_: BenchmarkSpec) -> None:
    """Accept everything; the function that opens the benchmark refuses what it cannot read."""


@dataclass(frozen=True, slots=True)
class BenchmarkKind:
    """A kind of benchmark.

    Attributes
    ----------
    opener
        Module and function that opens one, as ``module:function``; imported when a study uses it.
    check
        Called with the ``benchmark`` section as soon as it is read; raises ValueError with what is wrong.
    """

    opener: str
    check: Callable[[BenchmarkSpec], None] = _no_check


def _check_demo(spec: BenchmarkSpec) -> None:
    if spec.path or spec.languages or spec.tasks:
        raise ValueError("path, languages and tasks belong to a files benchmark; the demo grid has its own")


def _check_files(spec: BenchmarkSpec) -> None:
    if not (spec.path and spec.languages and spec.tasks):
        raise ValueError("a files benchmark needs path (its folder), languages and tasks")
    if spec.headline:
        raise ValueError("headline belongs to each task of a files benchmark: tasks.<task>.headline")
    twice = sorted({language for language in spec.languages if spec.languages.count(language) > 1})
    if twice:
        raise ValueError(f"languages named twice: {', '.join(twice)}")
    for name, task in spec.tasks.items():
        task.check_languages(f"tasks.{name}", spec.languages)


def _check_hub(spec: BenchmarkSpec) -> None:
    if spec.languages or spec.tasks:
        raise ValueError("a hub benchmark has its own languages and tasks; choose from them by the study's")


#: Every kind, by the name that a study file gives it.
KINDS = {
    "demo": BenchmarkKind("registry.benchmarks.demo.tasks:open_demo", _check_demo),
    "files": BenchmarkKind("registry.benchmarks.files:files_benchmark", _check_files),
    "hub": BenchmarkKind("registry.benchmarks.hub.benchmark:hub_benchmark", _check_hub),
}


def load_benchmark(spec: BenchmarkSpec) -> Benchmark:
    """Open the benchmark that a study names; its items are read when they are asked for.

    >>> benchmark = load_benchmark(study.benchmark)
    >>> items = align(benchmark, benchmark.select(study.tasks, study.languages), study.split)
    >>> items.train(cell), items.test(cell), items.prompts[cell.task]

    Raises
    ------
    Refused
        If the study's description of a files benchmark does not fit its folder, a hub's mirror is not there, or a
        headline is chosen for a task that does not exist.
    """
    module, _, name = KINDS[spec.kind].opener.partition(":")
    benchmark: Benchmark = getattr(import_module(module), name)(spec)
    headlines = spec.headlines(benchmark.grid.tasks)
    for task in headlines:
        if task not in benchmark.grid.tasks:
            raise unknown("task", task, benchmark.grid.tasks, where="benchmark.headline")
    return replace(benchmark, headlines=headlines) if headlines else benchmark
