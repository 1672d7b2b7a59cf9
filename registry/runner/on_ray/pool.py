"""Carrying a plan out on a Ray cluster: one worker per GPU, or per CPU core where no node has a GPU.

Ray starts processes on nodes, carries messages, and reports when one is gone. The schedule decides which worker does
what, as on one machine. Nodes that join get workers; tasks of nodes that leave are given to others.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from mlflow import MlflowClient

from registry.planning.experiment import Experiment
from registry.runner.dispatcher import Dispatcher
from registry.runner.on_ray.cluster import Cluster, Node, unreachable
from registry.tracking.claims import drop_claims
from registry.tracking.liveness import end_runs_of, reap

__all__ = ["RayPool"]

_STAFF_SECONDS = 1.0  # between two looks at the cluster
_STILLBIRTHS = 2  # workers of a node that end before their first task, until the node is left out


@dataclass
class _WorkerActor:
    """An actor, where it is, and what it was last asked."""

    number: int
    node: Node
    actor: Any
    asked: Any  # a reference to its answer; None while it has nothing to do
    identity: str = ""  # once it is ready


@dataclass
class RayPool:
    """Workers that are placed where there is room, given tasks, and replaced when they or their nodes are gone.

    Parameters
    ----------
    most
        Workers at most.
    fit
        Ids of nodes that were found fit; others are examined when they join.
    """

    experiment: Experiment
    client: MlflowClient
    experiment_id: str
    cluster: Cluster
    most: int
    fit: set[str]
    dispatcher: Dispatcher = field(init=False)
    _unfit: set[str] = field(default_factory=set)
    _looks: dict[Any, Node] = field(default_factory=dict)
    _workers: dict[int, _WorkerActor] = field(default_factory=dict)
    _stillborn: Counter[str] = field(default_factory=Counter)
    _numbers: Any = field(default_factory=count)
    _looked: float = float("-inf")
    _alone: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether the cluster's workers have a GPU each."""
        return self.cluster.on_gpu

    def run(self, dispatcher: Dispatcher) -> None:
        """Work off what the dispatcher has, and end every worker."""
        self.dispatcher = dispatcher
        try:
            while self.dispatcher.schedule.unfinished:
                self._staff()
                for number, tasks in self.dispatcher.assign():
                    worker = self._workers[number]
                    worker.actor.start.remote(tasks)
                    worker.asked = worker.actor.poll.remote()
                self.dispatcher.note_waiting()
                self._listen()
        finally:
            self._stop()

    def _staff(self) -> None:
        """Place workers where there is room, and look at nodes that are new."""
        if time.monotonic() - self._looked < _STAFF_SECONDS:
            return
        self._looked = time.monotonic()
        nodes = self.cluster.nodes()
        for node in nodes:
            if node.id in self.fit:
                self._fill(node)
            elif node.id not in self._unfit and node not in self._looks.values():
                self._welcome(node)
        if not self._workers and not self._looks and not self._alone:
            self._alone = True
            self.dispatcher.board.note("no node is left that could work; waiting for one to join")

    def _fill(self, node: Node) -> None:
        there = sum(worker.node.id == node.id for worker in self._workers.values())
        wanted = min(self.most, self.dispatcher.schedule.unfinished) - len(self._workers)
        for _ in range(min(node.workers - there, wanted)):
            number = next(self._numbers)
            actor = self.cluster.place(node, self.experiment, self.client.tracking_uri, self.experiment_id)
            self._workers[number] = _WorkerActor(number, node, actor, actor.identity.remote())
            self._alone = False

    def _welcome(self, node: Node) -> None:
        problems = unreachable(self.client, self.experiment_id, [node.host])
        if problems:
            self._leave_out(node, problems)
        else:
            self._looks[self.cluster.look(node, self.experiment)] = node

    def _leave_out(self, node: Node, problems: list[str]) -> None:
        self._unfit.add(node.id)
        self.fit.discard(node.id)
        self.dispatcher.board.note(f"node {node.host} is left out: {'; '.join(problems)}")

    def _listen(self) -> None:
        import ray

        asked = {worker.asked: worker for worker in self._workers.values() if worker.asked is not None}
        everything = [*asked, *self._looks]
        if not everything:
            time.sleep(_STAFF_SECONDS / 4)
        else:
            for answer in ray.wait(everything, timeout=_STAFF_SECONDS / 2)[0]:
                if answer in asked:
                    self._hear(asked[answer])
                else:
                    self._seen(answer)
        self.dispatcher.board.refresh()

    def _seen(self, look: Any) -> None:
        node = self._looks.pop(look)
        problems = self.cluster.problems(node, look, self.experiment)
        if problems:
            self._leave_out(node, problems)
        else:
            self.fit.add(node.id)
            self._looked = float("-inf")

    def _hear(self, worker: _WorkerActor) -> None:
        import ray

        try:
            answer = ray.get(worker.asked)
        except ray.exceptions.RayError as error:
            self._lost(worker, error)
            return
        if not worker.identity:
            worker.identity, worker.asked = answer, None
            self.dispatcher.schedule.join(worker.number)
            return
        for report in answer:
            self.dispatcher.enter(worker.number, report)
        worker.asked = worker.actor.poll.remote() if self.dispatcher.schedule.tasks(worker.number) else None

    def _lost(self, worker: _WorkerActor, error: Exception) -> None:
        """A worker is gone, or cannot be reached: put its tasks back. Another is placed when there is room."""
        del self._workers[worker.number]
        self._end([worker])
        why = _reason(error)
        if worker.identity:
            self.dispatcher.lose(worker.number, why)
        elif worker.node in self.cluster.nodes():
            self._stillborn[worker.node.id] += 1
            if self._stillborn[worker.node.id] == _STILLBIRTHS:
                self._leave_out(worker.node, [f"its workers end before their first job: {why}"])
                if not self.fit & {node.id for node in self.cluster.nodes()}:
                    raise RuntimeError(f"no node could start a worker; the last said: {error}")

    def _end(self, workers: list[_WorkerActor]) -> None:
        """See that workers are gone, and that neither runs nor claims of theirs keep others waiting.

        One that is only out of reach and works on finds its claim dropped before its run is FINISHED, and gives up.
        """
        import ray

        for worker in workers:
            ray.kill(worker.actor)
        identities = {worker.identity for worker in workers if worker.identity}
        end_runs_of(self.client, self.experiment_id, identities)
        drop_claims(self.client, self.experiment_id, identities)

    def _stop(self) -> None:
        if self._workers:
            self._end(list(self._workers.values()))
        reap(self.client, self.experiment_id, elsewhere=False)


def _reason(error: Exception) -> str:
    """Say in a few words what Ray says in many lines."""
    import ray

    if isinstance(error, ray.exceptions.ActorUnavailableError):
        return "it cannot be reached"
    if isinstance(error, ray.exceptions.RayTaskError):
        return str(error).strip().splitlines()[-1]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next(
        (line for line in lines if "node" in line.lower() and "died" in line.lower()), lines[0] if lines else ""
    )
