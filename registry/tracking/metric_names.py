"""Names of metrics: the contract between running a study and analysing it.

Every metric that MLflow stores is spelled here and nowhere else. MLflow's UI groups charts by everything before the
last slash of a metric's name, hence the order ``quantity/regime/task/language``.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from registry.cells import Cell, Regime

__all__ = [
    "BEST_VALUE",
    "CUT_TEXTS",
    "FINAL_LOSS",
    "JOBS_FAILED",
    "JOBS_PLANNED",
    "KEPT_EPOCH",
    "LEARNING_RATE",
    "SKIPPED_STEPS",
    "TRAIN_LOSS",
    "TRIAL_OBJECTIVE",
    "TRIAL_VALUE",
    "VALIDATION_LOSS",
    "acc",
    "acc_norm",
    "analyzed",
    "chance",
    "chance_p",
    "count",
    "cut_questions",
    "delta",
    "delta_mean",
    "harm_rate",
    "importance",
    "indistinct",
    "is_of",
    "of_search",
    "on_target",
    "parse_cell",
    "parse_delta",
    "positive_rate",
    "promoting",
    "score",
    "seconds_of",
    "tokens_of",
    "trials_in_state",
    "tuned",
    "usage_metrics",
]


def on_target(quantity: str, cell: Cell) -> str:
    """Metric of a quantity on a target, as :func:`parse_cell` reads it."""
    return f"{quantity}/{cell}"


#: Metric of the headline score on a target, a proportion in [0, 1].
score = partial(on_target, "score")

#: Metrics of plain accuracy on a target, and of length-normalised accuracy.
acc = partial(on_target, "acc")
acc_norm = partial(on_target, "acc_norm")

#: Metric of the expected score of guessing, the mean of 1 / number of options over the target's items.
chance = partial(on_target, "chance")

#: Metric of a baseline: the exact one-sided p-value of a score so low, or lower, by guessing.
chance_p = partial(on_target, "chance_p")

#: Metric of how many of a target's questions lost their left side to fit the base model's longest input.
cut_questions = partial(on_target, "cut_questions")

#: Metric of the share of a target's questions, in [0, 1], with options that no model can tell apart.
indistinct = partial(on_target, "indistinct")


def delta(regime: Regime, cell: Cell) -> str:
    """Metric of score minus baseline on a target, in percentage points."""
    return f"delta/{regime}/{cell}"


def delta_mean(regime: Regime) -> str:
    """Metric of the mean delta over a regime's targets, in percentage points."""
    return f"delta_mean/{regime}"


def positive_rate(regime: Regime) -> str:
    """Metric of the share of a regime's targets with delta > 0, in percent."""
    return f"positive_rate/{regime}"


def harm_rate(regime: Regime) -> str:
    """Metric of the share of a regime's targets with delta <= -1 pp, in percent."""
    return f"harm_rate/{regime}"


#: Metrics of a fine-tune: curves of the loss, the learning rate and the loss on held-out items, the last loss, the
#: epoch whose weights were kept, how many texts lost their left side and, in fp16, how many steps changed nothing.
TRAIN_LOSS: Final = "train/loss"
LEARNING_RATE: Final = "train/learning_rate"
VALIDATION_LOSS: Final = "validation/loss"
FINAL_LOSS: Final = "train/final_loss"
KEPT_EPOCH: Final = "train/kept_epoch"
CUT_TEXTS: Final = "train/cut_texts"
SKIPPED_STEPS: Final = "train/skipped_steps"

#: Metrics of a study's run: how many jobs it had to do, and how many of them failed.
JOBS_PLANNED: Final = "jobs/planned"
JOBS_FAILED: Final = "jobs/failed"

#: Metrics of a trial, the objective as it stood at each step and its value; and of a search, the best value.
TRIAL_OBJECTIVE: Final = "tune/objective"
TRIAL_VALUE: Final = "tune/value"
BEST_VALUE: Final = "tune/best_value"


def importance(name: str) -> str:
    """Metric of the share of the objective's variation that a name of the recipe explains."""
    return f"tune/importance/{name}"


def trials_in_state(state: str) -> str:
    """Metric of how many trials of a search ended in a state."""
    return f"tune/trials/{state}"


def of_search(metric: str) -> bool:
    """Whether a metric is one of a search or of its trials."""
    return is_of(metric, "tune")


def count(what: str) -> str:
    """Metric of how much an import holds: ``observations``, ``models``, ``baselines``, …."""
    return f"count/{what}"


def analyzed(quantity: str, regime: str) -> str:
    """Metric of an analysis: a column of its regime table, in the row of a regime or of several together."""
    return f"{quantity}/{regime}"


def promoting(quantity: str, target: Cell) -> str:
    """Metric of a promotion on one target: ``delta`` or ``shrunken`` in points, ``p``, ``q``, ``baseline``, …."""
    return f"promote/{quantity}/{target}"


def tuned(quantity: str, source: Cell) -> str:
    """Metric of a trial on one source: ``validation_loss`` in nats per token, ``gain`` or ``harm`` in points."""
    return f"tune/{quantity}/{source}"


def usage_metrics(phase: str, *, seconds: float, tokens: int, flop: float, peak_memory_gb: float) -> dict[str, float]:
    """Metrics of what a phase took: ``train``, ``validation`` or ``score``.

    Parameters
    ----------
    seconds : float
        In which its tokens went through the model, and so what tokens and operations are divided by. A run's own
        duration, which MLflow has, also holds loading, recording and waiting.
    """
    took = {
        f"seconds/{phase}": seconds,
        f"tokens/{phase}": tokens,
        f"tflop/{phase}": flop / 1e12,
        f"peak_memory_gb/{phase}": peak_memory_gb,
    }
    if seconds > 0:
        took |= {f"tokens_per_second/{phase}": tokens / seconds, f"tflop_per_second/{phase}": flop / 1e12 / seconds}
    return took


def tokens_of(phase: str) -> str:
    """Metric of how many tokens went through the model in a phase."""
    return f"tokens/{phase}"


def seconds_of(phase: str) -> str:
    """Metric of the seconds in which they did."""
    return f"seconds/{phase}"


def is_of(metric: str, quantity: str) -> bool:
    """Whether a metric is of a quantity, such as ``score`` or ``delta``."""
    return metric.startswith(f"{quantity}/")


def parse_cell(metric: str, quantity: str) -> Cell | None:
    """Return the target of a metric ``quantity/task/language``, or None if the metric is of another quantity."""
    head, _, rest = metric.partition("/")
    return _target(rest) if head == quantity else None


def parse_delta(metric: str) -> tuple[Regime, Cell] | None:
    """Return regime and target of a metric ``delta/regime/task/language``, or None if it is another metric."""
    head, _, rest = metric.partition("/")
    if head != "delta":
        return None
    regime, _, cell = rest.partition("/")
    target = _target(cell)
    return None if target is None or regime not in set(Regime) else (Regime(regime), target)


def _target(text: str) -> Cell | None:
    """Read a target; None for what is none, such as the end of another tool's metric ``score/mean``."""
    try:
        return Cell.parse(text)
    except ValueError:
        return None
