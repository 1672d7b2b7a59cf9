"""The tool itself: each write is counted once, a kill comes before it or leaves the file empty, a full disk is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kill_at_write import Fault, kills, run_with_fault

pytestmark = pytest.mark.slow  # the server that processes are forked from takes ten seconds to start


def work(folder: Path) -> None:
    (folder / "a").mkdir(exist_ok=True)
    (folder / "a" / "new").write_text("text")
    (folder / "a" / "new").replace(folder / "a" / "file")
    Path("/dev/null").write_text("elsewhere")


def test_writes_are_counted_and_a_kill_leaves_what_stood_before_it(tmp_path) -> None:
    folder, log = tmp_path / "folder", tmp_path / "log"
    folder.mkdir()
    assert list(kills(work, folder, under=folder, log=log)) == [1, 2, 3, 4]
    assert (folder / "a" / "file").read_text() == "text"
    again = tmp_path / "again"
    again.mkdir()
    ending = run_with_fault(work, again, fault=Fault("kill", 3, again), log=log)
    assert ending.killed
    assert [(path.name, path.stat().st_size) for path in sorted(again.rglob("*")) if path.is_file()] == [("new", 0)]


@pytest.mark.parametrize(("kind", "told"), [("full", "No space left"), ("read-only", "Read-only file system")])
def test_a_disk_is_full_from_a_write_on(tmp_path, kind, told: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    ending = run_with_fault(work, folder, fault=Fault(kind, 2, folder), log=tmp_path / "log")
    assert (ending.code, ending.killed) == (1, False)
    assert told in ending.printed
    assert [path.name for path in folder.rglob("*")] == ["a"]
