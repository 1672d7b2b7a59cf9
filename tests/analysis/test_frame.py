"""Reading a study back from the store it was recorded in."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from mlflow import MlflowClient

import analysis.reading.frame
from analysis.reading.frame import EmptyStudyError, Frame, InconsistentRunError, cells, load
from registry.cells import Cell, regime_of
from registry.tracking.columns import CELL_KEY, OBSERVATION_COLUMNS
from registry.tracking.names import Kind, Tag
from registry.tracking.store import shown_uri

if TYPE_CHECKING:
    from tests.analysis.conftest import Planted, Recorder

ONE = "lab/one-0.5b"
SOURCE, OTHER = Cell("arc", "de"), Cell("arc", "en")
BASELINE = {SOURCE: 0.5, OTHER: 0.4}


def _one(recorder: Recorder, **options: Any) -> str:
    """Record a baseline and one evaluation; return the evaluation."""
    base = recorder.baseline(ONE, BASELINE)
    return recorder.evaluation(ONE, SOURCE, 17, {SOURCE: 0.52, OTHER: 0.41}, BASELINE, base, **options)


def test_every_planted_number_comes_back(frame: Frame, planted: Planted) -> None:
    assert list(frame.observations.columns) == OBSERVATION_COLUMNS
    assert len(frame.observations) == len(planted.scores) == 2 * 6 * 6 * 2
    for row in frame.observations.itertuples():
        source, target = Cell(row.source_task, row.source_language), Cell(row.target_task, row.target_language)
        expected = planted.scores[row.model, source, target, row.seed]
        assert row.score == expected
        assert row.acc == expected - 0.01
        assert row.baseline == planted.baselines[row.model][target]
        assert row.delta == pytest.approx(100 * (expected - row.baseline), abs=1e-9)
        assert row.regime == regime_of(source, target)
        assert (row.model_family, row.model_size_b) == (("One", 0.5) if row.model == ONE else ("Two", 7.0))
        assert row.model_version.endswith("/1")
    assert frame.notes == ()


def test_paging_loses_nothing(client: MlflowClient, frame: Frame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis.reading.frame, "_PAGE", 5)
    pd.testing.assert_frame_equal(load(client, "small").observations, frame.observations)


def test_cells_average_seeds(frame: Frame, planted: Planted) -> None:
    table = cells(frame.observations)
    assert not table.duplicated(CELL_KEY).any()
    assert (table["n_seeds"] == 2).all()
    for row in table.itertuples():
        source, target = Cell(row.source_task, row.source_language), Cell(row.target_task, row.target_language)
        deltas = [
            100 * (planted.scores[row.model, source, target, seed] - planted.baselines[row.model][target])
            for seed in planted.seeds
        ]
        assert row.delta == pytest.approx(sum(deltas) / 2, abs=1e-9)
        assert row.delta_sd == pytest.approx(abs(deltas[0] - deltas[1]) / math.sqrt(2), abs=1e-9)


def test_below_chance_is_flagged(frame: Frame, planted: Planted) -> None:
    flagged = frame.baselines[frame.baselines["below_chance"]]
    assert [(row.model, Cell(row.task, row.language)) for row in flagged.itertuples()] == [planted.below_chance]
    assert flagged["score"].item() == 0.2
    assert flagged["chance"].item() == 0.25


def test_baselines_recorded_with_p_values_are_tested_over_all(recorder: Recorder) -> None:
    _one(recorder)
    metrics = {"score/arc/en": 0.2, "chance/arc/en": 0.25, "chance_p/arc/en": 0.001}
    metrics |= {"score/arc/de": 0.24, "chance/arc/de": 0.25, "chance_p/arc/de": 0.4}
    tags = {Tag.BASE_MODEL: "lab/two-7b", Tag.FINGERPRINT: "two"}
    recorder.run(Kind.BASELINE, tags, metrics)
    table = load(recorder.client, recorder.study).baselines.set_index(["model", "language"])
    assert table["below_chance"].to_dict()["lab/two-7b", "en"]
    assert not table["below_chance"].to_dict()["lab/two-7b", "de"]
    assert table["chance_q"].dropna().tolist() == pytest.approx([0.4, 0.002])


def test_only_finished_runs_count(recorder: Recorder) -> None:
    run = _one(recorder)
    for seed, status in ((42, "FAILED"), (101, "RUNNING")):
        recorder.evaluation(ONE, SOURCE, seed, {OTHER: 0.9}, BASELINE, "none", status=status)
    frame = load(recorder.client, recorder.study)
    assert set(frame.observations["run_id"]) == {run}
    assert "Unfinished evaluations do not count: FAILED 1, RUNNING 1." in frame.notes


def test_of_another_fingerprint_the_newest_run_counts(recorder: Recorder) -> None:
    older = _one(recorder)
    tags = {Tag.FINGERPRINT: "other"}
    newer = recorder.evaluation(ONE, SOURCE, 17, {SOURCE: 0.6, OTHER: 0.6}, BASELINE, "none", **tags)
    frame = load(recorder.client, recorder.study)
    assert set(frame.observations["run_id"]) == {newer}
    (note,) = frame.left_out
    assert "The fingerprints differ" in note
    assert note.index(older) < note.index(newer)


def test_gaps_and_mixed_protocols_are_noted(recorder: Recorder) -> None:
    _one(recorder)
    recorder.evaluation(ONE, OTHER, 17, {OTHER: 0.41}, BASELINE, "none", protocol="paper-v1")
    recorder.evaluation(ONE, SOURCE, 42, {OTHER: 0.41}, BASELINE, "none")
    notes = " ".join(load(recorder.client, recorder.study).notes)
    assert "paper (2 adapters), paper-v1 (1 adapters)" in notes
    assert "3 of 4 model × source × target cells" in notes
    assert "2 of 3 cells average fewer than 2 seeds" in notes


def test_a_lost_baseline_is_noted_and_a_borrowed_one_found(recorder: Recorder, client: MlflowClient) -> None:
    lender = type(recorder)(client, f"{recorder.study}-lender")
    base = lender.baseline(ONE, BASELINE)
    recorder.evaluation(ONE, SOURCE, 17, {OTHER: 0.41}, BASELINE, base)
    recorder.evaluation(ONE, SOURCE, 42, {OTHER: 0.41}, BASELINE, "0" * 32)
    frame = load(client, recorder.study)
    by_seed = frame.observations.set_index("seed")["baseline"]
    assert by_seed[17] == 0.4
    assert math.isnan(by_seed[42])
    assert any("1 evaluation run cannot be read" in note for note in frame.notes)


def test_a_wrong_delta_names_its_run(recorder: Recorder) -> None:
    run = _one(recorder, error_pp=1e-3)
    with pytest.raises(InconsistentRunError, match=rf"run {run} .*delta on arc/.. is recorded as"):
        load(recorder.client, recorder.study)


SPOILED: list[tuple[str, dict[str, Any], str]] = [
    ("no seed", {Tag.SEED: None}, "has no tag 'seed'"),
    ("no base", {Tag.BASE_MODEL: None}, "has no tag 'base_model'"),
    ("no fingerprint", {Tag.FINGERPRINT: None}, "has no tag 'fingerprint'"),
    ("seed is a word", {Tag.SEED: "first"}, "'first', which is not a number"),
    ("seed is endless", {Tag.SEED: "inf"}, "'inf', which is not a number"),
    ("seed is too large", {Tag.SEED: "1e300"}, "which is no seed"),
    ("size is a word", {Tag.MODEL_SIZE_B: "big"}, "'big', which is not a number"),
    ("source is none", {Tag.SOURCE_TASK: "a b"}, "task name 'a b' is not usable"),
    ("another source", {Tag.SOURCE_LANGUAGE: "xx"}, "is misnamed"),
]


def test_a_run_that_cannot_be_placed_is_left_out_with_a_word(recorder: Recorder, tmp_path: Path) -> None:
    """Other tools' runs and broken ones change no number, and stop nothing."""
    good = _one(recorder)
    for number, (name, changed, told) in enumerate(SPOILED):
        tags = {Tag.FINGERPRINT: f"spoiled {number}"}
        spoiled = recorder.evaluation(ONE, SOURCE, 17, {SOURCE: 0.9, OTHER: 0.9}, BASELINE, "none", **tags)
        for tag, value in changed.items():
            if value is None:
                recorder.client.delete_tag(spoiled, tag)
            else:
                recorder.client.set_tag(spoiled, tag, value)
        for _ in range(2):  # from the store, and from what was kept
            frame = load(recorder.client, recorder.study, cache=tmp_path)
            assert (name, set(frame.observations["run_id"])) == (name, {good})
            (note,) = frame.left_out
            assert note in frame.notes
            assert (name, spoiled in note, told in note) == (name, True, True)
        recorder.client.delete_run(spoiled)


