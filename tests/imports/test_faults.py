"""An import that is killed at any write, or whose disk is full: it counts as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.reading.frame import load
from registry.tracking.names import Kind, Tag
from registry.tracking.store import open_store
from tests.kill_at_write import Fault, run_command, run_with_fault, spread

pytestmark = pytest.mark.slow

FILES = {"observations.parquet", "baselines.parquet", "import.json"}


@pytest.fixture
def given(tmp_path, small_table, uri, monkeypatch) -> tuple[str, ...]:
    """The command, but for its study."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small_table().to_csv(tmp_path / "cells.csv", index=False)
    return "import", "--source", str(tmp_path / "cells.csv"), "--output", str(tmp_path / "out"), "--study"


def runs(uri: str, study: str) -> list[str]:
    """Return how the imports of a study ended."""
    client = open_store(uri)
    experiment = client.get_experiment_by_name(study)
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    for run in found:
        assert run.data.tags[Tag.KIND] == Kind.IMPORT
        if run.info.status == "FINISHED":
            assert {file.path for file in client.list_artifacts(run.info.run_id)} == FILES
            assert run.data.metrics["count/observations"] == 32
    return [run.info.status for run in found]


def whole(folder: Path) -> bool:
    """Whether a folder holds the import, not whether it is there."""
    names = {path.name for path in folder.iterdir() if path.name[0] != "."} if folder.exists() else set()
    return not names or (names == FILES and len(pd.read_parquet(folder / "observations.parquet")) == 32)


def test_an_import_that_is_killed_counts_whole_or_not_at_all(given, uri, tmp_path) -> None:
    under, log = tmp_path.parent, tmp_path / "log"
    total = run_with_fault(run_command, *given, "undisturbed", fault=Fault("kill", 0, under), log=log)
    assert total.code == 0, total.printed
    for number in spread(total.writes, 9):
        study = f"killed-{number}"
        ending = run_with_fault(run_command, *given, study, fault=Fault("kill", number, under), log=log)
        assert ending.killed or ending.code == 0, ending.printed
        assert whole(tmp_path / "out")
        assert runs(uri, study).count("FINISHED") <= 1
        again = run_with_fault(run_command, *given, study, fault=Fault("kill", 0, under), log=log)
        assert again.code == 0, again.printed
        assert runs(uri, study).count("FINISHED") == 1
        assert len(load(open_store(uri), study).observations) == 32


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_an_import_on_a_full_disk_says_so_and_counts_nothing(given, uri, tmp_path, kind) -> None:
    under, log = tmp_path.parent, tmp_path / "log"
    total = run_with_fault(run_command, *given, "undisturbed", fault=Fault("kill", 0, under), log=log).writes
    for number in spread(total, 4):
        study = f"{kind}-{number}"
        ending = run_with_fault(run_command, *given, study, fault=Fault(kind, number, under), log=log)
        assert ending.code in (1, 2), ending.printed
        assert "Traceback" not in ending.printed, ending.printed
        assert ending.tells(kind), ending.printed
        assert runs(uri, study).count("FINISHED") <= 1
        assert whole(tmp_path / "out")
    again = run_with_fault(run_command, *given, study, fault=Fault("kill", 0, under), log=log)
    assert again.code == 0, again.printed
