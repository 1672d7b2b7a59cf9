"""What an adapter's evaluation found, read back from the store for its card."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from mlflow import MlflowClient

from registry.cells import HARM_PP, Cell, Regime, parse_cells, regime_of
from registry.tracking.evaluations import Evaluation, evaluations_of
from registry.tracking.names import Tag, headlines_of

__all__ = ["AdapterResults", "TargetResult", "results_of"]


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
class AdapterResults:
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
        Number of finished evaluations; the card shows the newest.
    headlines
        Task → the accuracy that its score is; empty where the run does not say.
    notes
        Runs that were left out, and those of one fingerprint that contradict each other: then ``targets`` is empty.
    """

    run_id: str
    study: str
    targets: tuple[TargetResult, ...]
    below_chance: frozenset[Cell]
    evaluations: int
    indistinct: Mapping[Cell, float] = field(default_factory=dict)
    headlines: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def results_of(client: MlflowClient, version: str) -> AdapterResults | None:
    """Return what was found for a version, written ``name/number``, or None if no evaluation of it has finished.

    Of evaluations in other experiments than its study's, and of such as contradict the version, nothing is taken.
    """
    name, _, number = version.rpartition("/")
    found = evaluations_of(client, client.get_model_version(name, number))
    if not found.found:
        return AdapterResults("", "", (), frozenset(), 0, notes=found.notes) if found.notes else None
    newest = found.found[-1]
    tags = newest.run.data.tags
    return AdapterResults(
        newest.run.info.run_id,
        tags.get(Tag.STUDY, ""),
        () if found.conflicts else _targets(newest),
        below_chance(tags),
        len(found.found),
        indistinct=parse_cells(tags.get(Tag.INDISTINCT, "")),
        headlines=headlines_of(tags),
        notes=(*map(str, found.conflicts), *found.notes),
    )


def below_chance(tags: Mapping[str, str]) -> frozenset[Cell]:
    """Return the targets that a run flags; what is no target is another tool's."""
    found = set()
    for text in tags.get(Tag.BELOW_CHANCE, "").split():
        with suppress(ValueError):
            found.add(Cell.parse(text))
    return frozenset(found)


def _targets(found: Evaluation) -> tuple[TargetResult, ...]:
    results = [
        TargetResult(target, regime_of(found.source, target), score, found.deltas[target])
        for target, score in found.scores.items()
    ]
    order = list(Regime)
    return tuple(sorted(results, key=lambda result: (order.index(result.regime), result.target)))
