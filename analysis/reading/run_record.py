"""What one run says: its tags and metrics, checked and turned into observations. Knows no server."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from registry.cells import Cell, Regime, regime_of
from registry.errors import Refused
from registry.tracking import metric_names
from registry.tracking.names import Kind, Tag

__all__ = [
    "DELTA_TOLERANCE_PP", "KINDS", "InconsistentRunError", "KnownRun", "RunRecord", "RunState", "StoreChanges",
    "digest", "observations_of", "own_tags",
]  # fmt: skip

#: Largest difference, in pp, between a recorded delta and score minus baseline that rounding may explain.
DELTA_TOLERANCE_PP = 1e-6


_MOST = 2**63  # seeds are below it
_ENDLESS = 1e300


class InconsistentRunError(Refused):
    """A run contradicts itself, its baseline or the contract of names."""


@dataclass(frozen=True)
class RunRecord:
    """A run as stored: ``started`` is in milliseconds since the epoch."""

    run_id: str
    name: str
    status: str
    started: int
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    def __str__(self) -> str:
        return f"run {self.run_id} ({self.name})"

    def tag(self, name: str) -> str:
        """Return a tag that the run must have."""
        if name not in self.tags:
            raise InconsistentRunError(f"{self} has no tag {name!r}, so its place in the study is unknown")
        return self.tags[name]

    def number(self, name: str) -> float:
        """Return a tag that must be a number."""
        text = self.tag(name)
        try:
            found = float(text)
        except ValueError:
            found = math.inf
        if not math.isfinite(found):
            raise InconsistentRunError(f"{self}: tag {name!r} is {text!r}, which is not a number")
        return found

    def seed(self) -> int:
        """Return the seed; one may be written "17.0"."""
        found = self.number(Tag.SEED)
        if not found.is_integer() or abs(found) >= _MOST:
            raise InconsistentRunError(f"{self}: tag {Tag.SEED!r} is {self.tag(Tag.SEED)!r}, which is no seed")
        return int(found)

    def by_target(self, quantity: str) -> dict[Cell, float]:
        """Return the metrics of one quantity, such as ``score``, by target."""
        found = ((metric_names.parse_cell(metric, quantity), value) for metric, value in self.metrics.items())
        return {cell: value for cell, value in found if cell is not None}


def observations_of(evaluation: RunRecord, baseline: Mapping[Cell, float] | None) -> list[dict[str, Any]]:
    """Return one observation per target of an evaluation, with ``started`` and ``fingerprint`` for telling runs apart.

    Parameters
    ----------
    evaluation
        A finished evaluation run.
    baseline
        Scores of its baseline run by target; None if that run cannot be read, and then the baseline column is NaN.

    Raises
    ------
    InconsistentRunError
        If a tag is missing, a delta stands under the wrong regime, or a delta is not score minus baseline.
    """
    source = Cell(evaluation.tag(Tag.SOURCE_TASK), evaluation.tag(Tag.SOURCE_LANGUAGE))
    common = {
        "model": evaluation.tag(Tag.BASE_MODEL),
        "model_family": evaluation.tag(Tag.MODEL_FAMILY),
        "model_size_b": evaluation.number(Tag.MODEL_SIZE_B),
        "source_task": source.task,
        "source_language": source.language,
        "seed": evaluation.seed(),
        "run_id": evaluation.run_id,
        "model_version": evaluation.tags.get(Tag.MODEL_VERSION, ""),
        "protocol": evaluation.tags.get(Tag.PROTOCOL, ""),
        "fingerprint": evaluation.tag(Tag.FINGERPRINT),
        "started": evaluation.started,
    }
    deltas = ((metric_names.parse_delta(metric), value) for metric, value in evaluation.metrics.items())
    return [
        common | _on_target(evaluation, source, *named, delta, baseline) for named, delta in deltas if named is not None
    ]


def _on_target(
    evaluation: RunRecord,
    source: Cell,
    regime: Regime,
    target: Cell,
    delta: float,
    baseline: Mapping[Cell, float] | None,
) -> dict[str, str | float]:
    """Return what an evaluation says of one target."""
    if regime is not regime_of(source, target):
        raise InconsistentRunError(
            f"{evaluation}: {metric_names.delta(regime, target)} is misnamed: from {source} the regime is "
            f"{regime_of(source, target)}"
        )
    metrics = evaluation.metrics
    score = metrics.get(metric_names.score(target), math.nan)
    if abs(score) >= _ENDLESS or abs(delta) >= _ENDLESS:  # databases keep infinity as their largest number
        raise InconsistentRunError(f"{evaluation}: score {score:.6g} and delta {delta:.6g} pp on {target} are no such")
    reference = math.nan if baseline is None else baseline.get(target, math.nan)
    _check_delta(evaluation, target, delta, delta if baseline is None else 100.0 * (score - reference))
    return {
        "target_task": target.task,
        "target_language": target.language,
        "regime": str(regime),
        "score": score,
        "acc": metrics.get(metric_names.acc(target), math.nan),
        "acc_norm": metrics.get(metric_names.acc_norm(target), math.nan),
        "baseline": reference,
        "delta": delta,
    }


def _check_delta(evaluation: RunRecord, target: Cell, recorded: float, expected: float) -> None:
    """Raise unless the recorded delta is a number and the expected one."""
    # Written as "not within" so that NaN, of a missing score or baseline, fails too.
    if not abs(recorded - expected) <= DELTA_TOLERANCE_PP:
        raise InconsistentRunError(
            f"{evaluation}: delta on {target} is recorded as {recorded:.6g} pp, but score minus baseline (run "
            f"{evaluation.tags.get(Tag.BASELINE_RUN)}) is {expected:.6g} pp: a metric was changed after it was "
            "recorded; restore the store from a backup"
        )


# --- what is known of runs, and what a store says has changed since


#: The kinds of runs that an analysis reads whole.
KINDS: Final = (Kind.BASELINE, Kind.EVALUATE)

#: Tags that say how a run was made and nothing of what it found; MLflow's own start with ``mlflow.``.
_PROCESS_TAGS = frozenset({Tag.HEARTBEAT, Tag.WORKER})


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A finished run that was read before: when it ended, and its state then."""

    kind: Kind
    ended: int
    state: str


@dataclass(frozen=True, slots=True)
class RunState:
    """A finished run as just read: where its artifacts are, and a digest of all that may be edited in it."""

    kind: Kind
    record: RunRecord
    ended: int
    artifacts: str
    state: str


@dataclass(frozen=True)
class StoreChanges:
    """Runs that are there no more or no longer finished, and runs to take instead of or beside the known."""

    gone: frozenset[str] = frozenset()
    read: tuple[RunState, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.gone or self.read)


def own_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that say what a run found."""
    return {name: value for name, value in tags.items() if not name.startswith("mlflow.") and name not in _PROCESS_TAGS}


def digest(*parts: object) -> str:
    """Return a digest of values by how Python prints them, which for numbers is exact."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
