"""What one run of lm-evaluation-harness measured on each target: accuracies, settings, and the outcomes behind them.

``results_<date>.json`` holds every task's metrics as ``acc,none``; ``samples_<task>_<date>.jsonl`` beside it every
question. A cell's score is what the manifest chooses for its task, else ``acc_norm`` where the task has that metric,
and ``acc`` where it does not.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from registry.cells import Cell
from registry.errors import Refused
from registry.evaluation.metrics import TargetScore
from registry.imports.harness_files import Results
from registry.imports.harness_samples import OptionsInContext, Samples, read_samples
from registry.imports.harness_settings import EvaluationSettings, settings_of
from registry.imports.manifest import Manifest, ManifestRun
from registry.tracking import names
from registry.tracking.chance import chance_p
from registry.tracking.columns import WITH_CHECKSUMS

__all__ = ["Reading", "TargetMeasurement", "format_names", "measure"]

_SAME = 1e-9  # rounding of a mean over questions
_LISTED = 5  # how many names a message spells out


@dataclass(frozen=True)
class TargetMeasurement:
    """What one model made of one target, under which settings; ``file`` is where that stands.

    ``answers`` is the SHA-256 of all log-likelihoods, None without samples.
    """

    score: TargetScore
    settings: EvaluationSettings
    file: Path
    answers: str | None


@dataclass
class Reading:
    """What reading the folders yields besides scores."""

    staging: Path
    digest: Any = field(default_factory=hashlib.sha256)
    without_samples: list[str] = field(default_factory=list)
    in_context: set[str] = field(default_factory=set)
    partial: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)
    older: list[str] = field(default_factory=list)
    harmless: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    unchanged: set[str] = field(default_factory=set)
    copies: set[tuple[Cell, ...]] = field(default_factory=set)

    def read(self, path: Path) -> None:
        """Let a file's content count in the import's digest."""
        with path.open("rb") as file:
            self.digest.update(hashlib.file_digest(file, "sha256").digest())

    def notes(self) -> Iterator[str]:
        """Say what a reader must know."""
        if self.without_samples:
            yield f"There are no outcomes of single questions for {format_names(self.without_samples)}: scores alone."
        if self.in_context:
            yield f"Options of {format_names(self.in_context)} stand in the question: scores alone, no outcomes."
        if self.partial:
            yield f"Only a part of the questions was evaluated, as by --limit, in: {format_names(self.partial)}."
        if self.left_out:
            yield f"Left out, as the manifest says: {format_names(self.left_out)}."
        if self.harmless:
            settings = "Settings that differ between an adapter and its baseline and change no score beyond rounding"
            yield f"{settings}: {', '.join(sorted(self.harmless))}."
        if self.unknown:
            settings = "Settings in the file of only an adapter or only its baseline, so that they are not compared"
            yield f"{settings}: {', '.join(sorted(self.unknown))}."
        for cells in sorted(self.copies):
            effect = "have the same test items, so every result on them counts once for each"
            yield f"Copies: {', '.join(map(str, cells))} {effect}."
        if self.unchanged:
            same = "To the last digit the untouched model's log-likelihoods, as if the adapter had not been loaded"
            yield f"{same} or lm_eval had answered from a cache (use_cache): {format_names(self.unchanged)}."
        if self.older:
            again = "Measured again by a newer file in the same folder, and only the newest counts"
            yield f"{again}: {format_names(self.older)}."


def measure(
    run: ManifestRun, manifest: Manifest, found: list[Results], reading: Reading
) -> dict[Cell, TargetMeasurement]:
    """Return what a run measured on each target, and write its outcomes."""
    measured: dict[Cell, TargetMeasurement] = {}
    tasks: dict[Cell, str] = {}
    outcomes: list[pd.DataFrame] = []
    for results in found:  # the newest first
        reading.read(results.path)
        for task in results.tasks:
            cell = _cell(task, manifest, run, reading)
            if cell is None:
                continue
            if cell in measured and tasks[cell] == task:
                reading.older.append(f"{run}: {task}")
                continue
            if cell in measured:
                raise Refused(
                    f"{run.where}: {tasks[cell]} and {task} are both {cell}; leave one out with tasks: {{{task}: null}}"
                )
            samples = _samples(results, task, run, reading)
            tasks[cell] = task
            settings = settings_of(results, task, None if samples is None else samples.prompt_digest)
            score = _score(results, task, samples, manifest.headlines.get(cell.task))
            measured[cell] = TargetMeasurement(score, settings, results.path, _answers(samples))
            _note_part(results, task, reading)
            if samples is not None:
                outcomes.append(samples.outcomes.assign(task=cell.task, language=cell.language))
    if not measured:
        raise Refused(f"{run.where}: {run.folder} holds no task that is imported")
    reading.copies.update(_copies(measured))
    if outcomes:
        _write(outcomes, reading.staging / names.outcomes_file(run.model, run.source, run.seed))
    return measured


def _cell(task: str, manifest: Manifest, run: ManifestRun, reading: Reading) -> Cell | None:
    try:
        cell = manifest.cell_of(task)
    except KeyError:
        raise Refused(
            f"{run.where}: the cell of the task {task[:80]!r} is not known from its name; name it in "
            f"{manifest.path.name}, such as tasks: {{{task[:80]}: my_task/en}}, or with null to leave it out"
        ) from None
    if cell is None:
        reading.left_out.add(task)
    return cell


def _samples(results: Results, task: str, run: ManifestRun, reading: Reading) -> Samples | None:
    path = results.samples(task)
    if not path.is_file():
        reading.without_samples.append(f"{run}: {task}")
        return None
    try:
        samples = read_samples(path, delimiter=results.delimiter(task), kind=results.filter(task))
    except OptionsInContext:
        reading.in_context.add(task)
        return None
    reading.read(path)
    return samples


def _score(results: Results, task: str, samples: Samples | None, chosen: str | None) -> TargetScore:
    """Return a task's accuracies; samples add what its metrics leave out.

    Parameters
    ----------
    chosen
        The accuracy that the manifest takes for the score, None where it does not say.
    """
    acc, acc_norm = results.metric(task, "acc"), results.metric(task, "acc_norm")
    if acc is None:
        have = ", ".join(sorted(results.metrics(task))[:_LISTED]) or "no metric"
        raise Refused(f"{results.path}: {task} has no acc, so it is no multiple-choice task (it has: {have})")
    headline = chosen or ("acc" if acc_norm is None else "acc_norm")
    if headline == "acc_norm" and acc_norm is None and samples is None:
        raise Refused(
            f"{results.path}: {task} has no acc_norm, which the manifest's headline takes for its score; leave that "
            "out, or evaluate with --log_samples, from which it is counted"
        )
    if samples is None:
        return TargetScore(acc, math.nan if acc_norm is None else acc_norm, math.nan, headline)
    counted = _count_accuracies(samples.outcomes)
    for name, value in (("acc", acc), ("acc_norm", acc_norm)):
        if value is not None and not abs(counted[name] - value) <= _SAME:
            raise Refused(
                f"{results.path}: {name} of {task} is {value:.6g}, but its samples give {counted[name]:.6g}; the files "
                f"are not of one evaluation: remove {results.samples(task).name} to import the scores alone"
            )
    both = (acc, counted["acc_norm"] if acc_norm is None else acc_norm)
    return TargetScore(*both, counted["chance"], headline, counted[f"chance_p/{headline}"])


def _count_accuracies(samples: pd.DataFrame) -> dict[str, float]:
    """Return both accuracies, the expected score of guessing and p-values, counted over a task's questions."""
    by_question = samples.groupby(np.cumsum(samples["option"].to_numpy() == 0))
    right = samples[samples["right"]]
    chances = by_question["right"].sum() / by_question.size()
    acc, acc_norm = (int(right[column].sum()) for column in ("chosen", "chosen_norm"))
    return {
        "acc": acc / by_question.ngroups,
        "acc_norm": acc_norm / by_question.ngroups,
        "chance": float(chances.mean()),
        "chance_p/acc": chance_p(acc, chances),
        "chance_p/acc_norm": chance_p(acc_norm, chances),
    }


