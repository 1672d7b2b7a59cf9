"""Carrying a plan out on this machine: in this process, or in several, each with one thread and one resident base."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from mlflow import MlflowClient

from registry.runner.experiment import Experiment, Job, prepare
from registry.runner.plan import Plan, Step
from registry.runner.progress import Board
from registry.study import Study
from registry.tracking.runs import reap
from registry.tracking.store import open_store

__all__ = ["Failure", "default_workers", "run_plan"]

_ATTEMPTS = 2  # a job whose worker died is given to another once
_NO_BASELINE = "its base's baseline failed"


@dataclass(frozen=True, slots=True)
class Failure:
    """A job that could not be done, and why."""

    job: Job
    reason: str


def default_workers() -> int:
    """One worker per GPU, else one per CPU core that this process may use."""
    import torch

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
    failures: list[Failure] = []
    for job, step in plan.todo:
        if step is not Step.TRAIN and job.model in _without_baseline(failures):
            failures.append(Failure(job, _NO_BASELINE))
            continue
        board.started(0, job)
        try:
            resident.do(job, step, lambda phase, share, job=job: board.moved(0, phase, share))
        except Exception as error:
            failures.append(Failure(job, f"{type(error).__name__}: {error}"))
            board.failed(0, job, traceback.format_exc())
        else:
            board.done(0, job)
    return failures


def _without_baseline(failures: Iterable[Failure]) -> set[str]:
    return {failure.job.model for failure in failures if failure.job.source is None}


def _resident(experiment: Experiment, client: MlflowClient, experiment_id: str, *, number: int) -> Any:
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
    task: tuple[Job, Step] | None = None
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

    def run(self, count: int) -> list[Failure]:
        """Start ``count`` processes, work the plan off, end them."""
        self._left = list(self.plan.todo)
        try:
            for number in range(count):
                self._start(number)
            while self._left or any(worker.task for worker in self._workers.values()):
                self._deal()
                if not any(worker.task for worker in self._workers.values()) and all(
                    worker.ready for worker in self._workers.values()
                ):
                    break  # what is left waits for a baseline that failed
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

    def _deal(self) -> None:
        for worker in self._workers.values():
            if worker.ready and worker.task is None and (task := self._next(worker.model)) is not None:
                self._left.remove(task)
                worker.task, worker.model = task, task[0].model
                worker.pipe.send(task)
                self.board.started(worker.number, task[0])

    def _next(self, holding: str | None) -> tuple[Job, Step] | None:
        """Choose a job whose baseline is there: of the base held, else of the base fewest others work on."""
        waiting = {job.model for job, step in self._left if step is Step.BASELINE}
        waiting |= {w.task[0].model for w in self._workers.values() if w.task and w.task[1] is Step.BASELINE}
        failed = _without_baseline(self.failures)
        open_ = [
            task
            for task in self._left
            if task[1] in (Step.BASELINE, Step.TRAIN) or task[0].model not in waiting | failed
        ]
        if not open_:
            return None
        held = [worker.model for worker in self._workers.values()]
        return min(
            open_, key=lambda task: (task[1] is not Step.BASELINE, task[0].model != holding, held.count(task[0].model))
        )

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
        elif worker.task is not None:
            job, worker.task = worker.task[0], None
            if kind == "done":
                self.board.done(worker.number, job)
            else:
                self.failures.append(Failure(job, message[0]))
                self.board.failed(worker.number, job, message[1])

    def _died(self, worker: _Worker) -> None:
        """Put a dead worker's job back and start another in its place."""
        worker.process.join()
        reap(self.client, self.experiment_id)
        code, task = worker.process.exitcode, worker.task
        if not worker.ready:
            raise RuntimeError(f"a worker ended with exit code {code} before its first job; see its message above")
        if task is not None:
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
        reap(self.client, self.experiment_id)  # a run that was only just being opened, or whose worker was killed


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
        job, step = pipe.recv()
        try:
            resident.do(job, step, lambda phase, share: pipe.send(("moved", phase, share)))
        except Exception as error:
            pipe.send(("failed", f"{type(error).__name__}: {error}", traceback.format_exc()))
        else:
            pipe.send(("done",))


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
