"""Carrying a plan out on this machine: in this process, or in several, each with one thread and one base model."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from mlflow import MlflowClient

from registry.config.study import Study
from registry.planning.experiment import Experiment
from registry.planning.plan import Plan
from registry.process import end_on_signal, usable_cores
from registry.runner.dispatcher import Dispatcher, SetAside
from registry.runner.progress import Board
from registry.runner.schedule import Failure, Task
from registry.runner.worker import ONE_THREAD, new_executor, reports
from registry.tracking.liveness import reap
from registry.tracking.store import open_store

__all__ = ["InProcess", "ProcessPool", "default_workers", "local_pool"]

_STILLBIRTHS = 3  # workers in a row that end before their first job, until the study does


def default_workers(study: Study) -> int:
    """One worker per GPU, else one per CPU core that this process may use; one alone where a base takes every GPU."""
    import torch

    if study.placement == "spread":
        return 1
    return torch.cuda.device_count() or usable_cores()


def local_pool(
    experiment: Experiment, plan: Plan, client: MlflowClient, experiment_id: str, *, workers: int
) -> InProcess | ProcessPool:
    """Return the pool of this machine that a plan needs: of one worker, this process itself.

    Parameters
    ----------
    workers : int
        Processes at most.
    """
    workers = min(workers, len(plan.todo))
    if workers <= 1:
        return InProcess(experiment, client, experiment_id)
    return ProcessPool(experiment, client, experiment_id, workers)


def _any_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@dataclass(frozen=True)
class InProcess:
    """This process, doing one job after another."""

    experiment: Experiment
    client: MlflowClient
    experiment_id: str

    @property
    def on_gpu(self) -> bool:
        """Whether this process has a GPU."""
        return _any_gpu()

    def run(self, dispatcher: Dispatcher) -> None:
        """Do what the dispatcher has."""
        executor = new_executor(self.experiment, self.client, self.experiment_id, number=0)
        dispatcher.schedule.join(0)
        while dispatcher.schedule.unfinished:
            for worker, tasks in dispatcher.assign():
                for report in reports(
                    executor, tasks, lambda phase, share: dispatcher.enter(0, ("moved", phase, share))
                ):
                    dispatcher.enter(worker, report)
            dispatcher.rest()

    def run_one(self, task: Task, board: Board) -> list[Failure]:
        """Do a single task, without a schedule; one that another runner holds is waited for."""
        executor, (job, _) = new_executor(self.experiment, self.client, self.experiment_id, number=0), task
        aside = SetAside(board)
        board.started(0, str(job))
        while True:
            (report,) = reports(executor, [task], lambda phase, share: board.moved(0, phase, share))
            if report[0] == "done":
                board.done(0, job)
                return []
            if report[0] != "held":
                reason, trace = report[2:] or (f"there is no finished baseline to measure {job} against", "")
                board.failed(0, job, trace)
                return [Failure(job, reason)]
            aside.put(job)
            aside.rest([job])


@dataclass
class _WorkerProcess:
    """A process, and the way to speak to it."""

    number: int
    process: BaseProcess
    pipe: Connection
    ready: bool = False


@dataclass
class ProcessPool:
    """Processes that are given tasks, and replaced when they die."""

    experiment: Experiment
    client: MlflowClient
    experiment_id: str
    count: int
    _workers: dict[int, _WorkerProcess] = field(default_factory=dict)
    _stillborn: int = 0  # workers in a row that ended before their first job
    dispatcher: Dispatcher = field(init=False)

    @property
    def on_gpu(self) -> bool:
        """Whether the machine has GPUs, of which each worker takes one."""
        return _any_gpu()

    def run(self, dispatcher: Dispatcher) -> None:
        """Start the processes, work off what the dispatcher has, end them."""
        self.dispatcher = dispatcher
        try:
            for number in range(self.count):
                self._start(number)
            while self.dispatcher.schedule.unfinished:
                for number, tasks in self.dispatcher.assign():
                    with suppress(BrokenPipeError):  # it has just died, which is heard below
                        self._workers[number].pipe.send(tasks)
                self.dispatcher.note_waiting()
                self._listen()
        finally:
            self._stop()

    def _start(self, number: int) -> None:
        context = get_context("spawn")  # a forked torch or SQLite connection would be shared with this process
        ours, theirs = context.Pipe()
        given = (number, self.experiment, self.client.tracking_uri, self.experiment_id, theirs)
        process = context.Process(target=_work, args=given, daemon=True)
        with _one_thread():
            process.start()
        theirs.close()
        self._workers[number] = _WorkerProcess(number, process, ours)

    def _listen(self) -> None:
        by_pipe = {worker.pipe: worker for worker in self._workers.values()}
        for pipe in wait(list(by_pipe), timeout=1.0):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                report = worker.pipe.recv()
            except (EOFError, ConnectionResetError):
                self._died(worker)
                continue
            if report == ("ready",):
                worker.ready, self._stillborn = True, 0
                self.dispatcher.schedule.join(worker.number)
            else:
                self.dispatcher.enter(worker.number, report)
        self.dispatcher.board.refresh()

    def _died(self, worker: _WorkerProcess) -> None:
        """Put a dead worker's jobs back and start another in its place."""
        worker.process.join()
        reap(self.client, self.experiment_id, elsewhere=False)
        code = worker.process.exitcode
        if worker.ready:
            self.dispatcher.lose(worker.number, f"exit code {code}")
        else:  # what ended the one before it, such as too little memory, may still last for a moment
            self._stillborn += 1
            if self._stillborn == _STILLBIRTHS:
                raise RuntimeError(f"a worker ended with exit code {code} before its first job; see its message above")
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
    """Have processes started inside use one thread each."""
    former = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in former.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _work(number: int, experiment: Experiment, uri: str, experiment_id: str, pipe: Connection) -> None:
    """What a worker process does: one task after another until it is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    end_on_signal(signal.SIGTERM, _exit)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    executor = new_executor(experiment, open_store(uri, patient=True), experiment_id, number=number)
    pipe.send(("ready",))
    while True:
        for report in reports(executor, pipe.recv(), lambda phase, share: pipe.send(("moved", phase, share))):
            pipe.send(report)


def _exit() -> None:
    # A signal to the whole group comes again from the parent, and must not break the end of the run off.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(143)


def _end_with_parent() -> None:
    """End this process when its parent is gone: killed with -9, it could not say so."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