def _copies(measured: Mapping[Cell, TargetMeasurement]) -> Iterator[tuple[Cell, ...]]:
    """Yield the groups of cells whose prompts are the same, word for word."""
    cells_of: dict[str, list[Cell]] = defaultdict(list)
    for cell, found in measured.items():
        if "prompts" in found.settings.values:
            cells_of[found.settings.values["prompts"]].append(cell)
    return (tuple(sorted(cells)) for cells in cells_of.values() if len(cells) > 1)


def _answers(samples: Samples | None) -> str | None:
    if samples is None:
        return None
    return hashlib.sha256(samples.outcomes["loglikelihood"].to_numpy().tobytes()).hexdigest()


def _note_part(results: Results, task: str, reading: Reading) -> None:
    """Note a task of which only a part of the questions was evaluated."""
    counts = results.content.get("n-samples")
    count = counts.get(task) if isinstance(counts, Mapping) else None
    if isinstance(count, Mapping) and count.get("effective") != count.get("original"):
        reading.partial.add(task)


def _write(outcomes: list[pd.DataFrame], path: Path) -> None:
    """Write a run's outcomes in the columns, order and types of our own scorer's."""
    table = pd.concat(outcomes, ignore_index=True).astype({"task": "category", "language": "category"})
    columns = ["task", "language", *(column for column in table.columns if column not in ("task", "language"))]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise Refused(f"two models would both be {path.parent.name}; give one of them another name in the manifest")
    table[columns].to_parquet(path, index=False, compression="zstd", **WITH_CHECKSUMS)


def format_names(things: Iterable[str]) -> str:
    """Name the first few things, sorted, and count the rest."""
    found = sorted(things)
    return ", ".join(found[:_LISTED]) + (f" and {len(found) - _LISTED} more" if len(found) > _LISTED else "")
