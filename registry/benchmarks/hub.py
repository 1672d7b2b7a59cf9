"""The four published benchmarks of "Donors and Recipients" (arXiv 2511.13368), read from their data sets on the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from registry.benchmarks.aligned import Benchmark
from registry.benchmarks.hub_loading import load_rows
from registry.benchmarks.hub_primer import read_primer
from registry.benchmarks.hub_rows import items_of_rows
from registry.benchmarks.hub_snapshot import mirrored, snapshot
from registry.benchmarks.hub_sources import HUB_LANGUAGES, HUB_TASKS, NUMBERED, ONE_POOL, Source, source_of
from registry.benchmarks.items import Item
from registry.benchmarks.prompts import PROMPTS, Prompt
from registry.benchmarks.splits import Split, shown, warn
from registry.cells import Cell, Grid
from registry.dataspec import BenchmarkSpec
from registry.project import located
from registry.refusal import Refused

__all__ = ["HubPool", "hub_benchmark"]

#: Task → prompt style.
_STYLES = {"arc_challenge": "arc", "global_mmlu": "mmlu", "hellaswag": "hellaswag", "truthfulqa": "truthfulqa"}


def hub_benchmark(spec: BenchmarkSpec) -> Benchmark:
    """Return the grid of four tasks in eleven languages; a cell's data set is fetched when its items are asked for.

    Raises
    ------
    Refused
        If the study names a mirror's folder and it is not there.
    """
    mirror = located(spec.path) if spec.path else None
    if mirror and not mirror.is_dir():
        remedy = "name a folder that holds <owner>/<name> of each data set, or leave path out to ask the hub"
        raise Refused(f"benchmark.path: the folder {mirror} is not there; {remedy}")
    pool = HubPool(mirror)
    return Benchmark(
        name="hub",
        grid=Grid(HUB_TASKS, HUB_LANGUAGES),
        prompts=_Prompts(spec.primer),
        pool=pool,
        one_pool=ONE_POOL,
        published=True,
        numbered=NUMBERED,
        broken=pool.broken,
    )


@dataclass
class HubPool:
    """Reads the items of a cell's split from its data set, in the hub's cache or in a mirror's folder."""

    mirror: Path | None = None
    _folders: dict[Source, Path] = field(default_factory=dict, repr=False)
    _broken: dict[tuple[Cell, str], Mapping[str, str]] = field(default_factory=dict, repr=False)

    def __call__(self, cell: Cell, split: Split) -> tuple[Item, ...]:
        """Return every item of a cell's split, in the data set's order; rows that are none are told and left out.

        Raises
        ------
        Refused
            If the data set cannot be had or read, or none of its rows is an item.
        """
        source = source_of(cell)
        if source not in self._folders:
            self._folders[source] = mirrored(source, self.mirror) if self.mirror else snapshot(source)
        loaded = load_rows(source, self._folders[source], source.split(split))
        rows = items_of_rows(cell.task, loaded.rows, loaded.columns, f"{source}, split {source.split(split)}")
        self._broken[cell, source.split(split)] = rows.broken
        told = shown((f"{id}: {fault}" for id, fault in rows.broken.items()), limit=4)
        where = f"{cell}: {len(rows.broken)} of {len(loaded.rows)} rows of {source}, split {source.split(split)}"
        if not rows.items:
            raise Refused(f"{where}, are no items ({told}); this is not the published layout")
        if rows.broken:
            warn(f"{where}, are no items and are left out of every language ({told})")
        return rows.items

    def broken(self, cell: Cell, split: Split) -> Mapping[str, str]:
        """Return what is wrong with the rows of a cell's split that are no items, by id."""
        return self._broken.get((cell, source_of(cell).split(split)), {})


@dataclass(frozen=True)
class _Prompts(Mapping[str, Prompt]):
    """Task → prompt style; the primer is looked for only where TruthfulQA is among a study's tasks."""

    primer: str | None

    def __getitem__(self, task: str) -> Prompt:
        style = PROMPTS[_STYLES[task]]
        return replace(style, primer=read_primer(self.primer)) if task == "truthfulqa" else style

    def __iter__(self) -> Iterator[str]:
        return iter(_STYLES)

    def __len__(self) -> int:
        return len(_STYLES)
