"""Erasing that is killed at any write, all of it there, or gone once the command is repeated."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pytest

from registry.paths import checkpoint
from tests.closed_stores import close_store
from tests.erasure.conftest import Stored
from tests.erasure.test_forget import SURE, mentioning
from tests.kill_at_write import Fault, run_command, run_with_fault

pytestmark = pytest.mark.slow


FORGET = ("forget", "--study", "small", *SURE, "small")


def versions(stored: Stored) -> set[str]:
    """Read the registered versions from the file: this process's own connections are to the file that was copied."""
    columns = "name, version, current_stage"
    with closing(sqlite3.connect(stored.folder / "mlflow.db")) as database:
        found = database.execute(f"SELECT {columns} FROM model_versions").fetchall()
    return {f"{name}/{number}" for name, number, stage in found if stage != "Deleted_Internal"}


def test_forget_killed_at_any_write_leaves_all_or_nothing(stored, tmp_path, monkeypatch) -> None:
    ours = stored.runs("small") | {stored.adapters[key].model_id for key in ("a", "b")}
    recorded = len(mentioning(stored, ours))
    theirs, whole, there = stored.files("other"), stored.files("small"), versions(stored)
    close_store(stored.client)
    home = stored.folder
    cache = home.parent / f"{home.name}-cache"
    shutil.move(tmp_path / "cache", cache)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    for place in (home, cache):
        shutil.copytree(place, tmp_path / place.name)
    for number in (*range(1, 13), *range(13, 200, 5)):
        for place in (home, cache):
            shutil.rmtree(place)
            shutil.copytree(tmp_path / place.name, place)
        fault = Fault("kill", number, home.parent)  # the caches are there too
        ending = run_with_fault(run_command, *FORGET, fault=fault, log=tmp_path / "log")
        if mentioning(stored, ours):
            assert ending.killed
            assert len(mentioning(stored, ours)) == recorded
            assert stored.files("small") == whole, "files of a record that stands are gone"
            assert versions(stored) == there
        if ending.killed:
            again = run_with_fault(run_command, *FORGET, fault=Fault("kill", 0, home), log=tmp_path / "log")
            assert again.code == 0 or "there is no study 'small'" in again.printed, (number, again.printed)
        else:
            assert ending.code == 0, ending.printed
        assert mentioning(stored, ours) == []
        assert stored.files() == theirs, number
        assert versions(stored) == {"tiny--pair--tr/2"}
        assert not list(home.glob(".forget*"))
        assert not checkpoint("tiny kind/en 17").exists()
        if not ending.killed:
            break
    assert 5 < number < 199