def test_metrics_of_other_tools_are_none_of_a_target(recorder: Recorder) -> None:
    run = _one(recorder)
    for metric in ("score/mean", "score/a b/c", "delta/all", "delta/XX/arc/de", "delta/MT-ML/arc", "chance"):
        recorder.client.log_metric(run, metric, 0.99)
    frame = load(recorder.client, recorder.study)
    assert set(zip(frame.observations["target_task"], frame.observations["target_language"], strict=True)) == {
        (SOURCE.task, SOURCE.language),
        (OTHER.task, OTHER.language),
    }


def test_an_unknown_study_says_what_there_is(client: MlflowClient, frame: Frame) -> None:
    with pytest.raises(EmptyStudyError) as raised:
        load(client, "smal")
    message = str(raised.value)
    for part in ("'smal'", client.tracking_uri, "Did you mean 'small'"):
        assert part in message


def test_a_study_that_was_never_run_says_how(client: MlflowClient) -> None:
    client.create_experiment("demo")
    with pytest.raises(EmptyStudyError, match=r"-e study --env-manager local -P study=<its name or file>$") as raised:
        load(client, "demo")
    assert "Did you mean" not in str(raised.value)
    assert "similar name" not in str(raised.value)


def test_a_study_without_finished_evaluations_says_so(recorder: Recorder) -> None:
    _one(recorder, status="FAILED")
    with pytest.raises(EmptyStudyError, match=r"no finished evaluation \(FAILED 1\)"):
        load(recorder.client, recorder.study)


def test_a_deleted_study_says_how_to_restore_it(recorder: Recorder) -> None:
    _one(recorder)
    recorder.client.delete_experiment(recorder.experiment)
    with pytest.raises(EmptyStudyError, match="mlflow experiments restore"):
        load(recorder.client, recorder.study)


def test_passwords_are_not_printed() -> None:
    address = shown_uri("postgresql://me:secret@host:5432/runs")
    assert address == "postgresql://me:***@host:5432/runs"
