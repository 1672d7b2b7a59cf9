"""A schedule carried out: tasks handed to workers, what they report entered, and the board kept up to date."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from registry.planning.experiment import Experiment, Job
from registry.planning.plan import Plan
from registry.recipes.maker import maker_of
from registry.runner.progress import Board
from registry.runner.schedule import Costs, Schedule, Task
from registry.runner.worker import Report

__all__ = ["Dispatcher", "SetAside"]


@dataclass
class Dispatcher:
    """Deals a plan's tasks out, whatever the workers are.

    Attributes
    ----------
    schedule : Schedule
        What is left, who has what, and what failed.
    """

    schedule: Schedule
    board: Board
    _aside: SetAside = field(init=False)

    def __post_init__(self) -> None:
        self._aside = SetAside(self.board)

    @classmethod
    def of(cls, experiment: Experiment, plan: Plan, board: Board, *, on_gpu: bool) -> Dispatcher:
        """Return the dispatcher of a plan, for workers that have a GPU each or have none."""
        costs = Costs.by_size({name: base.size_b for name, base in experiment.bases.items()})
        at_once = maker_of(experiment.study).at_once(on_gpu=on_gpu)
        return cls(Schedule(plan.todo, costs=costs, at_once=at_once), board)

    def assign(self) -> Iterator[tuple[int, list[Task]]]:
        """Yield every idle worker that there is something for, and its next tasks."""
        for worker in self.schedule.idle:
            if tasks := self.schedule.next(worker, self._aside.is_open):
                self.board.started(worker, _label(tasks))
                yield worker, tasks

    def enter(self, worker: int, report: Report) -> None:
        """Enter what a worker reports."""
        kind, *rest = report
        if kind == "moved":
            self.board.moved(worker, *rest)
            return
        self._enter_result(worker, kind, *rest)
        if not self.schedule.tasks(worker):
            self.board.idle(worker)

    def lose(self, worker: int, why: str) -> None:
        """Enter that a worker is gone, and why."""
        had = self.schedule.tasks(worker)
        again = self.schedule.leave(worker, why)
        for job, step in had:
            if (job, step) in again:
                self.board.note(f"a worker died ({why}); {job} is tried again")
            else:
                self.board.failed(worker, job, "")
        self.board.idle(worker)

    def rest(self) -> None:
        """Sleep until a job may be asked for that another runner does, if no worker has anything to do."""
        aside = self._set_aside()
        if aside and not self.schedule.busy:
            self._aside.rest(aside)

    def note_waiting(self) -> None:
        """Say once that only jobs are left that other runners do, if that is so."""
        aside = self._set_aside()
        if aside and not self.schedule.busy:
            self._aside.note_waiting(aside)

    def _set_aside(self) -> list[Job]:
        return [job for job, _ in self.schedule.left if not self._aside.is_open(job)]

    def _enter_result(self, worker: int, kind: str, job: Job, reason: str = "", trace: str = "") -> None:
        if kind == "done":
            self.schedule.done(worker, job)
            self.board.done(worker, job)
        elif kind == "failed":
            self.schedule.failed(worker, job, reason)
            self.board.failed(worker, job, trace)
        elif kind == "held":
            self._aside.put(job)
            self.schedule.held(worker, job)
        else:
            self.schedule.unmeasured(worker, job)


def _label(tasks: Sequence[Task]) -> str:
    more = f" and {len(tasks) - 1} more" if len(tasks) > 1 else ""
    return f"{tasks[0][0]}{more}"


_FIRST_SECONDS, _MOST_SECONDS = 0.5, 10.0  # asking costs one query of the store


@dataclass
class SetAside:
    """When to ask again for each job that another runner does, and word of it.

    A job stays set aside until the runner that does it has finished, given it back, or is found dead.
    """

    board: Board
    _again: dict[Job, float] = field(default_factory=dict)
    _pauses: dict[Job, float] = field(default_factory=dict)
    _said: bool = False

    def put(self, job: Job) -> None:
        """Leave a job alone, each time for twice as long."""
        pause = self._pauses.get(job, _FIRST_SECONDS)
        self._again[job] = time.monotonic() + pause
        self._pauses[job] = min(2 * pause, _MOST_SECONDS)

    def is_open(self, job: Job) -> bool:
        """Whether a job may be asked for now."""
        return time.monotonic() >= self._again.get(job, 0.0)

    def rest(self, jobs: Iterable[Job]) -> None:
        """Sleep until one of some jobs may be asked for, and say once that there is nothing else to do."""
        self.note_waiting(jobs)
        time.sleep(max(0.0, min(self._again.get(job, 0.0) for job in jobs) - time.monotonic()))
        self.board.refresh()

    def note_waiting(self, jobs: Iterable[Job]) -> None:
        """Say once that only jobs are left that other runners do."""
        if not self._said:
            count = sum(job in self._again for job in jobs)
            self.board.note(
                f"waiting for {count} jobs that other runners on this store do; what they leave is taken over"
            )
            self._said = True
