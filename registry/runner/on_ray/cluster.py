"""A Ray cluster: reached or started here, its nodes examined, and the reasons why one cannot take part."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from registry.errors import Refused
from registry.paths import PROJECT
from registry.planning.experiment import Experiment
from registry.process import usable_cores
from registry.runner.on_ray.worker import NodeReport, RayWorker, examine, jobs_digest
from registry.runner.worker import ONE_THREAD

if TYPE_CHECKING:
    from mlflow import MlflowClient
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from registry.paths import resolved_path
from registry.tracking.store import shown_uri

__all__ = ["Cluster", "Node", "OnRay", "judge", "paths_of", "require_ray", "unreachable"]

_STORE_BYTES = 100 * 2**20  # of Ray's shared memory, when it is started here: next to nothing passes through it
_LOOK_SECONDS = 300.0  # for the first look at all nodes
_SECRET = ("PASSWORD", "TOKEN", "SECRET", "KEY", "URI", "CREDENTIALS")
_SENT = ("MLFLOW_", "HF_", "AWS_", "AZURE_", "GOOGLE_")


@dataclass(frozen=True, slots=True)
class OnRay:
    """How a study is to run on Ray.

    Attributes
    ----------
    address
        Of the cluster, as ``host:port`` or ``auto``; empty takes ``RAY_ADDRESS``, else starts Ray on this machine.
    gpus_per_worker
        Below 1, several workers share a GPU; means nothing where no node has a GPU.
    """

    address: str = ""
    gpus_per_worker: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.gpus_per_worker < 1 or (self.gpus_per_worker >= 1 and self.gpus_per_worker % 1 == 0)):
            raise Refused(f"gpus_per_worker={self.gpus_per_worker:g}: give a whole number, or a share between 0 and 1")
        if self.cluster.startswith("ray://"):
            raise Refused(
                f"ray_address={self.cluster}: through Ray's client no worker can be put on a node of one's choice; run "
                "the study on a node of the cluster, with ray_address=auto"
            )

    @property
    def cluster(self) -> str:
        """The address that is meant; empty starts Ray on this machine."""
        return self.address or os.environ.get("RAY_ADDRESS", "")


def require_ray() -> None:
    """Refuse to run on Ray where it is not installed."""
    if find_spec("ray") is None:
        raise Refused("runner=ray needs Ray, which is not installed; run: python -m pip install -e '.[ray]'")


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster, or a part of one, and how many workers it has room for."""

    id: str
    host: str
    workers: int


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to.

    Attributes
    ----------
    asked
        How the study is to run on it.
    """

    asked: OnRay

    @classmethod
    @contextmanager
    def opened(cls, asked: OnRay) -> Iterator[Cluster]:
        """Connect to the cluster that is asked for, or start one on this machine alone, and leave it at the end.

        Raises
        ------
        Refused
            If no cluster is at the address.
        """
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        common: dict[str, Any] = {"logging_level": "warning", "runtime_env": {"env_vars": _environment(secret=False)}}
        ended_by = signal.getsignal(signal.SIGTERM)
        try:
            if asked.cluster:
                _require_answer(asked.cluster)
                ray.init(address=asked.cluster, **common)
            else:
                cores = usable_cores()
                alone: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
                ray.init(address="local", num_cpus=cores, **alone, **common)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise Refused(
                f"Ray does not answer at {asked.cluster or 'this machine'}: {_first_line(error)}; start it there with "
                "`ray start --head`, and run the study on one of its nodes; without an address it is started here"
            ) from None
        signal.signal(signal.SIGTERM, ended_by)  # Ray sets its own, which would leave runs open
        try:
            yield cls(asked)
        finally:
            ray.shutdown()

    @property
    def on_gpu(self) -> bool:
        """Whether workers have GPUs: as soon as one node has any, nodes without are left out."""
        return any(node["Resources"].get("GPU", 0) for node in self._alive())

    def nodes(self) -> list[Node]:
        """Return the nodes that are there now and have room for workers."""
        gpu = self.on_gpu
        each = self.asked.gpus_per_worker if gpu else 1.0
        found = [
            Node(
                node["NodeID"],
                node["NodeManagerHostname"],
                int(node["Resources"].get("GPU" if gpu else "CPU", 0) / each),
            )
            for node in self._alive()
        ]
        return [node for node in found if node.workers]

    def look(self, node: Node, experiment: Experiment) -> Any:
        """Ask a node what it is; the answer, a :class:`NodeReport`, comes later."""
        import ray

        look = ray.remote(examine).options(num_cpus=0, max_retries=0, scheduling_strategy=_on(node))
        return look.remote(experiment.study, paths_of(experiment), _environment(secret=True))

    def place(self, node: Node, experiment: Experiment, uri: str, experiment_id: str) -> Any:
        """Start a worker on a node, as soon as it has room; return its handle."""
        import ray

        needs = {"num_cpus": 0, "num_gpus": self.asked.gpus_per_worker} if self.on_gpu else {"num_cpus": 1}
        actor = ray.remote(RayWorker).options(scheduling_strategy=_on(node), max_restarts=0, **needs)
        return actor.remote(experiment, uri, experiment_id, _environment(secret=True))

    def require(self, experiment: Experiment, client: MlflowClient, experiment_id: str) -> list[Node]:
        """Return the nodes, every one of which can take part.

        Raises
        ------
        Refused
            If none has room for a worker or any cannot take part; with a line for each reason.
        """
        import ray

        nodes = self.nodes()
        if not nodes:
            raise Refused(f"the Ray cluster at {self.asked.cluster or 'this machine'} has no room for a worker")
        problems = unreachable(client, experiment_id, [node.host for node in nodes])
        if not problems:
            looks = [self.look(node, experiment) for node in nodes]
            ray.wait(looks, num_returns=len(looks), timeout=_LOOK_SECONDS)
            for node, look in zip(nodes, looks, strict=True):
                problems += self.problems(node, look, experiment)
        if problems:
            raise Refused("\n  - ".join(["the study cannot run on this Ray cluster:", *problems]))
        return nodes

    def problems(self, node: Node, look: Any, experiment: Experiment) -> list[str]:
        """Say why a node that was looked at cannot take part."""
        import ray

        try:
            found: NodeReport = ray.get(look, timeout=0)
        except ray.exceptions.GetTimeoutError:
            return [f"node {node.host} did not answer within {_LOOK_SECONDS:.0f} s"]
        except ray.exceptions.RayError as error:
            return [f"node {node.host} cannot run this project's code: {_last_line(error)}; install the project there"]
        return judge(found, examine(experiment.study, paths_of(experiment), {}), jobs_digest(experiment.jobs()))

    def _alive(self) -> list[dict[str, Any]]:
        import ray

        return [node for node in ray.nodes() if node["Alive"]]


def _environment(*, secret: bool) -> Mapping[str, str]:
    """Return the environment that workers get: what may be seen in Ray's own lists, or what may not."""
    sent = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_SENT) and any(word in name for word in _SECRET) == secret
    }
    if secret:
        return sent
    path = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return sent | ONE_THREAD | {"PYTHONPATH": path, "MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"}


