"""A study that was recorded on this machine, simulated with the seconds that each of its phases took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import log
from statistics import fmean, median, pstdev

from mlflow import MlflowClient
from mlflow.entities import Run

from registry.cells import Cell
from registry.planning.experiment import Job, Need
from registry.planning.plan import Step
from registry.runner.schedule import Costs, Schedule, Task
from registry.sources import Source
from registry.tracking.names import Kind, Tag
from registry.tracking.store import all_runs
from tests.bench.simulated import Outcome, Seconds, Simulation

__all__ = ["Replay", "replay"]

_Key = tuple[str, Cell | None, int | None]


@dataclass(frozen=True)
class _Recorded(Seconds):
    """Seconds that each job's phases took, as its runs have them."""

    trained: Mapping[_Key, float] = field(default_factory=dict)
    scored: Mapping[_Key, float] = field(default_factory=dict)

    def training(self, job: Job) -> float:
        return self.trained[_key(job)]

    def scoring(self, job: Job) -> float:
        return self.scored[_key(job)]


@dataclass(frozen=True)
class Replay:
    """A recorded study, ready to be simulated.

    Attributes
    ----------
    workers
        Processes that recorded it.
    span
        Seconds from the start of its first run to the end of its last.
    """

    todo: Sequence[Task]
    seconds: _Recorded
    sizes: Mapping[str, float]
    workers: int
    span: float

    def simulated(self, workers: int, *, at_once: int = 1) -> Outcome:
        """Let the schedule do the same work again, on so many workers."""
        schedule = Schedule(self.todo, costs=Costs.by_size(self.sizes), at_once=at_once)
        return Simulation(schedule, self.seconds, workers).run()

    @property
    def spread(self) -> float:
        """Standard deviation of a phase's logarithm within its base."""
        residuals: list[float] = []
        for phase in (self.seconds.trained, self.seconds.scored):
            for base in self.sizes:
                logs = [log(seconds) for key, seconds in phase.items() if key[0] == base]
                residuals += [value - fmean(logs) for value in logs]
        return pstdev(residuals)


def replay(client: MlflowClient, experiment_id: str) -> Replay | None:
    """Read what the phases of a study took; None where it was not recorded whole, by one command on this machine."""
    runs = {kind: _runs(client, experiment_id, kind) for kind in (Kind.BASELINE, Kind.FINETUNE, Kind.EVALUATE)}
    studies = all_runs(client, [experiment_id], f"tags.{Tag.KIND} = '{Kind.STUDY}'")
    if len(studies) != 1 or not runs[Kind.EVALUATE] or runs[Kind.FINETUNE].keys() != runs[Kind.EVALUATE].keys():
        return None
    every = [run for of_kind in runs.values() for run in of_kind.values()]
    scored = runs[Kind.BASELINE] | runs[Kind.EVALUATE]
    seconds = _Recorded(
        load=_loading(every),
        train={},
        score={},
        record=fmean(_recording(run) for run in every),
        trained={key: _worked(run, "train", "validation") for key, run in runs[Kind.FINETUNE].items()},
        scored={key: run.data.metrics["seconds/score"] for key, run in scored.items()},
    )
    todo = [(_job(key), _step(key)) for key in sorted(scored, key=str)]
    began, ended = min(run.info.start_time for run in every), max(run.info.end_time for run in every)
    return Replay(
        todo,
        seconds,
        {run.data.tags[Tag.BASE_MODEL]: float(run.data.tags[Tag.MODEL_SIZE_B]) for run in every},
        len({run.data.tags[Tag.WORKER] for run in every}),
        (ended - began) / 1000,
    )


def _runs(client: MlflowClient, experiment_id: str, kind: Kind) -> dict[_Key, Run]:
    found = all_runs(client, [experiment_id], f"tags.{Tag.KIND} = '{kind}' AND attributes.status = 'FINISHED'")
    return {_of(run): run for run in found}


def _of(run: Run) -> _Key:
    tags = run.data.tags
    if Tag.SEED not in tags:
        return tags[Tag.BASE_MODEL], None, None
    return tags[Tag.BASE_MODEL], Cell(tags[Tag.SOURCE_TASK], tags[Tag.SOURCE_LANGUAGE]), int(tags[Tag.SEED])


def _key(job: Job) -> _Key:
    return job.model, job.source.cell if job.source else None, job.seed


def _job(key: _Key) -> Job:
    model, source, seed = key
    baseline = f"score {(model, None, None)}"
    if source is None:
        return Job(model, None, None, None, baseline)
    return Job(model, Source.of_cell(source), seed, f"train {key}", f"score {key}", (Need(baseline),))


def _step(key: _Key) -> Step:
    return Step.BASELINE if key[1] is None else Step.TRAIN_AND_EVALUATE


def _recording(run: Run) -> float:
    """Seconds of a run that are neither training nor scoring."""
    return (run.info.end_time - run.info.start_time) / 1000 - _worked(run, "train", "validation", "score")


def _worked(run: Run, *phases: str) -> float:
    return sum(run.data.metrics.get(f"seconds/{phase}", 0.0) for phase in phases)


def _loading(runs: Iterable[Run]) -> dict[str, float]:
    """Seconds between a worker's last run of one base and its first of the next; 0 where none changed its base."""
    by_worker: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.info.start_time):
        by_worker.setdefault(run.data.tags[Tag.WORKER], []).append(run)
    gaps: dict[str, list[float]] = {}
    for own in by_worker.values():
        for before, after in pairwise(own):
            base = after.data.tags[Tag.BASE_MODEL]
            changed = base != before.data.tags[Tag.BASE_MODEL]
            gaps.setdefault(base, []).extend([(after.info.start_time - before.info.end_time) / 1000] if changed else [])
    return {base: median(found) if found else 0.0 for base, found in gaps.items()}
