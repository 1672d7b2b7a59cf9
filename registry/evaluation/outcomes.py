"""Every question's outcome of one scoring, and the accuracies that follow from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from registry.benchmarks.items import Item
from registry.benchmarks.prompts import Query
from registry.cells import Cell
from registry.evaluation.metrics import TargetScore
from registry.planning.experiment import Experiment
from registry.tracking.chance import chance_p
from registry.tracking.columns import OUTCOME_COLUMNS, WITH_CHECKSUMS

__all__ = ["Outcomes", "Questions", "choose"]


@dataclass(frozen=True)
class Questions:
    """What is known of every question of an experiment before it is scored, in the order of its grid.

    Attributes
    ----------
    items : mapping of target to its test items
    queries : sequence of Query
        One per question.
    answers : int array, (questions,)
        Indices of the right options.
    """

    experiment: Experiment
    items: Mapping[Cell, Sequence[Item]]
    queries: Sequence[Query]
    answers: np.ndarray

    @classmethod
    def of(cls, experiment: Experiment) -> Questions:
        """Put the test items that are asked as their tasks put them."""
        prompts = experiment.items.prompts
        items = {cell: experiment.asking.choose(cell, experiment.items.test(cell)) for cell in experiment.grid}
        queries = [prompts[cell.task].query(item) for cell, of_cell in items.items() for item in of_cell]
        return cls(experiment, items, queries, np.array([query.answer for query in queries]))

    @cached_property
    def targets(self) -> dict[Cell, slice]:
        """Which questions are those of each target."""
        found, start = {}, 0
        for cell, of_cell in self.items.items():
            found[cell] = slice(start, start := start + len(of_cell))
        return found

    @cached_property
    def lengths(self) -> list[Sequence[int]]:
        """Characters of each question's options."""
        return [query.lengths for query in self.queries]

    @cached_property
    def counts(self) -> np.ndarray:
        """Options of each question."""
        return np.array([len(query.continuations) for query in self.queries])

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per question and option, with the columns of :meth:`Outcomes.frame` that no score decides."""
        counts = self.counts
        cells = [(cell, item) for cell, of_cell in self.items.items() for item in of_cell]
        option = np.concatenate([np.arange(count) for count in counts])
        return pd.DataFrame(
            {
                "task": pd.Categorical(np.repeat([cell.task for cell, _ in cells], counts)),
                "language": pd.Categorical(np.repeat([cell.language for cell, _ in cells], counts)),
                "question": np.repeat([item.id for _, item in cells], counts),
                "option": option.astype(np.int8),
                "length": np.concatenate(self.lengths).astype(np.int32),
                "right": option == np.repeat(self.answers, counts),
            }
        )


class Outcomes:
    """Log-likelihoods of every option of every question.

    Parameters
    ----------
    values : sequence of arrays, (options,)
        One per question, in nats.
    cut : iterable of int
        The questions whose text lost its left side to fit the base.
    indistinct : bool array, (questions,), optional
        Where no model can tell the options apart; nowhere by default.
    """

    def __init__(
        self,
        questions: Questions,
        values: Sequence[np.ndarray],
        *,
        cut: Iterable[int] = (),
        indistinct: np.ndarray | None = None,
    ) -> None:
        self._questions = questions
        self._cut = frozenset(cut)
        self._indistinct = np.zeros(len(values), dtype=bool) if indistinct is None else indistinct
        self._values = list(values)
        self._chosen = choose(self._values)
        self._chosen_norm = choose(self._values, questions.lengths)

    def scores(self) -> dict[Cell, TargetScore]:
        """Accuracies of each target."""
        prompts = self._questions.experiment.items.prompts
        return {cell: self._score(part, prompts[cell.task].headline) for cell, part in self._questions.targets.items()}

    def _score(self, part: slice, headline: str) -> TargetScore:
        answers, chances = self._questions.answers[part], 1 / self._questions.counts[part]
        right, right_norm = self._chosen[part] == answers, self._chosen_norm[part] == answers
        counted = right_norm if headline == "acc_norm" else right
        return TargetScore(
            acc=float(right.mean()),
            acc_norm=float(right_norm.mean()),
            chance=float(np.mean(chances)),
            headline=headline,
            chance_p=chance_p(int(counted.sum()), chances),
            indistinct=float(self._indistinct[part].mean()),
        )

    def cut(self) -> dict[Cell, int]:
        """How many of a target's questions lost their left side, of the targets that have any."""
        counts = {
            cell: sum(number in self._cut for number in range(part.start, part.stop))
            for cell, part in self._questions.targets.items()
        }
        return {cell: count for cell, count in counts.items() if count}

    def frame(self) -> pd.DataFrame:
        """Return one row per question and option.

        Columns: ``task, language, question`` (item id), ``option`` (index), ``loglikelihood`` (nats), ``length``
        (characters), ``right`` (whether the option is the answer), ``chosen`` and ``chosen_norm`` (whether ``acc`` and
        ``acc_norm`` choose it).
        """
        known, counts = self._questions.frame, self._questions.counts
        scored = known.assign(
            loglikelihood=np.concatenate(self._values),
            chosen=known["option"] == np.repeat(self._chosen, counts),
            chosen_norm=known["option"] == np.repeat(self._chosen_norm, counts),
        )
        return scored[list(OUTCOME_COLUMNS)]

    def write(self, path: Path) -> None:
        """Write :meth:`frame` as Parquet."""
        self.frame().to_parquet(path, index=False, compression="zstd", **WITH_CHECKSUMS)


def choose(scores: Sequence[np.ndarray], lengths: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """Return the index of each question's best option; with ``lengths`` (characters), the best after division by them.

    Ties go to the first option, as in lm-evaluation-harness.
    """
    if not len(scores):
        return np.array([], dtype=np.int64)
    counts = np.array([len(row) for row in scores])
    values = np.concatenate(scores)
    if lengths is not None:
        values = values / np.concatenate(lengths)
    table = np.full((len(counts), counts.max()), -np.inf)
    table[np.arange(counts.max()) < counts[:, None]] = values
    best: np.ndarray = table.argmax(axis=1)
    return best
