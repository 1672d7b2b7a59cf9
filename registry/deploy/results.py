"""What an adapter's evaluation found, read back from the store for its card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlflow import MlflowClient
from mlflow.entities import Run

from registry.cells import HARM_PP, Cell, Regime, regime_of
from registry.deploy.queries import experiments, quoted
from registry.tracking import names
from registry.tracking.evaluations import parse_indistinct, recorded_scores
from registry.tracking.names import Kind, Tag, headlines_of
from registry.tracking.store import all_runs

__all__ = ["Results", "TargetResult", "results_of"]


@dataclass(frozen=True, slots=True)
class TargetResult:
    """One target: ``score`` a proportion in [0, 1], ``delta`` against the untouched base in percentage points."""

    target: Cell
    regime: Regime
    score: float
    delta: float

    @property
    def harmed(self) -> bool:
        """Whether the delta counts as harm."""
        return self.delta <= HARM_PP


@dataclass(frozen=True)
class Results:
    """The newest finished evaluation of an adapter.

    Attributes
    ----------
    targets
        By regime, then by name.
    below_chance
        Targets that the untouched base answers worse than guessing would.
    indistinct
        Share of questions, by target, whose options the base's tokenizer makes the same tokens of.
    evaluations
        How many finished evaluations there are; the newest is told.
    headlines
        Task → the accuracy that its score is; empty where the run does not say.
    """

    run_id: str
    study: str
    targets: tuple[TargetResult, ...]
    below_chance: frozenset[Cell]
    evaluations: int
    indistinct: Mapping[Cell, float] = field(default_factory=dict)
    headlines: Mapping[str, str] = field(default_factory=dict)


def results_of(client: MlflowClient, version: str) -> Results | None:
    """Return what was found for a version, written ``name/number``, or None if no evaluation of it has finished."""
    wanted = f"tags.{Tag.KIND} = '{Kind.EVALUATE}' AND attributes.status = 'FINISHED'"
    runs = all_runs(client, experiments(client), f"{wanted} AND tags.{Tag.MODEL_VERSION} = {quoted(version)}")
    if not runs:
        return None
    run = max(runs, key=lambda run: run.info.start_time)
    tags = run.data.tags
    below = frozenset(map(Cell.parse, tags.get(Tag.BELOW_CHANCE, "").split()))
    return Results(
        run.info.run_id,
        tags.get(Tag.STUDY, ""),
        _targets(run),
        below,
        len(runs),
        indistinct=parse_indistinct(tags.get(Tag.INDISTINCT, "")),
        headlines=headlines_of(tags),
    )


def _targets(run: Run) -> tuple[TargetResult, ...]:
    tags, metrics = run.data.tags, run.data.metrics
    source = Cell(tags[Tag.SOURCE_TASK], tags[Tag.SOURCE_LANGUAGE])
    found = []
    for target, score in recorded_scores(run).items():
        regime = regime_of(source, target)
        found.append(TargetResult(target, regime, score, metrics[names.delta(regime, target)]))
    order = list(Regime)
    return tuple(sorted(found, key=lambda result: (order.index(result.regime), result.target)))
