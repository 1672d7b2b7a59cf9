"""The four published benchmarks of "Donors and Recipients" (arXiv 2511.13368), read from their data sets on the hub."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from registry.benchmarks.aligned import Benchmark
from registry.benchmarks.hub.rows import items_of_rows
from registry.benchmarks.hub.snapshot import load_rows, mirrored, snapshot
from registry.benchmarks.hub.sources import HUB_LANGUAGES, HUB_TASKS, NUMBERED, ONE_POOL, HubDataset, source_of
from registry.benchmarks.items import Item
from registry.benchmarks.prompts import PROMPTS, Prompt
from registry.benchmarks.splits import Split, shown, warn
from registry.cells import Cell, Grid
from registry.config.data import BenchmarkSpec
from registry.errors import Refused
from registry.paths import resolved_path

__all__ = ["HubPool", "hub_benchmark", "read_primer"]

#: Task → prompt style.
_STYLES = {"arc_challenge": "arc", "global_mmlu": "mmlu", "hellaswag": "hellaswag", "truthfulqa": "truthfulqa"}


def hub_benchmark(spec: BenchmarkSpec) -> Benchmark:
    """Return the grid of four tasks in eleven languages; a cell's data set is fetched when its items are asked for.

    Raises
    ------
    Refused
        If the study names a mirror's folder and it is not there.
    """
    mirror = resolved_path(spec.path) if spec.path else None
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
    _folders: dict[HubDataset, Path] = field(default_factory=dict, repr=False)
    _broken: dict[tuple[Cell, str], Mapping[str, str]] = field(default_factory=dict, repr=False)

    def __call__(self, cell: Cell, split: Split) -> tuple[Item, ...]:
        """Return every item of a cell's split, in the data set's order; rows that are none are reported and left out.

        Raises
        ------
        Refused
            If the data set cannot be downloaded or read, or none of its rows is an item.
        """
        source = source_of(cell)
        if source not in self._folders:
            self._folders[source] = mirrored(source, self.mirror) if self.mirror else snapshot(source)
        loaded = load_rows(source, self._folders[source], source.split(split))
        rows = items_of_rows(cell.task, loaded.rows, loaded.columns, f"{source}, split {source.split(split)}")
        self._broken[cell, source.split(split)] = rows.broken
        faults = shown((f"{id}: {fault}" for id, fault in rows.broken.items()), limit=4)
        where = f"{cell}: {len(rows.broken)} of {len(loaded.rows)} rows of {source}, split {source.split(split)}"
        if not rows.items:
            raise Refused(f"{where}, are no items ({faults}); this is not the published layout")
        if rows.broken:
            warn(f"{where}, are no items and are left out of every language ({faults})")
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


# --- TruthfulQA's primer: the six English questions and answers that precede each question in the published evaluation


_FILE = Path("tasks", "okapi", "truthfulqa_multilingual", "utils.py")
_NAME = "QA_PROMPT"
_REMEDY = "install lm_eval==0.4.13, or write the primer to a text file and name that by benchmark.primer"


def read_primer(path: str | None) -> str:
    """Return the primer from a text file, or, where none is named, from the installed lm-evaluation-harness.

    Parameters
    ----------
    path
        A file in UTF-8; a relative one starts at the project's folder. Line breaks at its end do not count.

    Raises
    ------
    Refused
        If the file cannot be read or is empty, or none is named and the harness is not installed.
    """
    if path is None:
        return _harness_primer()
    file = resolved_path(path)
    try:
        text = file.read_text(encoding="utf-8-sig").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"benchmark.primer: {file} cannot be read as text in UTF-8: {error}") from None
    if not text.strip():
        raise Refused(f"benchmark.primer: {file} is empty; it holds what stands before every question of TruthfulQA")
    return text


def _harness_primer() -> str:
    """Read the primer out of the harness's source; importing it would bring half of its dependencies."""
    spec = importlib.util.find_spec("lm_eval")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    for file in (folder / _FILE for folder in folders):
        if file.is_file():
            return _constant(file)
    raise Refused(f"TruthfulQA is asked behind a primer that comes with lm-evaluation-harness; {_REMEDY}")


def _constant(file: Path) -> str:
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        named = isinstance(statement, ast.Assign) and [getattr(target, "id", "") for target in statement.targets]
        if isinstance(statement, ast.Assign) and named == [_NAME]:
            return str(ast.literal_eval(statement.value))
    raise Refused(f"{file} has no {_NAME}, the primer of TruthfulQA; {_REMEDY}")
