"""Which questions every run of a study answered correctly, held compactly in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from registry.cells import Cell
from registry.errors import Refused
from registry.tracking.columns import ANSWER_COLUMNS
from registry.tracking.outcomes import CHOSEN

__all__ = ["RunKey", "StudyOutcomes", "TargetOutcomes", "collect", "paired"]

Correct = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RunKey:
    """Which run answered: a model's adapter, or with ``source`` None the model itself, its baseline.

    A baseline without a seed serves all of the model's adapters, one with a seed those of that seed.
    """

    model: str
    source: Cell | None = None
    seed: int | None = None

    def __str__(self) -> str:
        source = "baseline" if self.source is None else str(self.source)
        return f"{self.model} {source}" + ("" if self.seed is None else f" seed {self.seed}")


@dataclass(frozen=True)
class TargetOutcomes:
    """What one model and its adapters answered on one target.

    Attributes
    ----------
    questions
        Ids, in the order of the arrays' last axis.
    adapters
        Correctness by adapter, (questions,) each.
    baselines
        Correctness by the seed of the baseline, (questions,) each; the one key None where one baseline serves all.
    """

    model: str
    target: Cell
    questions: pd.Index
    adapters: Mapping[RunKey, Correct]
    baselines: Mapping[int | None, Correct]

    def __post_init__(self) -> None:
        if None in self.baselines and len(self.baselines) > 1:
            raise Refused(
                f"{self.model} has on {self.target} a baseline that serves all seeds and others of single seeds: "
                "leave out one kind"
            )
        for key in self.adapters:
            self._baseline(key)

    def changes(self) -> dict[Cell, NDArray[np.int8]]:
        """What every source changed: (seeds, questions), 1 for newly right, −1 for newly wrong, 0 for neither."""
        found: dict[Cell, list[NDArray[np.int8]]] = {}
        for key, correct in self.adapters.items():
            assert key.source is not None
            found.setdefault(key.source, []).append(correct.astype(np.int8) - self._baseline(key).astype(np.int8))
        return {source: np.stack(found[source]) for source in sorted(found)}

    def _baseline(self, key: RunKey) -> Correct:
        """Return the outcomes that an adapter's are compared with."""
        seed = None if None in self.baselines else key.seed
        if seed not in self.baselines:
            there = ", ".join(f"seed {known}" for known in sorted(self.baselines, key=str)) or "none"
            raise Refused(
                f"no baseline for {key} on {self.target}; there: {there}. Give one of that seed, or a single one "
                "without a seed that serves all"
            )
        return self.baselines[seed]


@dataclass(frozen=True)
class StudyOutcomes:
    """Every outcome of a study, one block per (model, target)."""

    blocks: tuple[TargetOutcomes, ...]

    def __iter__(self) -> Iterator[TargetOutcomes]:
        return iter(self.blocks)


def collect(runs: Iterable[tuple[RunKey, pd.DataFrame]], headlines: Mapping[str, str]) -> StudyOutcomes:
    """Take from every run's options whether its headline accuracy counts each question as correct.

    Runs are read one at a time, so that a generator need not hold more than one frame. Questions are aligned by their
    ids; the order of rows is of no consequence.

    Parameters
    ----------
    runs
        Baselines and adapters in any order, each with one row per question and option: ``task``, ``language``,
        ``question`` (id), ``right``, ``chosen`` and ``chosen_norm`` (bool), as in the artifact ``outcomes.parquet``.
    headlines
        By task, the accuracy that is its score: ``acc`` or ``acc_norm``.

    Raises
    ------
    Refused
        If a run appears twice, lacks a column, was not asked the questions others were, or has no baseline; if a
        question has not exactly one chosen option; if a task's headline is not known.
    """
    collected = _Collection(headlines)
    for key, frame in tqdm(runs, desc="outcomes", unit="run", delay=2, leave=False, disable=None):
        collected.add(key, frame)
    return paired(collected.correct, collected.questions)


