"""Carrying a plan out on this machine: in this process, or in several, each with one thread and one resident base."""

from __future__ import annotations

import math
import os
import signal
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, takewhile
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient

from registry.runner.experiment import Experiment, Job, prepare
from registry.runner.plan import Plan, Step
from registry.runner.progress import Board
from registry.runner.waiting import Held, SetAside
from registry.study import Study
from registry.tracking.runs import Superseded, reap
from registry.tracking.store import open_store

if TYPE_CHECKING:  # brings torch, which a plan with nothing to do has no need of
    from registry.runner.resident import Progress, Resident

__all__ = ["Failure", "default_workers", "run_plan"]

_ATTEMPTS = 2  # a job whose worker died is given to another once
_NO_BASELINE = "its base's baseline failed"


@dataclass(frozen=True, slots=True)
class Failure:
    """A job that could not be done, and why."""

    job: Job
    reason: str


def default_workers(study: Study) -> int:
    """One worker per GPU, else one per CPU core that this process may use; one alone where a base takes every GPU."""
    import torch

    if study.placement == "spread":
        return 1
    return torch.cuda.device_count() or len(os.sched_getaffinity(0))


def run_plan(
    experiment: Experiment, plan: Plan, client: MlflowClient, experiment_id: str, *, workers: int, board: Board
) -> list[Failure]:
    """Do every job of a plan; a job that fails is reported and the others go on.

    Parameters
    ----------
    workers : int
        Processes. With 1 the jobs are done in this process.
    """
    workers = min(workers, len(plan.todo))
    if workers <= 1:
        return _in_process(experiment, plan, client, experiment_id, board)
    return _Pool(experiment, plan, client, experiment_id, board).run(workers)


def _in_process(
    experiment: Experiment, plan: Plan, client: MlflowClient, experiment_id: str, board: Board
) -> list[Failure]:
    resident = _resident(experiment, client, experiment_id, number=0)
    aside = SetAside(board)
    failures: list[Failure] = []
    left = list(plan.todo)
    while left:
        open_ = [task for task in _unblocked(left) if aside.is_open(task[0])]
        if not open_:
            aside.rest([job for job, _ in _unblocked(left)])
            continue
        tasks = _together(open_, open_[0], adapters_at_once(experiment.study))
        left = [task for task in left if task not in tasks]
        if tasks[0][0].model in _without_baseline(failures) and tasks[0][1] is not Step.TRAIN:
            failures += [Failure(job, _NO_BASELINE) for job, _ in tasks]
            continue
        steps = dict(tasks)
        for job, error in _done(resident, tasks, board):
            if isinstance(error, Held | Superseded):
                aside.put(job)
                left.append((job, steps[job]))
            elif error is None:
                board.done(0, job)
            else:
                failures.append(Failure(job, _reason(error)))
                board.failed(0, job, _trace(error))
        board.idle(0)
    return failures


def _unblocked(left: Sequence[tuple[Job, Step]]) -> list[tuple[Job, Step]]:
    """Return tasks whose base's baseline is not among those left, or that need none."""
    without = {job.model for job, step in left if step is Step.BASELINE}
    return [task for task in left if task[1] in (Step.BASELINE, Step.TRAIN) or task[0].model not in without]


def _done(resident: Resident, tasks: list[tuple[Job, Step]], board: Board) -> Iterator[tuple[Job, Exception | None]]:
    board.started(0, _label(tasks))
    return _results(resident, tasks, lambda phase, share: board.moved(0, phase, share))


def _results(
    resident: Resident, tasks: Sequence[tuple[Job, Step]], progress: Progress
) -> Iterator[tuple[Job, Exception | None]]:
    """Do jobs of one base; what goes wrong before any of them can be told apart is the reason of all that are left."""
    left = [job for job, _ in tasks]
    try:
        for job, error in resident.do(tasks, progress):
            left.remove(job)
            yield job, error
    except Exception as error:
        for job in left:
            yield job, error


def adapters_at_once(study: Study) -> int:
    """How many adapters of one base train together: as the study says, else 8 on a GPU and 1 on a CPU.

    Full fine-tunes share nothing, so they are dealt out one by one.
    """
    import torch

    if study.recipe.method == "full":
        return 1
    return study.adapters_at_once or (8 if torch.cuda.is_available() else 1)


