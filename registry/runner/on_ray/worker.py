"""What runs on a Ray cluster's nodes: a look at the node, and the worker itself.

Nothing of this project is imported above but what is quick and reads no environment: what the driver sends along is
set first.
"""

from __future__ import annotations

import hashlib
import os
import queue
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from registry.config.study import Study
    from registry.planning.experiment import Experiment, Job
    from registry.runner.schedule import Task
    from registry.runner.worker import Report

__all__ = ["PACKAGES", "NodeReport", "RayWorker", "examine", "jobs_digest"]

#: Packages whose version decides results.
PACKAGES = ("torch", "transformers", "peft")

_LONGEST_SECONDS = 5.0  # between two answers of a busy worker


@dataclass(frozen=True)
class NodeReport:
    """What a node is, as one of its own processes sees it.

    Attributes
    ----------
    versions
        Of the packages that decide results; empty where one is missing.
    missing
        Paths of the study that are not there.
    digest
        Of what every job of the study would compute there.
    refusal
        Why the study cannot be prepared there.
    """

    host: str
    versions: Mapping[str, str]
    missing: Sequence[str] = ()
    digest: str = ""
    refusal: str = ""


def jobs_digest(jobs: Iterable[Job]) -> str:
    """Return a digest of what jobs compute: base, items, recipe, seed and version of the engine."""
    text = "\n".join(f"{job.finetune} {job.evaluate}" for job in jobs)
    return hashlib.sha256(text.encode()).hexdigest()


def examine(study: Study, paths: Sequence[str], environment: Mapping[str, str]) -> NodeReport:
    """Look at the node that this is called on."""
    os.environ.update(environment)
    host, versions = socket.gethostname(), {name: _version(name) for name in PACKAGES}
    missing = tuple(path for path in paths if not Path(path).exists())
    if missing:
        return NodeReport(host, versions, missing)
    from registry.errors import Refused
    from registry.planning.experiment import prepare

    try:
        return NodeReport(host, versions, digest=jobs_digest(prepare(study).jobs()))
    except Refused as error:
        return NodeReport(host, versions, refusal=str(error))


def _version(name: str) -> str:
    """Return a package's version without the part for one kind of device."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return ""


@dataclass(repr=False)  # Ray puts an actor's name before each line of its log
class RayWorker:
    """A process on a node, with one base in memory. A thread works, so that it can be listened to meanwhile.

    Parameters
    ----------
    environment
        What is not to be seen in the cluster's lists of environments: the store's address and credentials.
    """

    experiment: Experiment
    uri: str
    experiment_id: str
    environment: Mapping[str, str]
    _given: queue.SimpleQueue[list[Task]] = field(default_factory=queue.SimpleQueue)
    _said: queue.SimpleQueue[Report | BaseException] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        os.environ.update(self.environment)
        from registry.models.base import resolve_bases
        from registry.runner.worker import new_executor
        from registry.tracking.store import open_store

        study = self.experiment.study  # its base models are where this node has them
        bases = resolve_bases(study.models, trust_remote_code=study.trust_remote_code)
        experiment = replace(self.experiment, bases=bases)
        # Of the node's GPUs, Ray lets a process see its own alone, so that it is the first.
        executor = new_executor(experiment, open_store(self.uri, patient=True), self.experiment_id, number=0)
        threading.Thread(target=self._work, args=(executor,), daemon=True).start()

    def identity(self) -> str:
        """Return how runs and claims name this process."""
        from registry.tracking.liveness import worker_identity

        return worker_identity()

    def start(self, tasks: list[Task]) -> None:
        """Begin with tasks; poll what comes of them."""
        self._given.put(tasks)

    def poll(self) -> list[Report]:
        """Return what there is to report since the last time, once there is something, or nothing after a while.

        Of a job's progress, only the latest is reported.
        """
        found: list[Report] = []
        try:
            found.append(self._next(timeout=_LONGEST_SECONDS))
            while True:
                found.append(self._next(timeout=0))
        except queue.Empty:
            last = len(found) - 1
            return [said for at, said in enumerate(found) if said[0] != "moved" or at == last]

    def _next(self, *, timeout: float) -> Report:
        said = self._said.get(timeout=timeout) if timeout else self._said.get_nowait()
        if isinstance(said, BaseException):
            raise said
        return said

    def _work(self, executor: Any) -> None:
        import torch

        from registry.runner.worker import reports

        torch.set_num_threads(1)  # counted per thread
        try:
            while True:
                tasks = self._given.get()
                for report in reports(executor, tasks, lambda phase, share: self._said.put(("moved", phase, share))):
                    self._said.put(report)
        except BaseException as error:  # whatever it is, who listens must not wait for ever
            self._said.put(error)