def _require_answer(address: str) -> None:
    """Raise ConnectionError where nothing listens at a ``host:port``: Ray itself tries again for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise ConnectionError(error.strerror or str(error)) from None


def _on(node: Node) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node.id, soft=False)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


# --- whether a Ray cluster's node can take part in a study, and in words why it cannot


_OWN_PLACE = ("127.0.0.1", "localhost", "::1")


def judge(found: NodeReport, here: NodeReport, digest: str) -> list[str]:
    """Say why a node cannot take part, by what it reports and what this machine is."""
    other = [
        f"{name} is {found.versions.get(name) or 'not installed'} there and {mine} here"
        for name, mine in here.versions.items()
        if found.versions.get(name) != mine
    ]
    if other:
        return [f"node {found.host}: {', '.join(other)}; results would differ: install what conda.yaml pins"]
    if found.missing:
        return [f"node {found.host} does not have {', '.join(found.missing)}; copy it there, or share the folder"]
    if found.refusal:
        return [f"node {found.host}: {found.refusal}"]
    if found.digest != digest:
        return [
            f"node {found.host} would compute something else: its bases, items or code are not those of this machine"
        ]
    return []


def unreachable(client: MlflowClient, experiment_id: str, hosts: Sequence[str]) -> list[str]:
    """Say why nodes on other machines cannot reach the store."""
    elsewhere = sorted(set(hosts) - {socket.gethostname()})
    if not elsewhere:
        return []
    uri, artifacts = client.tracking_uri, client.get_experiment(experiment_id).artifact_location
    parts, remedy = urlsplit(uri), "docs/server.md says how to run one for several machines"
    if parts.scheme in ("sqlite", "file", "") or parts.hostname in _OWN_PLACE:
        return [
            f"the store {shown_uri(uri)} is of this machine alone, and {', '.join(elsewhere)} cannot reach it; {remedy}"
        ]
    if urlsplit(artifacts).scheme in ("file", ""):
        return [f"artifacts go to {artifacts}, a folder that {', '.join(elsewhere)} cannot write to; {remedy}"]
    return []


def paths_of(experiment: Experiment) -> list[str]:
    """Return every path that a study reads from."""
    study = experiment.study
    named = [path for path in (study.benchmark.path, study.split.manifest) if path]
    folders = [base.location for base in experiment.bases.values() if base.hub_revision is None]
    return [*folders, *(str(resolved_path(path)) for path in named)]
