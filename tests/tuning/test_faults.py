"""A search that is killed at any write, or whose disk is full: the same command ends as if nothing had been."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

from registry.tracking.names import Kind
from tests.kill_at_write import Fault, run_command, run_with_fault, spread
from tests.tuning.trials import runs_of, told, trials_of

pytestmark = pytest.mark.slow


def command(file: Path, output: Path) -> tuple[str, ...]:
    return "tune", "--study", str(file), "--output", str(output)


def assert_whole(folder: Path) -> None:
    """A search's folder is absent, or has all its files."""
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    assert not names or {"small-tuned.yaml", "trials.csv", "history.png", "history.svg"} <= names
    assert all(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def writes(tuned_file, new_store, tmp_path, monkeypatch) -> int:
    """How many writes an undisturbed search makes."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store())
    ending = run_with_fault(
        run_command,
        *command(tuned_file, tmp_path / "undisturbed"),
        fault=Fault("kill", 0, tmp_path.parent),
        log=tmp_path / "log",
    )
    assert ending.code == 0, ending.printed
    return ending.writes


def test_a_search_that_is_killed_ends_as_if_nothing_had_been(
    writes, undisturbed, study, tuned_file, new_store, tmp_path, monkeypatch
) -> None:
    for number in spread(writes, 6):
        uri, out = new_store(), tmp_path / str(number)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        given, log = command(tuned_file, out), tmp_path / "log"
        killed = run_with_fault(run_command, *given, fault=Fault("kill", number, tmp_path.parent), log=log)
        assert killed.killed or killed.code == 0, killed.printed
        assert_whole(out)
        again = run_with_fault(run_command, *given, fault=Fault("kill", 0, tmp_path.parent), log=log)
        assert again.code == 0, again.printed
        trials = trials_of(study, uri)
        assert told(trials) == told(undisturbed), number
        assert not [
            run for kind in (Kind.TUNE, Kind.TRIAL) for run in runs_of(trials, kind) if run.info.status == "RUNNING"
        ]
        assert_whole(out)


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_search_on_a_full_disk_says_so_and_uses_up_no_trial(
    writes, undisturbed, study, tuned_file, new_store, tmp_path, monkeypatch, kind
) -> None:
    for number in spread(writes, 4):
        uri, out = new_store(), tmp_path / str(number)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        given, log = command(tuned_file, out), tmp_path / "log"
        ending = run_with_fault(run_command, *given, fault=Fault(kind, number, tmp_path.parent), log=log)
        assert ending.code in (1, 2), ending.printed
        assert "Traceback" not in ending.printed, ending.printed
        assert ending.tells(kind), ending.printed
        assert_whole(out)
        again = run_with_fault(run_command, *given, fault=Fault("kill", 0, tmp_path.parent), log=log)
        assert again.code == 0, again.printed
        trials = trials_of(study, uri)
        assert told(trials) == told(undisturbed), number
        assert not trials.valid(TrialState.FAIL)
