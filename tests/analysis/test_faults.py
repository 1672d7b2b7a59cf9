"""An analysis that is killed at any write, or whose disk is full: its folder holds the former one or the new one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry.files.outputs import MANIFEST
from registry.tracking.store import open_store
from tests.imports.published_table import published_table
from tests.kill_at_write import Fault, run_command, run_with_fault, spread

pytestmark = pytest.mark.slow

QUICK = ("--study", "small", "--mixed-models", "false", "--corrected", "false", "--output")


@pytest.fixture
def uri(new_store, monkeypatch) -> str:
    address = new_store()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    return address


@pytest.fixture
def analysed(uri, tmp_path, monkeypatch) -> Path:
    """The folder of an analysis, each of its files replaced by one word."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table = published_table(
        ("Llama-3.2-1B-Instruct", "Qwen2.5-0.5B-Instruct"), ("arc_challenge", "hellaswag"), ("de", "en")
    )
    table.to_csv(tmp_path / "cells.csv", index=False)
    none = Fault("kill", 0, tmp_path)
    imported = ("import", "--source", str(tmp_path / "cells.csv"), "--study", "small")
    for command in (imported, ("analyze", *QUICK, str(tmp_path / "out"))):
        done = run_with_fault(run_command, *command, fault=none, log=tmp_path / "log")
        assert done.code == 0, done.printed
    make_former(tmp_path / "out")
    return tmp_path / "out"


def names(folder: Path) -> set[str]:
    return set(json.loads((folder / MANIFEST).read_text())["analyze"])


def make_former(folder: Path) -> None:
    for name in names(folder):
        (folder / name).write_text("former")


def assert_whole(folder: Path) -> None:
    """All of the folder's files are of one analysis."""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    assert there == names(folder)
    assert len({(folder / name).read_bytes() == b"former" for name in there}) == 1


def assert_recorded_whole(uri: str) -> None:
    """An analysis that is FINISHED has all its files and metrics."""
    client = open_store(uri)
    experiment = client.get_experiment_by_name("small").experiment_id
    sizes = set()
    for run in client.search_runs([experiment], "tags.kind = 'analyze' AND attributes.status = 'FINISHED'"):
        place = Path(run.info.artifact_uri.removeprefix("file://"))
        files = {path.relative_to(place): path.stat().st_size for path in place.rglob("*") if path.is_file()}
        assert all(files.values())
        sizes.add((len(files), len(run.data.metrics)))
    assert len(sizes) <= 1


def test_an_analysis_that_is_killed_leaves_the_former_or_the_new_one(analysed, uri, tmp_path) -> None:
    command, log = ("analyze", *QUICK, str(analysed)), tmp_path / "log"
    total = run_with_fault(run_command, *command, fault=Fault("kill", 0, tmp_path.parent), log=log)
    assert total.code == 0, total.printed
    late = total.writes - len(names(analysed))  # where files are uploaded and put in place
    for number in sorted({*spread(total.writes, 4), *(late + step for step in spread(total.writes - late, 6))}):
        make_former(analysed)
        fault = Fault("kill", number, tmp_path.parent)
        assert run_with_fault(run_command, *command, fault=fault, log=log).killed
        assert_whole(analysed)
        assert_recorded_whole(uri)
    done = run_with_fault(run_command, *command, fault=Fault("kill", 0, tmp_path.parent), log=log)
    assert done.code == 0, done.printed
    assert_whole(analysed)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".analyze")]


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_an_analysis_on_a_full_disk_says_so_and_leaves_the_former(analysed, uri, tmp_path, kind) -> None:
    command, log = ("analyze", *QUICK, str(analysed)), tmp_path / "log"
    total = run_with_fault(run_command, *command, fault=Fault("kill", 0, tmp_path.parent), log=log).writes
    for number in spread(total // 2, 3):
        make_former(analysed)
        ending = run_with_fault(run_command, *command, fault=Fault(kind, number, tmp_path.parent), log=log)
        assert ending.code in (1, 2), ending.printed
        assert "Traceback" not in ending.printed, ending.printed
        assert ending.tells(kind), ending.printed
        assert_whole(analysed)
        assert (analysed / "report.html").read_text() == "former"
        assert_recorded_whole(uri)
