"""Carrying a plan out on this machine: in this process, or in several, each with one thread and one resident base."""

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
from registry.planning.experiment import Experiment, prepare
from registry.planning.plan import Plan
from registry.process import end_on_signal, usable_cores
from registry.runner.dispatcher import Dealer
from registry.runner.progress import Board
from registry.runner.schedule import Failure
from registry.runner.worker import ONE_THREAD, new_resident, reports
from registry.tracking.liveness import reap
from registry.tracking.store import open_store

__all__ = ["default_workers", "run_plan"]

_STILLBIRTHS = 3  # workers in a row that end before their first job, until the study does


def default_workers(study: Study) -> int:
    """One worker per GPU, else one per CPU core that this process may use; one alone where a base takes every GPU."""
    import torch

    if study.placement == "spread":
        return 1
    return torch.cuda.device_count() or usable_cores()


def run_plan(
    experiment: Experiment, plan: Plan, client: MlflowClient, experiment_id: str, *, workers: int, board: Board
) -> list[Failure]:
    """Do every job of a plan; a job that fails is reported and the others go on.

    Parameters
    ----------
    workers : int
        Processes. With 1 the jobs are done in this process.
    """
    import torch

    dealer = Dealer.of(experiment, plan, board, on_gpu=torch.cuda.is_available())
    workers = min(workers, len(plan.todo))
    if workers <= 1:
        _in_process(experiment, client, experiment_id, dealer)
    else:
        _Pool(experiment, client, experiment_id, dealer).run(workers)
    return dealer.schedule.failures


def _in_process(experiment: Experiment, client: MlflowClient, experiment_id: str, dealer: Dealer) -> None:
    resident = new_resident(experiment, client, experiment_id, number=0)
    dealer.schedule.join(0)
    while dealer.schedule.unfinished:
        for worker, tasks in dealer.deal():
            for report in reports(resident, tasks, lambda phase, share: dealer.hear(0, ("moved", phase, share))):
                dealer.hear(worker, report)
        dealer.rest()


@dataclass
class _Worker:
    """A process, and the way to speak to it."""

    number: int
    process: BaseProcess
    pipe: Connection
    ready: bool = False


@dataclass
class _Pool:
    """Processes that are given tasks, and replaced when they die."""

    experiment: Experiment
    client: MlflowClient
    experiment_id: str
    dealer: Dealer
    _workers: dict[int, _Worker] = field(default_factory=dict)
    _stillborn: int = 0  # workers in a row that ended before their first job

    def run(self, count: int) -> None:
        """Start ``count`` processes, work the plan off, end them."""
        try:
            for number in range(count):
                self._start(number)
            while self.dealer.schedule.unfinished:
                for number, tasks in self.dealer.deal():
                    with suppress(BrokenPipeError):  # it has just died, which is heard below
                        self._workers[number].pipe.send(tasks)
                self.dealer.tell()
                self._listen()
        finally:
            self._stop()

    def _start(self, number: int) -> None:
        context = get_context("spawn")  # a forked torch or SQLite connection would be shared with this process
        ours, theirs = context.Pipe()
        study, uri = self.experiment.study, self.client.tracking_uri
        process = context.Process(target=_work, args=(number, study, uri, self.experiment_id, theirs), daemon=True)
        with _one_thread():
            process.start()
        theirs.close()
        self._workers[number] = _Worker(number, process, ours)

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
                self.dealer.schedule.join(worker.number)
            else:
                self.dealer.hear(worker.number, report)
        self.dealer.board.refresh()

    def _died(self, worker: _Worker) -> None:
        """Put a dead worker's jobs back and start another in its place."""
        worker.process.join()
        reap(self.client, self.experiment_id, elsewhere=False)
        code = worker.process.exitcode
        if worker.ready:
            self.dealer.lose(worker.number, f"exit code {code}")
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


def _work(number: int, study: Study, uri: str, experiment_id: str, pipe: Connection) -> None:
    """What a worker process does: prepare, then one task after another until it is told to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    end_on_signal(signal.SIGTERM, _exit)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    resident = new_resident(prepare(study), open_store(uri, patient=True), experiment_id, number=number)
    pipe.send(("ready",))
    while True:
        for report in reports(resident, pipe.recv(), lambda phase, share: pipe.send(("moved", phase, share))):
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
