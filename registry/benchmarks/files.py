"""A benchmark in a folder of the user's: JSONL, TSV or CSV files, found and read as the study file says."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from registry.benchmarks.aligned import Benchmark
from registry.benchmarks.items import Item
from registry.benchmarks.mapping import check_task, columns_of, id_of, items_of
from registry.benchmarks.prompts import PROMPTS
from registry.benchmarks.splits import Split, shown
from registry.benchmarks.tables import Table, read_table
from registry.benchmarks.texts import normalize_text
from registry.cells import Cell, Grid
from registry.config.data import BenchmarkSpec, FilesTask
from registry.errors import Refused, unknown
from registry.paths import resolved_path

__all__ = ["FilesPool", "files_benchmark"]


def files_benchmark(spec: BenchmarkSpec) -> Benchmark:
    """Return the benchmark of a study that brings its own files.

    Raises
    ------
    Refused
        If the folder is not there or the mapping of a task contradicts itself.
    """
    folder = resolved_path(spec.path or "")
    if not folder.is_dir():
        raise Refused(f"the data folder {folder} is not there; put the data in it, or name theirs: -P data=<folder>")
    for name, task in spec.tasks.items():
        check_task(f"benchmark.tasks.{name}", task)
    return Benchmark(
        name="files",
        grid=Grid(tuple(spec.tasks), spec.languages),
        prompts={name: PROMPTS[task.prompt] for name, task in spec.tasks.items()},
        pool=FilesPool(folder, spec.tasks),
        one_pool=frozenset(name for name, task in spec.tasks.items() if task.train == task.test),
    )


@dataclass(frozen=True)
class FilesPool:
    """Reads the items of a cell's split from the files of a folder."""

    folder: Path
    tasks: Mapping[str, FilesTask]

    def __call__(self, cell: Cell, split: Split) -> tuple[Item, ...]:
        """Return every item of a cell's split, in the file's order.

        Raises
        ------
        Refused
            If the file is not there, or any of its rows is no item.
        """
        task = self.tasks[cell.task]
        table = self._table(cell, split, tuple(columns_of(task)))
        borrowed = {
            column: self._column(column, Cell(cell.task, language), split)
            for column, language in task.columns_from.items()
            if language != cell.language
        }
        return items_of(table, task, cell.language, borrowed)

    def _table(self, cell: Cell, split: Split, columns: tuple[str, ...]) -> Table:
        task = self.tasks[cell.task]
        template = task.train if split == "train" else task.test
        path = self.folder / template.replace("{language}", cell.language)
        if not path.is_file():
            found = shown(_languages_found(self.folder, template), limit=40)
            there = f"below {self.folder}, {template} exists for: {found or 'no language'}"
            remedy = f"add it, or correct languages or benchmark.tasks.{cell.task}.{split}"
            raise Refused(f"{path} is not there, the {split} file of {cell}; {there}; {remedy}")
        table = read_table(path, quoting=task.quoting)
        for column in columns:
            if normalize_text(column) not in table.columns:
                key = f"benchmark.tasks.{cell.task}.{columns_of(task)[column]}"
                raise Refused(f"{unknown('column', column, table.columns, where=f'{path}:1')} (named by {key})")
        return table

    def _column(self, column: str, cell: Cell, split: Split) -> dict[str, object]:
        """Return id → value of one column of another language's file."""
        id = self.tasks[cell.task].id
        rows = self._table(cell, split, (id, column)).rows
        return {id_of(row.values, id): row.values.get(normalize_text(column)) for row in rows}


def _languages_found(folder: Path, template: str) -> list[str]:
    """Names that stand where a file template has ``{language}``, among the files that exist."""
    template = PurePosixPath(template).as_posix()
    first, *rest = (re.escape(part) for part in template.split("{language}"))
    name = re.compile("(?P=language)".join([f"{first}(?P<language>[^/]+){rest[0]}", *rest[1:]]) if rest else first)
    paths = folder.glob(glob.escape(template).replace("{language}", "*"))
    matches = (name.fullmatch(path.relative_to(folder).as_posix()) for path in paths)
    return sorted(match["language"] for match in matches if match and "language" in match.groupdict())
