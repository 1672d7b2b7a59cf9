"""The manifest of an lm-evaluation-harness import: which folder holds whose results, and which task is which cell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.benchmarks.tables import read_table
from registry.cells import Cell
from registry.config.yaml_text import read_yaml
from registry.errors import Refused, unknown
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

_KEYS = ("runs", "tasks", "models", "protocol", "headline")
_RUN_KEYS = ("folder", "model", "source", "seed")
_MODEL_KEYS = ("family", "size_b")
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


def read_manifest(path: Path) -> Manifest:
    """Read a manifest: YAML, or CSV with the columns ``folder, model, source, seed``.

    Raises
    ------
    Refused
        If it says something that a manifest does not know, or lists an evaluation twice or a model without baseline.
    """
    content = _table(path) if path.suffix == ".csv" else _yaml(path)
    _known_keys(content, _KEYS, str(path))
    listed = content.get("runs")
    if not isinstance(listed, list) or not listed:
        raise Refused(f"{path}: a manifest lists runs, such as:\n{EXAMPLE}")
    runs = tuple(_run(entry, path, f"{path}: runs[{number}]") for number, entry in enumerate(listed))
    _check_runs(runs)
    protocol = content.get("protocol", "imported")
    if not isinstance(protocol, str) or not is_name(protocol):
        raise Refused(f"{path}: protocol: {protocol!r} is not usable; a name is {NAME_RULE}")
    tasks = _tasks(content.get("tasks") or {}, path)
    return Manifest(path, runs, tasks, _models(content, path), protocol, _headlines(content, path))


def _yaml(path: Path) -> dict[str, Any]:
    _, content = read_yaml(path)
    if not isinstance(content, dict):
        raise Refused(f"{path}: a manifest is a mapping, such as:\n{EXAMPLE}")
    return content


def _table(path: Path) -> dict[str, Any]:
    """Read a CSV manifest; an empty source is a baseline."""
    rows = [{key: str(value).strip() for key, value in row.values.items()} for row in read_table(path).rows]
    return {"runs": [{key: value for key, value in row.items() if value} for row in rows]}


def _known_keys(content: Mapping[Any, Any], keys: Iterable[str], where: str) -> None:
    for key in content:
        if key not in keys:
            raise unknown("key", str(key), keys, where=where)


def _run(entry: Any, path: Path, where: str) -> ManifestRun:
    if not isinstance(entry, dict):
        raise Refused(f"{where}: a run is a mapping, such as {{folder: base, model: lab/one, source: null}}")
    _known_keys(entry, _RUN_KEYS, where)
    folder, model, source, seed = (entry.get(key) for key in _RUN_KEYS)
    if not isinstance(folder, str) or not folder or "\0" in folder:
        raise Refused(f"{where}: folder is missing; name the folder of results, from the manifest's own")
    if not isinstance(model, str) or not is_model(model):
        raise Refused(f"{where}: model {model!r} is not usable; a name is {NAME_RULE}, a hub owner may go before it")
    cell = _cell(source, where) if source is not None else None
    if (cell is None) != (seed is None):
        told = "a baseline has no seed" if cell is None else "seed is missing: which seed was the adapter trained with?"
        raise Refused(f"{where}: {told} (source: {source!r}, seed: {seed!r})")
    if seed is not None and (isinstance(seed, bool) or not re.fullmatch(r"\d{1,18}", str(seed))):
        raise Refused(f"{where}: seed {seed!r} is not a whole number from 0")
    return ManifestRun(path.parent / folder, model, cell, None if seed is None else int(seed), where)


def _cell(text: object, where: str) -> Cell:
    try:
        cell = Cell.parse(str(text))
    except ValueError as error:
        raise Refused(f"{where}: {error}") from None
    if not is_name(cell.task) or not is_name(cell.language):
        raise Refused(f"{where}: {str(text)[:80]!r} is not usable; names are {NAME_RULE}")
    return cell


def _check_runs(runs: tuple[ManifestRun, ...]) -> None:
    seen: dict[tuple[object, ...], ManifestRun] = {}
    for run in runs:
        key = (run.model, run.source, run.seed)
        if key in seen:
            raise Refused(f"{run.where}: {run} stands there already, at {seen[key].where}; keep one of them")
        seen[key] = run
    bare = sorted({run.model for run in runs} - {run.model for run in runs if run.source is None})
    if bare:
        raise Refused(
            f"no baseline is listed for: {', '.join(bare)}; evaluate the untouched model on the same tasks and list "
            "its folder with source: null"
        )
    if all(run.source is None for run in runs):
        raise Refused("only baselines are listed; a run with a source cell and a seed is needed to measure a delta")


def _tasks(given: Any, path: Path) -> dict[str, str | None]:
    where = f"{path}: tasks"
    if not isinstance(given, dict):
        raise Refused(f"{where}: a mapping is needed, such as {{'my_task_{_LANGUAGE}': my_task}}")
    for pattern, meant in given.items():
        if not isinstance(pattern, str) or pattern.count(_LANGUAGE) > 1 or not isinstance(meant, str | None):
            raise Refused(f"{where}: {pattern!r}: {meant!r} is no task, with {_LANGUAGE} at most once, and its cell")
        if meant is None:
            continue
        if _LANGUAGE not in pattern:
            _cell(meant, f"{where}.{pattern}")
        elif not is_name(meant):
            raise Refused(f"{where}.{pattern}: {meant!r} is not usable; a task's name is {NAME_RULE}")
    return dict(given)


def _models(content: Mapping[str, Any], path: Path) -> dict[str, tuple[str | None, float | None]]:
    given = content.get("models") or {}
    where = f"{path}: models"
    if not isinstance(given, dict) or not all(isinstance(entry, dict) for entry in given.values()):
        raise Refused(f"{where}: a mapping is needed, such as {{lab/other: {{family: Other, size_b: 1.5}}}}")
    models: dict[str, tuple[str | None, float | None]] = {}
    for name, entry in given.items():
        _known_keys(entry, _MODEL_KEYS, f"{where}.{name}")
        family, size = entry.get("family"), entry.get("size_b")
        if family is not None and not is_name(str(family)):
            raise Refused(f"{where}.{name}: family {family!r} is not usable; a name is {NAME_RULE}")
        if size is not None and (isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size < 1e6):
            raise Refused(f"{where}.{name}: size_b {size!r} is no number of billions of parameters")
        models[str(name)] = (None if family is None else str(family), None if size is None else float(size))
    return models


def _headlines(content: Mapping[str, Any], path: Path) -> dict[str, str]:
    given = content.get("headline") or {}
    where = f"{path}: headline"
    if not isinstance(given, dict):
        raise Refused(f"{where}: a mapping is needed, such as {{arc_challenge: acc}}")
    for task, name in given.items():
        if name not in ("acc", "acc_norm"):
            raise unknown("accuracy", str(name), ("acc", "acc_norm"), where=f"{where}.{task}")
    return {str(task): str(name) for task, name in given.items()}


def _language_in(task: str, pattern: str) -> str | None:
    """Return what stands in a task's name where its pattern has the language, if that can be one."""
    before, found, after = pattern.partition(_LANGUAGE)
    if not found:
        return None
    language = re.fullmatch(f"{re.escape(before)}([a-zA-Z]{{2,3}}(?:-[A-Za-z0-9]+)*){re.escape(after)}", task)
    return language.group(1) if language else None