def _together(left: Sequence[tuple[Job, Step]], first: tuple[Job, Step], most: int) -> list[tuple[Job, Step]]:
    """Return a task, and what else is trained with it: fine-tunes of the same base and kind that come with it."""
    if first[1] not in (Step.TRAIN, Step.TRAIN_AND_EVALUATE):
        return [first]
    start = left.index(first)
    alike = takewhile(lambda task: task[1] is first[1] and task[0].model == first[0].model, left[start:])
    return list(islice(alike, most))


def _label(tasks: Sequence[tuple[Job, Step]]) -> str:
    more = f" and {len(tasks) - 1} more" if len(tasks) > 1 else ""
    return f"{tasks[0][0]}{more}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _trace(error: Exception) -> str:
    return "".join(traceback.format_exception(error))


def _without_baseline(failures: Iterable[Failure]) -> set[str]:
    return {failure.job.model for failure in failures if failure.job.source is None}


def _resident(experiment: Experiment, client: MlflowClient, experiment_id: str, *, number: int) -> Resident:
    import torch

    from registry.runner.records import Records
    from registry.runner.resident import Resident

    torch.set_num_threads(1)  # the same on every worker, so that results are the same to the last digit
    gpus = torch.cuda.device_count()
    device = f"cuda:{number % gpus}" if gpus else "cpu"
    return Resident(Records(experiment, client, experiment_id, device))


@dataclass
class _Worker:
    """A process and what it is doing."""

    number: int
    process: BaseProcess
    pipe: Connection
    ready: bool = False
    tasks: list[tuple[Job, Step]] = field(default_factory=list)
    model: str | None = None


