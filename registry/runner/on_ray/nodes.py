"""Whether a Ray cluster's node can take part in a study, and in words why it cannot."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from registry.project import located
from registry.runner.experiment import Experiment
from registry.runner.on_ray.worker import NodeReport
from registry.tracking.store import shown_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["judge", "paths_of", "unreachable"]

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
    return [*folders, *(str(located(path)) for path in named)]
