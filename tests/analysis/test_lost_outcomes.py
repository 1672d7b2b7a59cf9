"""An analysis whose outcomes of questions cannot be read: refused, or said on the terminal, in the run and report."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from mlflow import MlflowClient

from analysis.corrected.by_cell import by_cell
from analysis.measures.answers import RunKey
from analysis.reading.cache import cache_root
from analysis.reading.frame import load
from analysis.reading.observations import cells
from analysis.reading.outcomes import stored_outcomes, study_outcomes
from analysis.record import record_analysis
from registry.errors import Refused
from registry.tracking.names import Kind, Tag
from registry.tracking.recording import local_folder
from registry.tracking.store import all_runs, displacement, open_store
from tests.analysis.conftest import Recorder
from tests.analysis.test_stored_outcomes import ARC, MMLU, ONE, log, options, scores, told
from tests.closed_stores import close_store

if TYPE_CHECKING:
    from mlflow.entities import Run

ANSWERS = {RunKey(ONE): 0, RunKey(ONE, ARC, 1): 1, RunKey(ONE, ARC, 2): 2, RunKey(ONE, MMLU, 1): 3}


@pytest.fixture
def lost(new_store, tmp_path: Path, monkeypatch) -> Recorder:
    """A study in a store of its own: a base and three adapters, each with its outcomes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    uri = new_store()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    recorder = Recorder(open_store(uri), "lost")
    base = options(0, cells=(ARC, MMLU))
    base_run = recorder.baseline(ONE, scores(base), **told())
    log(recorder, base_run, base, tmp_path)
    for key, seed in ANSWERS.items():
        if key.source is not None:
            mine = options(seed)
            run = recorder.evaluation(ONE, key.source, key.seed, scores(mine), scores(base), base_run, **told())
            log(recorder, run, mine, tmp_path)
    return recorder


def answers(recorder: Recorder) -> list[Path]:
    """The files with the outcomes."""
    runs = all_runs(recorder.client, [recorder.experiment], "")
    folders = [local_folder(run.info.artifact_uri) for run in runs]
    return sorted(folder / "outcomes.parquet" for folder in folders if folder is not None)


def analyzed(client: MlflowClient, experiment: str) -> list[Run]:
    return all_runs(client, [experiment], f"tags.{Tag.KIND} = '{Kind.ANALYZE}'")


@pytest.mark.slow
def test_measured_noise_is_told_and_recorded(lost: Recorder, command, tmp_path: Path) -> None:
    code, output, errors = command(
        "analyze", "--study", "lost", "--output", tmp_path / "report", "--mixed-models", "no"
    )
    assert code == 0, errors
    assert "noise:   measured over questions" in output
    assert "ASSUMED" not in output
    (run,) = analyzed(lost.client, lost.experiment)
    assert run.data.tags[Tag.NOISE] == "measured over questions"


def test_lost_outcomes_are_refused_until_noise_may_be_assumed(lost: Recorder, command, tmp_path: Path) -> None:
    first, *_ = answers(lost)
    for file in answers(lost):
        file.unlink()
    code, output, errors = command("analyze", "--study", "lost", "--output", tmp_path / "report")
    assert code == 2
    assert "outcomes of 4 runs of study 'lost' cannot be read" in errors
    assert str(first.parents[2]) in errors
    assert "-P assume_noise=true" in errors
    assert len(errors.strip().splitlines()) == 2
    assert not analyzed(lost.client, lost.experiment)
    assert not (tmp_path / "report").exists()
    arguments = ("--study", "lost", "--output", tmp_path / "report", "--mixed-models", "no", "--assume-noise", "true")
    code, output, errors = command("analyze", *arguments)
    assert code == 0, errors
    assert "noise:   ASSUMED, not measured" in output
    assert "outcomes of 4 runs cannot be read" in output
    (run,) = analyzed(lost.client, lost.experiment)
    assert run.data.tags[Tag.NOISE].startswith("ASSUMED")
    assert "ASSUMED" in run.data.tags["mlflow.note.content"]
    report = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "Sampling noise is assumed" in report
    assert "outcomes of 4 runs cannot be read" in report


@pytest.mark.parametrize(
    "harm",
    [
        "one is cut off",
        pytest.param("one is gone", marks=pytest.mark.slow),
        pytest.param("the baseline's is gone", marks=pytest.mark.slow),
    ],
)
def test_a_part_that_cannot_be_read_is_no_less_told(lost: Recorder, tmp_path: Path, harm: str) -> None:
    def of_kind(kind: Kind) -> Path:
        run = all_runs(lost.client, [lost.experiment], f"tags.{Tag.KIND} = '{kind}'")[0]
        folder = local_folder(run.info.artifact_uri)
        assert folder is not None
        return folder / "outcomes.parquet"

    file = of_kind(Kind.BASELINE if "baseline" in harm else Kind.EVALUATE)
    content = file.read_bytes()
    file.unlink()
    if harm == "one is cut off":
        file.write_bytes(content[: len(content) // 2])
    with pytest.raises((Refused, ValueError), match="cannot be read") as refusal:
        record_analysis(lost.client, "lost", tmp_path / "report", mixed_models=False)
    assert str(file) in str(refusal.value)
    assert "delete" not in str(refusal.value)
    result, run_id = record_analysis(lost.client, "lost", tmp_path / "report", mixed_models=False, assume_noise=True)
    assert any("assume_noise=true: recorded outcomes of 1 run cannot be read" in note for note in result.noise_notes)
    assert any("assume_noise=true" in note for note in result.notes)
    assert "assume_noise=true" in lost.client.get_run(run_id).data.tags["mlflow.note.content"]


def test_a_moved_study_is_analysed_only_with_its_outcomes(lost: Recorder, tmp_path: Path) -> None:
    before = statistics(lost.client)
    folder = Path(lost.client.tracking_uri.removeprefix("sqlite:///")).parent
    close_store(lost.client)
    moved = f"sqlite:///{tmp_path}/moved/mlflow.db"
    shutil.move(folder, tmp_path / "moved")
    with pytest.raises(Refused, match="was moved"):
        open_store(moved)
    # Read by whoever opens it in another way, it is not analysed by an assumed noise.
    away = open_store(moved, displaced=True)
    with pytest.raises(Refused, match="cannot be read"):
        record_analysis(away, "lost", tmp_path / "other", mixed_models=False)
    found = displacement(away)
    assert found is not None
    found.repair()
    pd.testing.assert_frame_equal(statistics(open_store(moved)), before)


def statistics(client: MlflowClient) -> pd.DataFrame:
    """The test of every cell, read by way of what is kept of earlier readings."""
    frame = load(client, "lost", cache=cache_root())
    stored = stored_outcomes(client, frame, cache=cache_root())
    known = by_cell(cells(frame.observations), study_outcomes(stored))
    assert not known.assumed
    return known.cells
