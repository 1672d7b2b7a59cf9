"""The manifest of an lm-evaluation-harness import: which folder holds whose results, and which task is which cell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator
from pydantic.dataclasses import dataclass as checked_dataclass

from registry.benchmarks.tables import read_table
from registry.cells import Cell
from registry.config.messages import FileSchema, validate
from registry.config.types import STRICT, Headline, Name
from registry.config.yaml_text import read_yaml
from registry.errors import Refused
from registry.imports.naming import NAME_RULE, is_model, is_name

__all__ = ["EXAMPLE", "Manifest", "ManifestRun", "read_manifest"]

#: For messages.
EXAMPLE = """\
runs:
- {folder: base, model: Qwen/Qwen2.5-0.5B-Instruct, source: null}                                 # the baseline
- {folder: arc-de-17, model: Qwen/Qwen2.5-0.5B-Instruct, source: arc_challenge/de, seed: 17}      # an adapter
tasks: {"my_task_{language}": my_task}                   # only for tasks that are not recognised; null leaves one out
models: {lab/other: {family: Other, size_b: 1.5}}        # only for models that are not known
headline: {arc_challenge: acc}                   # only where the score is not to be acc_norm, if there is one"""

_LANGUAGE = "{language}"

#: The harness's names of the published tasks. What has no ``{language}`` is English and goes before the patterns.
_TASKS = {
    "arc_challenge": "arc_challenge/en",
    "hellaswag": "hellaswag/en",
    "truthfulqa_mc1": "truthfulqa/en",
    "arc_{language}": "arc_challenge",
    "hellaswag_{language}": "hellaswag",
    "truthfulqa_{language}_mc1": "truthfulqa",
    "global_mmlu_{language}": "global_mmlu",
}


@dataclass(frozen=True)
class ManifestRun:
    """One evaluation: a folder below which its ``results_*.json`` lies, or that file itself.

    ``source`` is None for a baseline; ``seed`` then too. ``where`` is its place in the manifest, for messages.
    """

    folder: Path
    model: str
    source: Cell | None
    seed: int | None
    where: str

    def __str__(self) -> str:
        return f"{self.model} baseline" if self.source is None else f"{self.model} {self.source} seed {self.seed}"


@dataclass(frozen=True)
class Manifest:
    """What is to be imported.

    Attributes
    ----------
    tasks
        Names or patterns of the harness's tasks → a cell, a task (where the pattern has the language), or None for
        tasks that are left out. The harness's own names of the published tasks need no mention.
    models
        Family and size in billions of models that are not known here; either may be None.
    headlines
        Task → the accuracy that is its score, where the manifest chooses one.
    """

    path: Path
    runs: tuple[ManifestRun, ...]
    tasks: Mapping[str, str | None]
    models: Mapping[str, tuple[str | None, float | None]]
    protocol: str
    headlines: Mapping[str, str] = field(default_factory=dict)

    def cell_of(self, task: str) -> Cell | None:
        """Return the cell that a task of the harness is, None if it is to be left out.

        Raises
        ------
        KeyError
            If neither the manifest nor the table of published tasks knows it.
        """
        for names in (self.tasks, _TASKS):
            if task in names:
                return None if names[task] is None else Cell.parse(str(names[task]))
            for pattern, meant in names.items():
                language = _language_in(task, pattern)
                if language is not None:
                    return None if meant is None else Cell(meant, language)
        raise KeyError(task)


def _whole_seed(given: object) -> int:
    if isinstance(given, bool) or not re.fullmatch(r"\d{1,18}", str(given)):
        raise ValueError("a seed is a whole number from 0")
    return int(str(given))


def _model_name(given: str) -> str:
    if not is_model(given):
        raise ValueError(f"a model's name is {NAME_RULE}; a hub owner may precede it")
    return given


def _source(given: object) -> Cell:
    return _usable_cell(str(given))


def _usable_cell(text: str) -> Cell:
    cell = Cell.parse(text)
    if not is_name(cell.task) or not is_name(cell.language):
        raise ValueError(f"names in a cell are {NAME_RULE}")
    return cell


def _task_names(given: dict[str, str | None]) -> dict[str, str | None]:
    for pattern, meaning in given.items():
        if pattern.count(_LANGUAGE) > 1:
            raise ValueError(f"{pattern!r} has {_LANGUAGE} more than once")
        if meaning is None:
            continue
        if _LANGUAGE in pattern and not is_name(meaning):
            raise ValueError(f"{pattern!r}: {meaning!r} is not a task's name: {NAME_RULE}")
        if _LANGUAGE not in pattern:
            try:
                _usable_cell(meaning)
            except ValueError as error:
                raise ValueError(f"{pattern!r}: {error}") from None
    return given


