"""How much of a study's time its store takes: part of the demo, done by one process whose every call is timed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any
from unittest.mock import patch

from mlflow import MlflowClient
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from registry.config.files import load_study
from registry.runner.session import carry_out, prospect
from registry.tracking.client import PatientClient

__all__ = ["Share", "store_share"]


@dataclass
class Share:
    """Seconds of a study, and of these in its store's calls; adapters that were trained and evaluated."""

    seconds: float = 0.0
    in_store: float = 0.0
    adapters: int = 0
    _depth: int = field(default=0, repr=False)

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a call that adds what it takes, unless another that is timed makes it."""

        @wraps(call)
        def asked(*arguments: Any, **named: Any) -> Any:
            if current_thread() is not main_thread():  # heartbeats, which nothing waits for
                return call(*arguments, **named)
            self._depth += 1
            start = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.in_store += time.perf_counter() - start

        return asked


def store_share(folder: Path, **settings: object) -> Share:
    """Run a study, by default one base and one seed of the demo, in this process on a new SQLite store."""
    study = load_study("demo", **({"models": ["demo-wide"], "seeds": [17]} | settings))
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    share = Share()
    with ExitStack() as patches:
        for owner in (MlflowClient, PatientClient, LocalArtifactRepository):
            for name, call in vars(owner).items():
                if callable(call) and not name.startswith("_"):
                    patches.enter_context(patch.object(owner, name, share.timed(call)))
        start = time.perf_counter()
        ready = prospect(study, workers=1)
        share.adapters = len(ready.plan.todo) - len(study.models)
        failures = carry_out(ready)
        share.seconds = time.perf_counter() - start
    assert not failures
    return share