def paired(
    correct: Mapping[tuple[str, Cell], Mapping[RunKey, Correct]], questions: Mapping[Cell, pd.Index]
) -> StudyOutcomes:
    """Pair adapters with their baselines; a target on which a model has no adapter is left out.

    Parameters
    ----------
    correct
        By (model, target) and run, whether it answered each of the target's questions correctly, (questions,).
    questions
        Ids of the targets' questions.
    """
    blocks = []
    for (model, target), runs in sorted(correct.items(), key=lambda block: block[0]):
        adapters = {key: answers for key, answers in runs.items() if key.source is not None}
        baselines = {key.seed: answers for key, answers in runs.items() if key.source is None}
        if adapters:
            blocks.append(TargetOutcomes(model, target, questions[target], adapters, baselines))
    return StudyOutcomes(tuple(blocks))


class _Collection:
    """Outcomes as they come in."""

    def __init__(self, headlines: Mapping[str, str]) -> None:
        if wrong := {task: name for task, name in headlines.items() if name not in CHOSEN}:
            raise Refused(f"headline accuracies must be acc or acc_norm, but there are {wrong}")
        self._headlines = headlines
        self.questions: dict[Cell, pd.Index] = {}
        self.correct: dict[tuple[str, Cell], dict[RunKey, Correct]] = {}

    def add(self, key: RunKey, frame: pd.DataFrame) -> None:
        """Take in a run."""
        if lacking := [column for column in ANSWER_COLUMNS if column not in frame]:
            raise Refused(f"the outcomes of {key} have no column {', '.join(lacking)}; columns: {', '.join(frame)}")
        chosen = frame[self._is_chosen(key, frame)]
        for names, rows in chosen.groupby(["task", "language"], observed=True, sort=False):
            target = Cell(*map(str, names))
            if target not in self.questions:
                self.questions[target] = _question_ids(key, target, frame)
            of_model = self.correct.setdefault((key.model, target), {})
            if key in of_model:
                raise Refused(f"{key} was given twice on {target}: give only its newest run")
            of_model[key] = self._aligned(key, target, rows)

    def _is_chosen(self, key: RunKey, frame: pd.DataFrame) -> Correct:
        """Return which options the headline accuracy of their task chooses."""
        tasks = {str(task) for task in frame["task"].unique()}
        if unknown := sorted(tasks - set(self._headlines)):
            raise Refused(f"{key} was scored on {', '.join(unknown)}, of which the headline accuracy is not known")
        normalised = [task for task in tasks if self._headlines[task] == "acc_norm"]
        columns = frame["chosen_norm"].to_numpy(dtype=bool), frame["chosen"].to_numpy(dtype=bool)
        return np.asarray(np.where(frame["task"].isin(normalised), *columns), dtype=np.bool_)

    def _aligned(self, key: RunKey, target: Cell, rows: pd.DataFrame) -> Correct:
        """Return a run's correctness on one target, in the order of the target's questions."""
        expected, asked = self.questions[target], pd.Index(rows["question"])
        right = np.asarray(rows["right"], dtype=np.bool_)
        if asked.equals(expected):
            return right
        if asked.has_duplicates:
            raise Refused(f"{key} chooses several options of {target} question {asked[asked.duplicated()][0]!r}")
        places = asked.get_indexer(expected)
        if len(asked) != len(expected) or (places < 0).any():
            raise Refused(
                f"{key} has outcomes of {len(asked)} questions of {target}, {int((places >= 0).sum())} of them among "
                f"the {len(expected)} that others were asked: runs of one study must share their questions"
            )
        in_order: Correct = right[places]
        return in_order


def _question_ids(key: RunKey, target: Cell, frame: pd.DataFrame) -> pd.Index:
    """Return the ids of a target's questions, chosen or not, so that one without a choice is noticed."""
    of_target = (frame["task"] == target.task) & (frame["language"] == target.language)
    ids = pd.Index(frame.loc[of_target, "question"].unique())
    if ids.hasnans:
        raise Refused(f"{key} has outcomes of {target} without a question's id")
    return ids