@checked_dataclass(frozen=True, config=STRICT)
class _RunEntry:
    """A run as a manifest lists it."""

    folder: Annotated[str, Field(min_length=1, pattern=r"^[^\x00]+$")]
    model: Annotated[str, AfterValidator(_model_name)]
    source: Annotated[Cell, PlainValidator(_source)] | None = None
    seed: Annotated[int, PlainValidator(_whole_seed)] | None = None

    def __post_init__(self) -> None:
        if self.source is None and self.seed is not None:
            raise ValueError(f"a baseline has no seed (source: null, seed: {self.seed})")
        if self.source is not None and self.seed is None:
            raise ValueError("seed is missing: which seed was the adapter trained with?")


@checked_dataclass(frozen=True, config=STRICT)
class _ModelEntry:
    """What a manifest says of a model that is not known here."""

    family: Name | None = None
    size_b: Annotated[float, Field(strict=True, gt=0, lt=1e6)] | None = None


@checked_dataclass(frozen=True, config=STRICT)
class _ManifestFile:
    """What a manifest may hold."""

    runs: tuple[_RunEntry, ...] = ()
    tasks: Annotated[dict[str, str | None], AfterValidator(_task_names)] = field(default_factory=dict)
    models: dict[str, _ModelEntry] = field(default_factory=dict)
    protocol: Name = "imported"
    headline: dict[str, Headline] = field(default_factory=dict)


_SCHEMA = FileSchema(
    _ManifestFile,
    "manifest",
    {(): _ManifestFile, ("runs", "*"): _RunEntry, ("models", "*"): _ModelEntry},
)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest: YAML, or CSV with the columns ``folder, model, source, seed``.

    Raises
    ------
    Refused
        If it contains something that a manifest does not have, or lists an evaluation twice or a model without
        baseline.
    """
    text, content = (None, _table(path)) if path.suffix == ".csv" else read_yaml(path)
    if not isinstance(content, dict):
        raise Refused(f"{path}: a manifest is a mapping, such as:\n{EXAMPLE}")
    given = {key: value for key, value in content.items() if value is not None}
    file = validate(_SCHEMA, given, where=str(path), text=text)
    if not file.runs:
        raise Refused(f"{path}: a manifest lists runs, such as:\n{EXAMPLE}")
    runs = tuple(
        ManifestRun(path.parent / run.folder, run.model, run.source, run.seed, f"{path}: runs[{number}]")
        for number, run in enumerate(file.runs)
    )
    _check_runs(runs)
    models = {name: (model.family, model.size_b) for name, model in file.models.items()}
    return Manifest(path, runs, file.tasks, models, file.protocol, dict(file.headline))


def _table(path: Path) -> dict[str, Any]:
    """Read a CSV manifest; an empty source is a baseline."""
    rows = [{key: str(value).strip() for key, value in row.values.items()} for row in read_table(path).rows]
    return {"runs": [{key: value for key, value in row.items() if value} for row in rows]}


def _place(run: ManifestRun) -> str:
    return run.where.rpartition(": ")[2]


def _check_runs(runs: tuple[ManifestRun, ...]) -> None:
    seen: dict[tuple[object, ...], ManifestRun] = {}
    for run in runs:
        key = (run.model, run.source, run.seed)
        if key in seen:
            raise Refused(f"{run.where}: {run} is listed already, as {_place(seen[key])}; keep one of them")
        seen[key] = run
    bare = sorted({run.model for run in runs} - {run.model for run in runs if run.source is None})
    if bare:
        raise Refused(
            f"no baseline is listed for: {', '.join(bare)}; evaluate the untouched model on the same tasks and list "
            "its folder with source: null"
        )
    if all(run.source is None for run in runs):
        raise Refused("only baselines are listed; a run with a source cell and a seed is needed to measure a delta")


def _language_in(task: str, pattern: str) -> str | None:
    """Return what stands in a task's name where its pattern has the language, if that can be one."""
    before, found, after = pattern.partition(_LANGUAGE)
    if not found:
        return None
    language = re.fullmatch(f"{re.escape(before)}([a-zA-Z]{{2,3}}(?:-[A-Za-z0-9]+)*){re.escape(after)}", task)
    return language.group(1) if language else None
