"""A study by its names alone: what can be said of it while its bases and items are not at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from registry.benchmarks.kinds import load_benchmark
from registry.cells import Cell, Grid
from registry.config.study import Study
from registry.models.base import base_folder
from registry.planning.experiment import source_cell
from registry.planning.plan import look_up
from registry.tracking.names import Kind, Tag

__all__ = ["NOTHING", "Left", "Outline", "needs_hub", "outline"]

#: What a recorded run names: its base, source cell and seed.
Names = tuple[str, str | None, int | None]


@dataclass(frozen=True, slots=True)
class Left:
    """How many runs something has left to do."""

    baselines: int
    fine_tunes: int
    adapter_evaluations: int

    @property
    def evaluations(self) -> int:
        """Scorings, of adapters and untouched bases."""
        return self.baselines + self.adapter_evaluations

    def __add__(self, other: Left) -> Left:
        return Left(
            self.baselines + other.baselines,
            self.fine_tunes + other.fine_tunes,
            self.adapter_evaluations + other.adapter_evaluations,
        )


NOTHING = Left(0, 0, 0)


@dataclass(frozen=True)
class Outline:
    """A study whose names were checked, and what the store has under them.

    What is recorded is known by names, not by fingerprints: whether it still holds is seen when bases and items are.

    Attributes
    ----------
    grid, sources
        The target cells and the cells trained on.
    recorded : mapping of Kind to set of (base, source, seed)
        Finished runs under the study's name.
    """

    study: Study
    grid: Grid
    sources: tuple[Cell, ...]
    recorded: Mapping[Kind, frozenset[Names]] = field(default_factory=dict)

    def left(self, model: str) -> Left:
        """Return what is left to do on one base."""
        wanted = {(model, str(source), seed) for source in self.sources for seed in self.study.seeds}
        evaluated = self.recorded.get(Kind.EVALUATE, frozenset())
        open_ = wanted - evaluated
        trained = self.recorded.get(Kind.FINETUNE, frozenset())
        measured = (model, None, None) in self.recorded.get(Kind.BASELINE, frozenset())
        return Left(int(not measured), len(open_ - trained), len(open_))

    @property
    def left_in_all(self) -> Left:
        """What is left to do on all bases."""
        return sum((self.left(spec.name) for spec in self.study.models), NOTHING)

    @property
    def recorded_count(self) -> dict[Kind, int]:
        """How many runs of each kind the store has under this study's name."""
        return {kind: len(names) for kind, names in self.recorded.items()}


def needs_hub(study: Study) -> bool:
    """Whether a study's items or any of its bases come from the hub."""
    items = study.benchmark.kind == "hub" and not study.benchmark.path
    return items or any(base_folder(spec) is None for spec in study.models)


def outline(study: Study, *, strict: bool = True) -> Outline:
    """Check a study's names and look up what is recorded under them; nothing is downloaded, made or written.

    For ``strict`` see :func:`registry.planning.plan.on_record`.

    Raises
    ------
    Refused
        If a task, language, source or model does not exist.
    """
    for spec in study.models:
        base_folder(spec)
    grid = load_benchmark(study.benchmark).select(study.tasks, study.languages)
    sources = tuple(source_cell(name, grid) for name in study.sources) or grid.cells
    found = look_up(study.name, strict=strict)
    recorded = {kind: frozenset(_names(run.data.tags) for run in runs.values()) for kind, runs in found.items()}
    return Outline(study, grid, sources, recorded)


def _names(tags: Mapping[str, str]) -> Names:
    task, seed = tags.get(Tag.SOURCE_TASK), tags.get(Tag.SEED)
    source = None if task is None else f"{task}/{tags.get(Tag.SOURCE_LANGUAGE)}"
    # A seed that is no number is of another tool's run; no job of a study is named so.
    return tags.get(Tag.BASE_MODEL, ""), source, int(seed) if seed and seed.lstrip("-").isdecimal() else None