@dataclass
class _Pool:
    """Deals jobs out to processes, those of the base that a process holds first."""

    experiment: Experiment
    plan: Plan
    client: MlflowClient
    experiment_id: str
    board: Board
    failures: list[Failure] = field(default_factory=list)
    _left: list[tuple[Job, Step]] = field(default_factory=list)
    _attempts: dict[Job, int] = field(default_factory=dict)
    _workers: dict[int, _Worker] = field(default_factory=dict)

    @cached_property
    def _aside(self) -> SetAside:
        return SetAside(self.board)

    @cached_property
    def _at_once(self) -> int:
        return adapters_at_once(self.experiment.study)

    def run(self, count: int) -> list[Failure]:
        """Start ``count`` processes, work the plan off, end them."""
        self._left = list(self.plan.todo)
        try:
            for number in range(count):
                self._start(number)
            while self._left or any(worker.tasks for worker in self._workers.values()):
                self._deal()
                if self._all_idle():
                    if not self._startable():
                        break  # what is left waits for a baseline that failed
                    self._aside.tell(job for job, _ in self._left)
                self._listen()
        finally:
            self._stop()
        self.failures += [Failure(job, _NO_BASELINE) for job, _ in self._left]
        return self.failures

    def _start(self, number: int) -> None:
        context = get_context("spawn")  # a forked torch or SQLite connection would be shared with this process
        ours, theirs = context.Pipe()
        study, uri = self.experiment.study, self.client.tracking_uri
        process = context.Process(target=_work, args=(number, study, uri, self.experiment_id, theirs), daemon=True)
        with _one_thread():
            process.start()
        theirs.close()
        self._workers[number] = _Worker(number, process, ours)

    def _all_idle(self) -> bool:
        return all(worker.ready and not worker.tasks for worker in self._workers.values())

    def _deal(self) -> None:
        for worker in self._workers.values():
            if worker.ready and not worker.tasks and (tasks := self._next(worker.model)):
                for task in tasks:
                    self._left.remove(task)
                worker.tasks, worker.model = tasks, tasks[0][0].model
                worker.pipe.send(tasks)
                self.board.started(worker.number, _label(tasks))

    def _next(self, holding: str | None) -> list[tuple[Job, Step]]:
        """Choose a job whose baseline is there, of the base held, else of the base fewest others work on; and company.

        Towards the end fewer are trained together, so that no worker is left without.
        """
        open_ = [task for task in self._startable() if self._aside.is_open(task[0])]
        if not open_:
            return []
        held = [worker.model for worker in self._workers.values()]
        first = min(
            open_, key=lambda task: (task[1] is not Step.BASELINE, task[0].model != holding, held.count(task[0].model))
        )
        if first[0] in self._attempts:
            return [first]  # whatever ended its worker, the others are kept apart from it
        share = math.ceil(len(open_) / len(self._workers))
        unblemished = [task for task in open_ if task[0] not in self._attempts]
        return _together(unblemished, first, min(self._at_once, share))

    def _startable(self) -> list[tuple[Job, Step]]:
        """Return what is left but for what needs a baseline that is not there."""
        without = {job.model for job, step in self._left if step is Step.BASELINE}
        without |= {job.model for w in self._workers.values() for job, step in w.tasks if step is Step.BASELINE}
        without |= _without_baseline(self.failures)
        return [task for task in self._left if task[1] in (Step.BASELINE, Step.TRAIN) or task[0].model not in without]

    def _listen(self) -> None:
        by_pipe = {worker.pipe: worker for worker in self._workers.values()}
        for pipe in wait(list(by_pipe), timeout=1.0):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                kind, *message = worker.pipe.recv()
            except (EOFError, ConnectionResetError):
                self._died(worker)
                continue
            self._heard(worker, kind, message)
        self.board.refresh()

    def _heard(self, worker: _Worker, kind: str, message: list[Any]) -> None:
        if kind == "ready":
            worker.ready = True
        elif kind == "moved":
            self.board.moved(worker.number, *message)
        else:
            job, *rest = message
            step = dict(worker.tasks)[job]
            worker.tasks.remove((job, step))
            if kind == "held":
                self._aside.put(job)
                self._left.append((job, step))
            elif kind == "done":
                self.board.done(worker.number, job)
            else:
                self.failures.append(Failure(job, rest[0]))
                self.board.failed(worker.number, job, rest[1])
            if not worker.tasks:
                self.board.idle(worker.number)

    def _died(self, worker: _Worker) -> None:
        """Put a dead worker's jobs back and start another in its place."""
        worker.process.join()
        reap(self.client, self.experiment_id, elsewhere=False)
        code = worker.process.exitcode
        if not worker.ready:
            raise RuntimeError(f"a worker ended with exit code {code} before its first job; see its message above")
        self.board.idle(worker.number)
        for task in reversed(worker.tasks):
            attempts = self._attempts[task[0]] = self._attempts.get(task[0], 1) + 1
            if attempts > _ATTEMPTS:
                self.failures.append(Failure(task[0], f"its worker died {_ATTEMPTS} times, last with exit code {code}"))
                self.board.failed(worker.number, task[0], "")
            else:
                self.board.note(f"a worker died (exit code {code}); {task[0]} is tried again")
                self._left.insert(0, task)
        self._start(worker.number)

    def _stop(self) -> None:
        """Ask workers to end. An idle one ends at once; a busy one marks its run KILLED first."""
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in self._workers.values():
            worker.process.join(timeout=20)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        # a run that was only just being opened, or whose worker was killed
        reap(self.client, self.experiment_id, elsewhere=False)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Have processes started inside use one thread each: two on busy cores can be ten times slower."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TOKENIZERS_PARALLELISM")
    former = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names[:3], "1"), TOKENIZERS_PARALLELISM="false")
    try:
        yield
    finally:
        for name, value in former.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _work(number: int, study: Study, uri: str, experiment_id: str, pipe: Connection) -> None:
    """What a worker process does: prepare, then one task after another until it is told to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, _exit)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    resident = _resident(prepare(study), open_store(uri), experiment_id, number=number)
    pipe.send(("ready",))
    while True:
        for job, error in _results(resident, pipe.recv(), lambda phase, share: pipe.send(("moved", phase, share))):
            pipe.send(_report(job, error))


def _report(job: Job, error: Exception | None) -> tuple[object, ...]:
    if error is None:
        return "done", job
    if isinstance(error, Held | Superseded):
        return "held", job
    return "failed", job, _reason(error), _trace(error)


def _exit(*_: object) -> None:
    # A signal to the whole group comes again from the parent, and must not break the end of the run off.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(143)


def _end_with_parent() -> None:
    """End this process when its parent is gone: killed with -9, it could not say so."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
