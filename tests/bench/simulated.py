"""A study on many workers, simulated: the schedule is the one that runners use, only the seconds are made up.

No process is started and nothing is computed: an event is the end of a phase, and the clock jumps from one to the next.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linprog

from registry.planning.experiment import Job
from registry.planning.plan import Step
from registry.runner.schedule import Schedule, Task

__all__ = ["Outcome", "Seconds", "Simulation", "even_share", "lower_bound"]

_WAYS = 3000  # of filling a worker's time; with more, they fill it so well that nothing is to be learnt from them


@dataclass(frozen=True)
class Seconds:
    """What each phase takes, by base.

    Attributes
    ----------
    load
        Base and questions, on a worker that held another base or none.
    train, score
        One adapter. A group trains for the sum of its adapters: nothing is assumed gained by training them together.
    record
        One run.
    """

    load: Mapping[str, float]
    train: Mapping[str, float]
    score: Mapping[str, float]
    record: float

    def of(self, task: Task) -> float:
        """What a task takes on a worker that holds its base."""
        job, step = task
        train = self.training(job) + self.record if step in (Step.TRAIN, Step.TRAIN_AND_EVALUATE) else 0.0
        return train + (0.0 if step is Step.TRAIN else self.scoring(job) + self.record)

    def training(self, job: Job) -> float:
        """What it takes to train a job's adapter."""
        return self.train[job.model]

    def scoring(self, job: Job) -> float:
        """What it takes to score a job's adapter, or its base."""
        return self.score[job.model]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a simulated study.

    Attributes
    ----------
    makespan
        Seconds from the first to the last event.
    busy
        Seconds of computing and recording, of all workers together.
    loading
        Seconds of loading, of all workers together.
    loads
        How often a base was loaded.
    waiting
        Seconds that finished scorings waited for their baseline.
    longest
        Seconds of the longest task as it came out, and its base's loading as expected.
    done
        Jobs in the order in which they ended.
    """

    makespan: float
    busy: float
    loading: float
    loads: int
    waiting: float
    longest: float
    done: Sequence[Job]


@dataclass
class Simulation:
    """One study on workers that all begin at second 0.

    Parameters
    ----------
    spread
        Standard deviation of a phase's logarithm: no two phases of a kind take equally long.
    deaths
        Chance that a worker dies at the end of a phase; another takes its place at once.
    """

    schedule: Schedule
    seconds: Seconds
    workers: int
    spread: float = 0.0
    deaths: float = 0.0
    seed: int = 0
    _now: float = 0.0
    _events: list[tuple[float, int, int]] = field(default_factory=list)
    _at_work: dict[int, Iterator[float]] = field(default_factory=dict)
    _held: dict[int, str] = field(default_factory=dict)
    _measured: set[str] = field(default_factory=set)
    _waiting: dict[str, list[int]] = field(default_factory=dict)
    _done: list[Job] = field(default_factory=list)
    _taken: dict[Job, float] = field(default_factory=dict)
    _sums: dict[str, float] = field(default_factory=lambda: {"busy": 0.0, "loading": 0.0, "loads": 0, "waiting": 0.0})

    def __post_init__(self) -> None:
        self._chance, self._order = random.Random(self.seed), itertools.count()
        self._names = itertools.count(self.workers)
        todo = self.schedule.left
        self._measured |= {job.model for job, _ in todo} - {job.model for job, step in todo if step is Step.BASELINE}

    def run(self) -> Outcome:
        """Let the study run to its end.

        Raises
        ------
        RuntimeError
            If tasks are left that no one will ever do.
        """
        for worker in range(self.workers):
            self.schedule.join(worker)
        self._deal()
        while self._events:
            self._now, _, worker = heapq.heappop(self._events)
            if self.deaths and self._chance.random() < self.deaths:
                self._die(worker)
            else:
                self._advance(worker)
        if self.schedule.unfinished:
            raise RuntimeError(f"after {self._now:.0f} s nothing moves, and {self.schedule.unfinished} tasks are left")
        sums = self._sums
        return Outcome(
            self._now, sums["busy"], sums["loading"], int(sums["loads"]), sums["waiting"], self._longest, self._done
        )

    def _deal(self) -> None:
        for worker in self.schedule.idle:
            if tasks := self.schedule.next(worker):
                self._at_work[worker] = self._work(worker, tasks)
                self._advance(worker)

    def _advance(self, worker: int) -> None:
        before = self.schedule.unfinished
        pause = next(self._at_work[worker], None)
        if pause is None:
            self._deal()
        elif pause >= 0:
            heapq.heappush(self._events, (self._now + pause, next(self._order), worker))
        if self.schedule.unfinished < before:
            self._deal()

    def _die(self, worker: int) -> None:
        tasks = self.schedule.tasks(worker)
        del self._at_work[worker]
        self._held.pop(worker, None)
        self.schedule.leave(worker, "by chance")
        for job, step in tasks:
            if step is Step.BASELINE:
                self._wake(job.model)
        self.schedule.join(next(self._names))
        self._deal()

    def _work(self, worker: int, tasks: Sequence[Task]) -> Iterator[float]:
        """Yield the seconds of each phase of a group; a negative number waits to be woken."""
        base = tasks[0][0].model
        if self._held.get(worker) != base:
            self._held[worker] = base
            yield self._phase("loading", self.seconds.load[base])
            self._sums["loads"] += 1
        fresh = [task for task in tasks if task[1] in (Step.TRAIN, Step.TRAIN_AND_EVALUATE)]
        if fresh:
            yield sum(self._phase("busy", self.seconds.training(job), job) for job, _ in fresh)
        for job, step in tasks:
            if step is not Step.BASELINE and step is not Step.EVALUATE:
                yield self._phase("busy", self.seconds.record, job)
            if step is not Step.TRAIN:
                yield from self._scored(worker, job, step)
            else:
                self._finish(worker, job)

    def _scored(self, worker: int, job: Job, step: Step) -> Iterator[float]:
        yield self._phase("busy", self.seconds.scoring(job), job)
        if step is Step.BASELINE:
            yield self._phase("busy", self.seconds.record, job)
            self._measured.add(job.model)
            self._finish(worker, job)
            self._wake(job.model)
            return
        began = self._now
        if job.model not in self._measured and self._baseline_runs(job.model):
            self._waiting.setdefault(job.model, []).append(worker)
            yield -1.0
            self._sums["waiting"] += self._now - began
        if job.model not in self._measured:
            self.schedule.unmeasured(worker, job)
            return
        yield self._phase("busy", self.seconds.record, job)
        self._finish(worker, job)

    def _baseline_runs(self, base: str) -> bool:
        given = (task for worker in self._at_work for task in self.schedule.tasks(worker))
        return any(step is Step.BASELINE and job.model == base for job, step in given)

    def _wake(self, base: str) -> None:
        for worker in self._waiting.pop(base, []):
            heapq.heappush(self._events, (self._now, next(self._order), worker))

    def _finish(self, worker: int, job: Job) -> None:
        self._done.append(job)
        self.schedule.done(worker, job)

    def _phase(self, kind: str, seconds: float, job: Job | None = None) -> float:
        taken = seconds * (self._chance.lognormvariate(0.0, self.spread) if self.spread else 1.0)
        self._sums[kind] += taken
        if job is not None:
            self._taken[job] = self._taken.get(job, 0.0) + taken
        return taken

    @property
    def _longest(self) -> float:
        return max(self.seconds.load[job.model] + taken for job, taken in self._taken.items())


def lower_bound(todo: Sequence[Task], seconds: Seconds, workers: int) -> float:
    """Seconds below which no order of work can end, whatever it knows beforehand: the largest of three.

    The longest chain: a base loaded, and the longest task of it done. The shared work: every task, each base loaded
    once and the shortest load for every further worker, shared evenly. And where few tasks fit into a worker's time,
    how they fit: the least time in which ways to fill a worker, taken in parts if need be, hold all tasks (the linear
    programme of cutting stock).
    """
    chain = max(seconds.load[task[0].model] + seconds.of(task) for task in todo)
    low = max(chain, even_share(todo, seconds, workers, sum(map(seconds.of, todo))))
    high = 2 * low
    while high - low > 1e-3 * low:
        middle = (low + high) / 2
        if _workers_needed(todo, seconds, middle) > workers:
            low = middle
        else:
            high = middle
    return low


def even_share(todo: Sequence[Task], seconds: Seconds, workers: int, work: float) -> float:
    """Seconds that work and the least loading take if shared evenly: each base once, and one load for each worker."""
    used, loads = min(workers, len(todo)), [seconds.load[base] for base in {job.model for job, _ in todo}]
    return (work + sum(loads) + max(0, used - len(loads)) * min(loads)) / used


def _workers_needed(todo: Sequence[Task], seconds: Seconds, span: float) -> float:
    """Return how many workers, in parts, hold the commonest tasks of every base; 0 where there are too many ways."""
    common = Counter((job.model, seconds.of((job, step))) for job, step in todo)
    kinds = {base: (cost, count) for (base, cost), count in sorted(common.items(), key=lambda item: item[1])}
    kinds = dict(sorted(kinds.items(), key=lambda item: -item[1][0]))  # long tasks first: fewer ways
    shapes = [(seconds.load[base], cost) for base, (cost, _) in kinds.items()]
    ways = list(itertools.islice(_fillings(shapes, span), _WAYS + 1))
    if len(ways) > _WAYS:
        return 0.0
    counts = [count for _, count in kinds.values()]
    found = linprog(np.ones(len(ways)), A_ub=-np.array(ways, dtype=float).T, b_ub=-np.array(counts, dtype=float))
    return float(found.fun) if found.status == 0 else math.inf


def _fillings(shapes: Sequence[tuple[float, float]], room: float) -> Iterator[tuple[int, ...]]:
    """Yield the ways to fill a worker's time: tasks of each base, after loading it; of the last as many as fit."""
    if not shapes:
        yield ()
        return
    (load, cost), others = shapes[0], shapes[1:]
    most = max(0, int((room - load) // cost))
    for count in range(most, -1 if others else most - 1, -1):
        for rest in _fillings(others, room - (load + count * cost if count else 0.0)):
            yield (count, *rest)
