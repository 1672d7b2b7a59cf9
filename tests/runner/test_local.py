"""Worker processes on this machine that end before they have done anything."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from registry.runner import local_pool


def test_a_worker_that_ends_while_it_starts_is_started_again_but_not_for_ever(monkeypatch) -> None:
    started: list[int] = []
    pool = local_pool.ProcessPool(experiment=None, client=None, experiment_id="0", count=2)
    monkeypatch.setattr(local_pool, "reap", lambda *_, **__: [])
    monkeypatch.setattr(pool, "_start", started.append)
    worker = SimpleNamespace(number=1, ready=False, process=SimpleNamespace(join=lambda: None, exitcode=-9))
    pool._died(worker)
    pool._died(worker)
    assert started == [1, 1]
    with pytest.raises(RuntimeError, match="exit code -9 before its first job"):
        pool._died(worker)
