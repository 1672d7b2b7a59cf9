"""Every question's outcome of one scoring, and the accuracies that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from registry.cells import Cell
from registry.lora.score import choose
from registry.runner.experiment import Experiment
from registry.tracking.evaluations import TargetScore

__all__ = ["Outcomes"]


class Outcomes:
    """Log-likelihoods of every option of every test item of an experiment, in the order of its grid.

    Parameters
    ----------
    values : sequence of arrays, (options,)
        One per question, in nats.
    """

    def __init__(self, experiment: Experiment, values: Sequence[np.ndarray]) -> None:
        self._experiment = experiment
        self._values = list(values)
        items = experiment.items
        self._queries = [items.prompts[cell.task].query(item) for cell in experiment.grid for item in items.test(cell)]
        self._answers = np.array([query.answer for query in self._queries])
        self._chosen = choose(self._values)
        self._chosen_norm = choose(self._values, [query.lengths for query in self._queries])

    def scores(self) -> dict[Cell, TargetScore]:
        """Accuracies of each target."""
        results, start = {}, 0
        for cell in self._experiment.grid:
            stop = start + len(self._experiment.items.test(cell))
            part = slice(start, stop)
            results[cell] = TargetScore(
                acc=float((self._chosen[part] == self._answers[part]).mean()),
                acc_norm=float((self._chosen_norm[part] == self._answers[part]).mean()),
                chance=float(np.mean([1 / len(query.continuations) for query in self._queries[part]])),
                headline=self._experiment.items.prompts[cell.task].headline,
            )
            start = stop
        return results

    def frame(self) -> pd.DataFrame:
        """Return one row per question and option.

        Columns: ``task, language, question`` (item id), ``option`` (index), ``loglikelihood`` (nats), ``length``
        (characters), ``right`` (whether the option is the answer), ``chosen`` and ``chosen_norm`` (whether ``acc`` and
        ``acc_norm`` choose it).
        """
        cells = [(cell, item) for cell in self._experiment.grid for item in self._experiment.items.test(cell)]
        counts = [len(value) for value in self._values]
        option = np.concatenate([np.arange(count) for count in counts])
        return pd.DataFrame(
            {
                "task": pd.Categorical(np.repeat([cell.task for cell, _ in cells], counts)),
                "language": pd.Categorical(np.repeat([cell.language for cell, _ in cells], counts)),
                "question": np.repeat([item.id for _, item in cells], counts),
                "option": option.astype(np.int8),
                "loglikelihood": np.concatenate(self._values),
                "length": np.concatenate([query.lengths for query in self._queries]).astype(np.int32),
                "right": option == np.repeat(self._answers, counts),
                "chosen": option == np.repeat(self._chosen, counts),
                "chosen_norm": option == np.repeat(self._chosen_norm, counts),
            }
        )

    def write(self, path: Path) -> None:
        """Write :meth:`frame` as Parquet."""
        self.frame().to_parquet(path, index=False, compression="zstd")
