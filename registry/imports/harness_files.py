"""Files of lm-evaluation-harness: found below a folder, the newest first, and what stands in them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import Refused
from registry.imports.manifest import ManifestRun

__all__ = ["Results", "results_below"]

#: ``results_<date>.json``, or ``<name>_<date>.json`` where the output path was a file's.
_DATED = re.compile(r".+_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json")

#: What no file's name can hold; a task's name is whatever stands in the file.
_SEPARATORS = re.compile(r"[/\\\0]")


@dataclass(frozen=True)
class Results:
    """One file of results, written at ``date``."""

    path: Path
    date: str
    content: dict[str, Any]

    @property
    def model(self) -> str:
        """What the harness calls the model: the value of its pretrained or peft argument."""
        return str(self.content.get("model_name") or self.content.get("config", {}).get("model_args"))

    @property
    def tasks(self) -> list[str]:
        """Tasks with results; groups, which only average them, have no configuration."""
        return sorted(self.content["configs"].keys() & self.content["results"].keys())

    def metrics(self, task: str) -> dict[str, Any]:
        """Return a task's numbers by ``metric,filter``."""
        found = self.content["results"][task]
        return {key: value for key, value in found.items() if "," in key and "_stderr," not in key}

    def filter(self, task: str) -> str:
        """Return the harness's filter whose metrics count: ``none``, or the only one there is."""
        kinds = {key.partition(",")[2] for key in self.metrics(task) if key.startswith("acc,")}
        if len(kinds) > 1 and "none" not in kinds:
            raise Refused(
                f"{self.path}: {task} has acc by several filters: {', '.join(sorted(kinds))}; keep one of them"
            )
        return "none" if "none" in kinds or not kinds else next(iter(kinds))

    def metric(self, task: str, name: str) -> float | None:
        """Return a proportion, None if the task does not have the metric.

        Raises
        ------
        Refused
            If it is no number in [0, 1].
        """
        value = self.metrics(task).get(f"{name},{self.filter(task)}")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise Refused(f"{self.path}: {name} of {task} is {str(value)[:60]!r}, no proportion in [0, 1]")
        return float(value)

    def delimiter(self, task: str) -> str:
        """Return what stood between context and option: nothing behind a chat template, unless an answer was begun."""
        config = self.content["configs"][task]
        if self.content.get("chat_template") and not config.get("gen_prefix"):
            return ""
        return str(config.get("target_delimiter", " "))

    def samples(self, task: str) -> Path:
        """Return where the samples of a task lie, if they were logged."""
        return self.path.with_name(f"samples_{_SEPARATORS.sub('_', task)}_{self.date}.jsonl")


def results_below(run: ManifestRun) -> list[Results]:
    """Read every file of results of a run, the newest first.

    Raises
    ------
    Refused
        If there is none, one cannot be read, or they are of several models.
    """
    paths = [run.folder] if run.folder.is_file() else sorted(run.folder.rglob("results_*.json"))
    if not paths:
        what = "holds no results_*.json" if run.folder.is_dir() else "is not there"
        raise Refused(f"{run.where}: {run.folder} {what}; name the folder that lm_eval was given as --output_path")
    found = sorted((_read(path) for path in paths), key=lambda results: results.date, reverse=True)
    models = sorted({results.model for results in found})
    if len(models) > 1:
        folders = sorted({str(results.path.parent.relative_to(run.folder)) for results in found})
        raise Refused(
            f"{run.where}: {run.folder} holds results of several models ({', '.join(models[:5])}); name the folder of "
            f"one, such as {folders[0]}"
        )
    return found


def _read(path: Path) -> Results:
    dated = _DATED.fullmatch(path.name)
    if dated is None:
        raise Refused(f"{path}: its name has no date as the harness writes it; leave its files named as they were")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path} is not JSON ({error}); it may have been cut, evaluate again") from None
    parts = [content.get(key) for key in ("results", "configs")] if isinstance(content, dict) else []
    if not parts or not all(
        isinstance(part, dict) and all(isinstance(entry, dict) for entry in part.values()) for part in parts
    ):
        raise Refused(f"{path} is no file of results: it lacks the mappings 'results' and 'configs'")
    if not isinstance(content.get("config", {}), dict):
        raise Refused(f"{path} is no file of results: 'config' is no mapping")
    return Results(path, dated.group(1), content)
