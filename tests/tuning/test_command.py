"""The entry point ``tune``: that a kill costs nothing, that two share the trials, and what it says of itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from registry.paths import PROJECT
from registry.tracking.names import Kind
from registry.tuning.search import run_search
from registry.tuning.storage import RUN
from tests.tuning.trials import RUNNING, runs_of, told, trials_of


def start(file: Path, uri: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "entrypoints.tune", "--study", str(file), "--output", str(file.parent / "out"), *more],
        cwd=PROJECT,
        env=os.environ | {"MLFLOW_TRACKING_URI": uri},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_a_search_killed_with_9_goes_on_as_if_nothing_had_been(undisturbed, study, tuned_file, uri, tmp_path) -> None:
    killed = uri
    process = start(tuned_file, killed)
    trials = trials_of(study, killed)
    deadline = time.monotonic() + 120
    while not (trials.valid(TrialState.COMPLETE) and any(RUN in t.user_attrs for t in trials.valid(RUNNING))):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = len(trials.valid())
    assert before < 4
    run_search(trials_of(study, killed), str(tmp_path / "resumed"))
    assert told(trials_of(study, killed)) == told(undisturbed)
    statuses = [run.info.status for run in runs_of(trials, Kind.TRIAL)]
    assert sorted(statuses) in (["FINISHED"] * 4 + ["KILLED"], ["FINISHED"] * 4)
    assert sorted(run.info.status for run in runs_of(trials, Kind.TUNE)) == ["FINISHED", "KILLED"]


@pytest.mark.slow
def test_two_at_once_share_the_trials(study, tuned_file, uri) -> None:
    processes = [start(tuned_file, uri, "--trials", "8") for _ in range(2)]
    for process in processes:
        output, _ = process.communicate(timeout=400)
        assert process.returncode == 0, output
        assert "next:\n  the tuned study:  mlflow run . -e study" in output
    trials = trials_of(study, uri, trials=8)
    assert len(trials.valid()) == 8
    assert not trials.valid(TrialState.RUNNING)
    assert not trials.valid(TrialState.FAIL)
