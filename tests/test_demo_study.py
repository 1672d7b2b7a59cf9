"""The main job as a newcomer runs it: the whole demo, its regimes, and a second run that finds everything done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

PROJECT = Path(__file__).resolve().parents[1]


def run(store: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=PROJECT,
        env=os.environ | {"MLFLOW_TRACKING_URI": store},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_demo_shows_the_regimes_and_a_second_run_trains_nothing(tmp_path: Path) -> None:
    store, report = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "report"
    assert "130 jobs done, 0 failed" in run(store, "entrypoints.study", "--study", "demo")
    assert "regime" in run(store, "entrypoints.analyze", "--study", "demo", "--output", str(report))

    regimes = pd.read_csv(report / "regimes.csv").set_index("regime")
    assert regimes.loc["MT-CL", "mean"] > 2 * regimes.loc["MT-CL", "run_se"]
    contrasts = pd.read_csv(report / "contrasts.csv").set_index("contrast")
    assert list(contrasts.index) == ["MT-ML − MT-CL", "MT-CL − CT-ML", "MT-CL − CT-CL", "CT-ML − CT-CL"]
    assert (contrasts["estimate"].iloc[:3] > 2 * contrasts["se"].iloc[:3]).all()
    cells = pd.read_parquet(report / "cells.parquet")
    assert (cells["noise"] == "measured over questions").all()
    assert cells[["se", "p", "shrunken", "shrunken_sd"]].notna().all(axis=None)
    assert (report / "report.html").stat().st_size > 100_000

    again = run(store, "entrypoints.study", "--study", "demo")
    assert "there already 2 baseline, 128 finetune, 128 evaluate" in again
    assert "0 jobs done, 0 failed" in again
