"""How an evaluation is recorded: one run, its targets as metrics, its regimes as dataset inputs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from registry.cells import HARM_PP, Cell, Regime, cells_tag
from registry.sources import Source
from registry.tracking import metric_names, names
from registry.tracking.chance import CHANCE_Q, chance_q
from registry.tracking.recording import Recording

__all__ = [
    "TargetScore",
    "accuracy_metrics",
    "below_chance",
    "chance_metrics",
    "delta_metrics",
    "indistinct_cells",
    "indistinct_metrics",
    "record_inputs",
    "score_metrics",
]


@dataclass(frozen=True, slots=True)
class TargetScore:
    """How a model did on one target; all but ``headline`` are proportions in [0, 1].

    ``headline`` names the accuracy that is the score; ``chance`` is the expected score of guessing, ``chance_p`` the
    probability that guessing scores so low or lower, NaN where the questions are not known; ``indistinct`` is the share
    of questions with options that no model can tell apart, being the same tokens: a choice among those is the first of
    them.
    """

    acc: float
    acc_norm: float
    chance: float
    headline: str
    chance_p: float = math.nan
    indistinct: float = 0.0

    @property
    def score(self) -> float:
        """The headline accuracy."""
        return self.acc_norm if self.headline == "acc_norm" else self.acc


def score_metrics(scores: Mapping[Cell, TargetScore]) -> dict[str, float]:
    """Metrics of a model's scores on its targets; both accuracies can be computed from the outcomes of the run."""
    return {metric_names.score(cell): result.score for cell, result in scores.items()}


def accuracy_metrics(scores: Mapping[Cell, TargetScore]) -> dict[str, float]:
    """Metrics of a baseline alone: both accuracies on each target."""
    level = {metric_names.acc(cell): result.acc for cell, result in scores.items()}
    return level | {metric_names.acc_norm(cell): result.acc_norm for cell, result in scores.items()}


def chance_metrics(scores: Mapping[Cell, TargetScore]) -> dict[str, float]:
    """Metrics of a baseline alone: what guessing would score on each target, and the p-value of scoring below that."""
    level = {metric_names.chance(cell): result.chance for cell, result in scores.items()}
    return level | {
        metric_names.chance_p(cell): one.chance_p for cell, one in scores.items() if not math.isnan(one.chance_p)
    }


def delta_metrics(source: Source, scores: Mapping[Cell, float], baseline: Mapping[Cell, float]) -> dict[str, float]:
    """Metrics of what an adapter changed: delta per target, and per regime its mean, positive and harm rates.

    Parameters
    ----------
    scores, baseline : mapping of target to score
        Proportions in [0, 1]; deltas come out in percentage points, rates in percent.
    """
    metrics: dict[str, float] = {}
    by_regime: dict[Regime, list[float]] = {}
    for target, score in scores.items():
        regime = source.regime(target)
        # Rounded, so that float noise does not decide what is exactly 0 or -1 pp.
        delta = round(100 * (score - baseline[target]), 9)
        metrics[metric_names.delta(regime, target)] = delta
        by_regime.setdefault(regime, []).append(delta)
    for regime, deltas in by_regime.items():
        metrics[metric_names.delta_mean(regime)] = fmean(deltas)
        metrics[metric_names.positive_rate(regime)] = 100 * fmean(delta > 0 for delta in deltas)
        metrics[metric_names.harm_rate(regime)] = 100 * fmean(delta <= HARM_PP for delta in deltas)
    return metrics


def below_chance(scores: Mapping[Cell, TargetScore]) -> dict[Cell, float]:
    """Targets that the untouched base answers significantly worse than guessing would: a sign of broken data.

    Returns
    -------
    dict of target to q-value
        Of the exact one-sided test, adjusted over all the targets; those at or below `CHANCE_Q`.
    """
    q = chance_q([result.chance_p for result in scores.values()])
    return {cell: float(value) for cell, value in zip(scores, q, strict=True) if value <= CHANCE_Q}


def indistinct_metrics(scores: Mapping[Cell, TargetScore]) -> dict[str, float]:
    """Metrics of the targets where options are the same tokens; the others have none."""
    return {metric_names.indistinct(cell): result.indistinct for cell, result in scores.items() if result.indistinct}


def indistinct_cells(scores: Mapping[Cell, TargetScore]) -> str:
    """Write those targets with their shares as a tag, the largest share first, as many as a tag has room for."""
    return cells_tag({cell: result.indistinct for cell, result in scores.items() if result.indistinct})


def record_inputs(
    recording: Recording,
    sets: Mapping[str, Iterable[Cell]],
    *,
    benchmark: str,
    digests: Mapping[Cell, str],
    model_id: str | None = None,
) -> None:
    """Link a run to the item sets it read and the adapter it scored.

    Parameters
    ----------
    sets
        Context (a regime, "baseline" or "training") → its cells; each is one dataset chip in MLflow's UI.
    """
    datasets = [_dataset(context, sorted(cells), benchmark, digests) for context, cells in sets.items()]
    models = [LoggedModelInput(model_id)] if model_id else []
    # Processes that log a new dataset at once collide in MLflow, which rolls all but the first back whole. That dataset
    # is there by then, so that one attempt more than there are datasets always suffices.
    for attempts_left in reversed(range(len(datasets) + 1)):
        try:
            recording.client.log_inputs(recording.run_id, datasets=datasets, models=models)
        except MlflowException as error:
            if not attempts_left or "INSERT INTO datasets" not in str(error):
                raise
        else:
            return


def _dataset(context: str, cells: list[Cell], benchmark: str, digests: Mapping[Cell, str]) -> DatasetInput:
    digest = hashlib.sha256("".join(digests[cell] for cell in cells).encode()).hexdigest()[:32]
    entity = Dataset(
        name=f"{benchmark} {context}",
        digest=digest,
        source_type="benchmark",
        source=json.dumps({"benchmark": benchmark}),
        profile=json.dumps({"cells": [str(cell) for cell in cells]}),
    )
    return DatasetInput(entity, [InputTag(MLFLOW_DATASET_CONTEXT, context), InputTag(names.Tag.REGIME, context)])
