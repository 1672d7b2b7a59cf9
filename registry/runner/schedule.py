"""Who does what next: the tasks that an idle worker is given, decided without processes, clocks and stores.

Every runner asks here, on this machine and on a cluster, and so does the simulation of a study on many GPUs.

1. A worker keeps the base that it holds while there is work on it. Then it goes to the base that nobody holds with
   the most left to do, or else to the one with the longest tasks that would not be finished in time, if loading it
   there pays: if the last task of that base would begin later without this worker.
2. What other jobs need goes first, such as a base's baseline. While it is scored elsewhere, adapters of that base are
   trained and scored already, and only wait to be measured against it; what is trained already, and only lacks its
   scores, waits for the baseline. A job whose parents are not made yet waits for them.
3. Adapters of one base are trained several at once; towards the end fewer, so that no worker sits idle while another
   has many.
4. A job whose worker died is given to another once, and alone: whatever ended its worker, the others are kept apart.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile

from registry.planning.experiment import Job, Need
from registry.planning.plan import Step

__all__ = ["Costs", "Failure", "Schedule", "Task"]

#: A job, and what of it is left to do.
Task = tuple[Job, Step]

_ATTEMPTS = 2  # a job whose worker died is given to another once
_IN_TIME = 1.1  # of the time that evenly shared work takes: no packing is perfect
_PART = 2  # a group is at most a worker's fair share of what is left, divided by this


@dataclass(frozen=True, slots=True)
class Failure:
    """A job that could not be done, and why."""

    job: Job
    reason: str


@dataclass(frozen=True, slots=True)
class Costs:
    """What it takes to load a base, to train one adapter on it and to score one, in any unit that all share.

    Only proportions matter: they decide who helps whom, never what comes out.
    """

    load: Mapping[str, float]
    train: Mapping[str, float]
    score: Mapping[str, float]

    @classmethod
    def by_size(cls, sizes: Mapping[str, float]) -> Costs:
        """Guess from the bases' sizes: scoring is most of the work, a tenth of it is training, and loading is as much.

        Loading takes some time for the smallest base too: half of what the largest one takes.
        """
        least = max(sizes.values(), default=0.0) / 20
        train = {name: size / 10 for name, size in sizes.items()}
        return cls(load={name: least + size / 20 for name, size in sizes.items()}, train=train, score=dict(sizes))

    def of(self, task: Task) -> float:
        """Cost of a task on a worker that holds its base."""
        job, step = task
        train = self.train[job.model] if step.trains else 0.0
        return train + (self.score[job.model] if step.scores else 0.0)


@dataclass
class _WorkerState:
    """What a worker is doing, and the base it holds."""

    tasks: list[Task] = field(default_factory=list)
    base: str | None = None


class Schedule:
    """Tasks not yet done, and which worker has which.

    A task is always in exactly one place: waiting, with a worker, done, or failed.

    Parameters
    ----------
    at_once : int
        Adapters that are trained together at most.

    Attributes
    ----------
    failures : list of Failure
        What could not be done, in the order in which it showed.
    """

    def __init__(self, todo: Iterable[Task], *, costs: Costs, at_once: int = 1) -> None:
        self.failures: list[Failure] = []
        self._costs, self._at_once = costs, at_once
        self._left: dict[str, list[Task]] = {}
        for task in todo:
            self._left.setdefault(task[0].model, []).append(task)
        self._workers: dict[int, _WorkerState] = {}
        self._holders: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()  # tasks done
        self._waiting = {made: task for left in self._left.values() for task in left for made in _makes(task)}
        self._running: Counter[str] = Counter()  # fingerprints of runs that workers are making
        self._needed = {need.fingerprint for left in self._left.values() for task in left for need in _needs(task)}
        self._attempts: dict[Job, int] = {}
        self._unmeasured: set[Job] = set()
        self._failed: dict[str, Job] = {}  # by fingerprint, the job that should have made the run

    @property
    def left(self) -> list[Task]:
        """Tasks that no worker has."""
        return [task for waiting in self._left.values() for task in waiting]

    @property
    def unfinished(self) -> int:
        """How many tasks are neither done nor failed."""
        return sum(map(len, self._left.values())) + sum(len(worker.tasks) for worker in self._workers.values())

    @property
    def idle(self) -> list[int]:
        """Workers without a task."""
        return [number for number, worker in self._workers.items() if not worker.tasks]

    @property
    def busy(self) -> bool:
        """Whether any worker has a task."""
        return any(worker.tasks for worker in self._workers.values())

    def tasks(self, worker: int) -> Sequence[Task]:
        """What a worker has."""
        return tuple(self._workers[worker].tasks)

    def join(self, worker: int) -> None:
        """A worker is ready, and holds no base yet."""
        self._workers[worker] = _WorkerState()

    def next(self, worker: int, is_open: Callable[[Job], bool] = lambda job: True) -> list[Task]:
        """Give an idle worker its next tasks, all of one base; none if there is nothing for it now.

        Parameters
        ----------
        is_open : callable
            Whether a job may be asked for; False while another runner is known to do it.
        """
        state = self._workers[worker]
        if state.tasks:
            raise ValueError(f"worker {worker} has tasks already")
        open_ = {base: found for base, left in self._left.items() if left and (found := self._startable(base, is_open))}
        base = state.base if state.base in open_ else self._urgent(open_)
        if base is None:
            return []
        if base != state.base:
            self._holders[base] += 1
            if state.base is not None:
                self._holders[state.base] -= 1
            state.base = base
        tasks = self._group(open_[base], self._share(open_[base]))
        self._left[base] = [task for task in self._left[base] if task not in tasks]
        for task in tasks:
            for made in _makes(task):
                del self._waiting[made]
                self._running[made] += 1
        state.tasks = list(tasks)
        return tasks

    def done(self, worker: int, job: Job) -> None:
        """A worker did a job, or found it done."""
        self._take(worker, job)
        self._ended[job.model] += 1

    def held(self, worker: int, job: Job) -> None:
        """Another runner does a job; it is asked for again later."""
        self._put_back(self._take(worker, job))

    def unmeasured(self, worker: int, job: Job) -> None:
        """A worker scored an adapter whose baseline did not come: it waits for the baseline, if one will come."""
        _, step = self._take(worker, job)
        coming = any(need.fingerprint in self._waiting or self._running[need.fingerprint] for need in job.needs)
        if coming or job not in self._unmeasured:  # the baseline may have come since the worker looked
            self._unmeasured.add(job)
            self._put_back((job, Step.EVALUATE if step is Step.TRAIN_AND_EVALUATE else step))
        else:
            self.failures.append(Failure(job, "there is no finished baseline of its base to measure it against"))

    def failed(self, worker: int, job: Job, reason: str) -> None:
        """A worker could not do a job, and so none that needs it: without a baseline no adapter can be measured."""
        self._fail(self._take(worker, job), reason)

    def leave(self, worker: int, why: str) -> list[Task]:
        """A worker is gone, by ``why``. Return what of its tasks is tried again; the rest has failed."""
        again, state = [], self._workers.pop(worker)
        if state.base is not None:
            self._holders[state.base] -= 1
        for task in reversed(state.tasks):
            self._running.subtract(_makes(task))
            attempts = self._attempts[task[0]] = self._attempts.get(task[0], 1) + 1
            if attempts > _ATTEMPTS:
                self._fail(task, f"its worker died {_ATTEMPTS} times, last {why}")
            else:
                again.append(task)
                self._put_back(task, first=True)
        return again[::-1]

    def _take(self, worker: int, job: Job) -> Task:
        tasks = self._workers[worker].tasks
        task = next(task for task in tasks if task[0] == job)
        tasks.remove(task)
        self._running.subtract(_makes(task))
        return task

    def _put_back(self, task: Task, *, first: bool = False) -> None:
        if (lacking := self._lacking(task)) is not None:
            self._fail(task, lacking)
            return
        waiting = self._left.setdefault(task[0].model, [])
        waiting.insert(0 if first else len(waiting), task)
        self._waiting |= dict.fromkeys(_makes(task), task)

    def _fail(self, task: Task, reason: str) -> None:
        """Enter a failure, and that of every waiting task that needs what is not made now."""
        self.failures.append(Failure(task[0], reason))
        self._failed |= dict.fromkeys(_makes(task), task[0])
        for left in self._left.values():
            while (other := next((one for one in left if self._lacking(one)), None)) is not None:
                left.remove(other)
                for made in _makes(other):
                    del self._waiting[made]
                self._fail(other, self._lacking(other) or "")

    def _lacking(self, task: Task) -> str | None:
        """Say which job failed that a task needs; None if none did."""
        failed = [self._failed[need.fingerprint] for need in _needs(task) if need.fingerprint in self._failed]
        return f"{failed[0]} failed, which it needs" if failed else None

    def _startable(self, base: str, is_open: Callable[[Job], bool]) -> list[Task]:
        """Return the tasks of a base that may begin now, those first that others need."""
        found = [task for task in self._left[base] if is_open(task[0]) and self._may_begin(task, is_open)]
        return sorted(found, key=lambda task: self._needed.isdisjoint(_makes(task)))

    def _may_begin(self, task: Task, is_open: Callable[[Job], bool]) -> bool:
        """Whether what a task needs is there, or made elsewhere while the task has work of its own to begin with."""
        for need in _needs(task):
            maker = self._waiting.get(need.fingerprint)
            if maker is not None and is_open(maker[0]):
                return False  # it goes first
            if maker is None and not self._running[need.fingerprint]:
                continue  # it is there
            if need.for_making or not task[1].trains:
                return False
        return True

    def _urgent(self, open_: Mapping[str, Sequence[Task]]) -> str | None:
        """Return the base that a worker without a task of its own base should load, None where no load pays.

        Bases that nobody holds come first. Of the others, the one with the longest tasks that its holders would not
        finish in time: short tasks fill the gaps at the end. In time is what the shared work of all would take.
        """
        untouched = [base for base in open_ if not self._holders[base]]
        if untouched:
            return max(untouched, key=lambda base: self._work(self._left[base]))
        ends = {base: self._end(base, tasks) for base, tasks in open_.items() if self._pays(base, tasks)}
        in_time = self._in_time() if ends else 0.0
        late = [base for base, end in ends.items() if end > in_time]
        return max(late or ends, key=lambda base: self._longest(open_[base]), default=None)

    def _pays(self, base: str, open_: Sequence[Task]) -> bool:
        """Whether a worker that loads a base first begins its last task before those who hold it would.

        They end one after another, but for their first tasks, which all began at once.
        """
        pause = self._work(self._left[base]) / self._holders[base] if self._ended[base] else self._longest(open_)
        return pause > self._costs.load[base]

    def _end(self, base: str, open_: Sequence[Task]) -> float:
        """When a base would be finished with one holder more, had all just begun with what they have."""
        return self._costs.load[base] + self._longest(open_) * (1 + math.ceil(len(open_) / self._holders[base]))

    def _in_time(self) -> float:
        """When all would be finished if the work could be shared evenly, though not before the longest task."""
        every = [*self.left, *(task for worker in self._workers.values() for task in worker.tasks)]
        alone = max(self._costs.load[task[0].model] + self._costs.of(task) for task in every)
        return _IN_TIME * max(self._work(every) / len(self._workers), alone)

    def _longest(self, tasks: Sequence[Task]) -> float:
        return max(map(self._costs.of, tasks))

    def _work(self, tasks: Iterable[Task]) -> float:
        return sum(map(self._costs.of, tasks))

    def _share(self, open_: Sequence[Task]) -> int:
        """How many of a base's tasks a worker should take at once, at most."""
        if len(self._workers) == 1:
            return self._at_once
        each = self._longest(open_)
        fair = int(self._work(self.left) / len(self._workers) / _PART / each) if each else self._at_once
        among = math.ceil(len(open_) / self._holders[open_[0][0].model])
        return max(1, min(self._at_once, fair, among))

    def _group(self, open_: Sequence[Task], most: int) -> list[Task]:
        """Return the first of some tasks, and what is trained with it: fine-tunes of its kind that come with it."""
        first = open_[0]
        if not first[1].trains or first[0] in self._attempts:
            return [first]
        return list(islice(takewhile(lambda task: self._joins(first, task), open_), most))

    def _joins(self, first: Task, task: Task) -> bool:
        return task[1] is first[1] and task[0] not in self._attempts


def _makes(task: Task) -> list[str]:
    """Return the fingerprints of the runs that a task makes."""
    job, step = task
    return [*([job.finetune] if step.trains and job.finetune else []), *([job.evaluate] if step.scores else [])]


def _needs(task: Task) -> list[Need]:
    """Return the needs of what is left of a job: what is made already needs no parents, and to train no baseline."""
    job, step = task
    return [need for need in job.needs if (step.trains if need.for_making else step.scores)]
