"""A study leaves a complete grid of runs whose numbers can be worked out again from what lies beside them."""

from __future__ import annotations

import dataclasses
import logging
import os
import statistics
import time
from statistics import fmean

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.artifacts import download_artifacts
from scipy import stats

from registry.cells import Cell, Regime, regime_of
from registry.config.files import load_study
from registry.errors import Refused
from registry.evaluation.outcomes import Questions
from registry.files.outputs import file_digest
from registry.lora import score, train
from registry.planning.estimate import estimate
from registry.planning.plan import look_up
from registry.runner import job_executor
from registry.runner.recorder import Recorder
from registry.runner.session import prospect
from registry.tracking.names import Kind, Tag
from registry.tracking.outcomes import outcomes_file, outcomes_problem
from registry.tracking.store import experiment_id
from tests.bench.replayed import replay


def outcomes(records, run) -> pd.DataFrame:
    mlflow.set_tracking_uri(records.uri)
    return pd.read_parquet(download_artifacts(f"{run.info.artifact_uri}/outcomes.parquet"))


def source_of(run) -> Cell:
    return Cell(run.data.tags[Tag.SOURCE_TASK], run.data.tags[Tag.SOURCE_LANGUAGE])


def test_every_run_of_the_grid_is_there_once(finished) -> None:
    finished.assert_complete()
    assert [len(finished.finished(kind)) for kind in (Kind.BASELINE, Kind.FINETUNE, Kind.EVALUATE)] == [1, 8, 8]
    (study,) = finished.runs(Kind.STUDY)
    assert study.info.status == "FINISHED"
    assert {run.info.status for run in finished.runs()} == {"FINISHED"}
    assert study.data.metrics == {"jobs/planned": 9, "jobs/failed": 0}


def test_what_is_done_is_not_done_again(finished, monkeypatch, rerun) -> None:
    before = {run.info.run_id for run in finished.runs()}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", finished.uri)
    ready = prospect(finished.study, workers=1)
    assert ready.plan.todo == ()
    assert "there already 1 baseline, 8 finetune, 8 evaluate" in ready.summary()
    assert rerun(finished) == []
    assert {run.info.run_id for run in finished.runs()} == before


def test_two_workers_come_to_the_same_results_bit_for_bit(finished, records, rerun) -> None:
    assert rerun(records, workers=2) == []
    records.assert_complete()
    # The first to be ready may do all of so small a study; none of it may be done here.
    here, there = ({run.data.tags[Tag.WORKER] for run in r.runs(Kind.EVALUATE)} for r in (finished, records))
    assert all(f":{os.getpid()}-" in worker for worker in here)
    assert not any(f":{os.getpid()}-" in worker for worker in there)
    assert records.results() == finished.results()


def test_adapters_of_different_cells_and_seeds_differ(finished) -> None:
    digests = [finished.digest(run) for run in finished.finished(Kind.FINETUNE).values()]
    assert len(set(digests)) == 8
    scores = {
        tuple(value for key, value in sorted(run.data.metrics.items()) if key.startswith("score/"))
        for run in finished.finished(Kind.EVALUATE).values()
    }
    assert len(scores) > 4, "training must move the scores, or comparing them proves little"


def test_outcomes_reproduce_the_recorded_accuracies(finished) -> None:
    runs = [*finished.finished(Kind.EVALUATE).values(), *finished.finished(Kind.BASELINE).values()]
    for run in runs:
        frame = outcomes(finished, run)
        assert len(frame) == 4 * 16 * 4
        metrics = run.data.metrics
        for (task, language), cell in frame.groupby(["task", "language"], observed=True):
            questions = [rows for _, rows in cell.groupby("question", sort=False)]
            assert len(questions) == 16
            plain = [rows.right.iloc[int(np.argmax(rows.loglikelihood))] for rows in questions]
            by_length = [rows.right.iloc[int(np.argmax(rows.loglikelihood / rows.length))] for rows in questions]
            if run.data.tags[Tag.KIND] == Kind.BASELINE:
                assert metrics[f"acc/{task}/{language}"] == fmean(plain)
                assert metrics[f"acc_norm/{task}/{language}"] == fmean(by_length)
            assert metrics[f"score/{task}/{language}"] == fmean(by_length)
            guessed = metrics.get(f"chance/{task}/{language}")
            assert guessed == (0.25 if run.data.tags[Tag.KIND] == Kind.BASELINE else None)
            assert [rows.right[rows.chosen].item() for rows in questions] == plain
            assert [rows.right[rows.chosen_norm].item() for rows in questions] == by_length


def test_every_scoring_records_the_digest_of_its_outcomes(finished) -> None:
    for kind in (Kind.BASELINE, Kind.EVALUATE):
        for run in finished.finished(kind).values():
            with outcomes_file(finished.client, run) as path:
                assert path is not None
                assert file_digest(path) == run.data.tags[Tag.OUTCOMES_DIGEST]
                assert outcomes_problem(path, run.data.tags, run.data.metrics) == ""


def test_outcomes_stand_for_the_items_of_the_study(finished) -> None:
    (baseline,) = finished.finished(Kind.BASELINE).values()
    frame = outcomes(finished, baseline)
    items = finished.experiment.items
    for cell in finished.experiment.grid:
        part = frame[(frame.task == cell.task) & (frame.language == cell.language)]
        expected = [
            (item.id, number, len(option), number == item.answer)
            for item in items.test(cell)
            for number, option in enumerate(item.options)
        ]
        assert list(part[["question", "option", "length", "right"]].itertuples(index=False, name=None)) == expected


def test_deltas_and_regimes_follow_from_the_scores(finished) -> None:
    (baseline,) = finished.finished(Kind.BASELINE).values()
    cells = list(finished.experiment.grid)
    for run in finished.finished(Kind.EVALUATE).values():
        metrics, by_regime = run.data.metrics, {regime: [] for regime in Regime}
        for cell in cells:
            regime = regime_of(source_of(run), cell)
            delta = 100 * (metrics[f"score/{cell}"] - baseline.data.metrics[f"score/{cell}"])
            assert metrics[f"delta/{regime}/{cell}"] == pytest.approx(delta)
            by_regime[regime].append(delta)
        for regime, deltas in by_regime.items():
            assert len(deltas) == 1
            assert metrics[f"delta_mean/{regime}"] == pytest.approx(fmean(deltas))
            assert metrics[f"positive_rate/{regime}"] == 100 * fmean(delta > 0 for delta in deltas)
            assert metrics[f"harm_rate/{regime}"] == 100 * fmean(delta <= -1 for delta in deltas)
        assert sum(key.startswith("delta/") for key in metrics) == len(cells)
        assert run.data.tags[Tag.BASELINE_RUN] == baseline.info.run_id


def test_an_evaluation_links_its_regimes_its_adapter_and_its_fine_tune(finished) -> None:
    assert_linked(finished)


def assert_linked(records) -> None:
    tunes = {run.info.run_id: run for run in records.finished(Kind.FINETUNE).values()}
    for run in records.finished(Kind.EVALUATE).values():
        contexts = {tag.value for entry in run.inputs.dataset_inputs for tag in entry.tags if tag.key == "regime"}
        assert contexts == set(Regime)
        tune = tunes[run.data.tags[Tag.FINETUNE_RUN]]
        assert (source_of(tune), tune.data.tags[Tag.SEED]) == (source_of(run), run.data.tags[Tag.SEED])
        whole = records.client.get_run(run.info.run_id)  # a search leaves the models out
        assert [model.model_id for model in whole.inputs.model_inputs] == [tune.data.tags[Tag.MODEL_ID]]
        logged = records.client.get_logged_model(tune.data.tags[Tag.MODEL_ID])
        on_model = {metric.key: metric.value for metric in logged.metrics}
        assert on_model["delta_mean/MT-ML"] == run.data.metrics["delta_mean/MT-ML"]


def test_a_fine_tune_records_its_losses_its_recipe_and_its_training_set(finished) -> None:
    run = next(iter(finished.finished(Kind.FINETUNE).values()))
    losses = finished.client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in losses] == [1, 2, 3, 4, 5, 6]
    assert losses[-1].value == run.data.metrics["train/final_loss"] < losses[0].value
    assert (run.data.params["lora.rank"], run.data.params["learning_rate"]) == ("4", "0.05")
    (entry,) = run.inputs.dataset_inputs
    assert entry.dataset.name == "demo training"


def test_the_recorded_study_and_manifests_load_back_to_the_same_jobs(finished, tmp_path) -> None:
    mlflow.set_tracking_uri(finished.uri)
    (run,) = finished.runs(Kind.STUDY)
    download_artifacts(run_id=run.info.run_id, dst_path=str(tmp_path))
    content = yaml.safe_load((tmp_path / "study.yaml").read_text())
    content["split"] = {"manifest": str(tmp_path / "manifest")}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(content))
    for file in ("study.yaml", "again.yaml"):
        again = type(finished)(finished.uri, load_study(str(tmp_path / file)))
        assert again.experiment.jobs() == finished.experiment.jobs()


def test_a_baseline_below_chance_is_tagged_and_logged(few_records, rerun, monkeypatch, caplog) -> None:
    """By a test: of the targets that lie below, only the one that guessing would hardly score."""
    questions = Questions.of(few_records.experiment)
    rights = {"kind/en": 0, "kind/tr": 3, "pair/en": 2, "pair/tr": 16}  # of 16, four of which guessing has

    def answered(*_: object, **__: object) -> list[np.ndarray]:
        values = [np.zeros(count) for count in questions.counts]
        for cell, part in questions.targets.items():
            for number, question in enumerate(range(part.start, part.stop)):
                right = int(questions.answers[question])
                chosen = right if number < rights[str(cell)] else (right + 1) % len(values[question])
                values[question][chosen] = 1000.0
        return values

    monkeypatch.setattr(job_executor, "loglikelihoods", answered)
    with caplog.at_level(logging.WARNING):
        rerun(few_records)
    (baseline,) = few_records.finished(Kind.BASELINE).values()
    metrics = baseline.data.metrics
    assert [metrics[f"score/{cell}"] < metrics[f"chance/{cell}"] for cell in rights] == [True, True, True, False]
    p = [stats.binomtest(right, 16, 0.25, alternative="less").pvalue for right in rights.values()]
    assert [metrics[f"chance_p/{cell}"] for cell in rights] == pytest.approx(p)
    assert baseline.data.tags[Tag.BELOW_CHANCE] == "kind/en"
    (told,) = [record.getMessage() for record in caplog.records if "below chance" in record.getMessage()]
    assert told.startswith(
        "tiny: baseline of kind/en is below chance (0.000, guessing 0.250; exact one-sided test over 4"
    )
    assert "q = 0.04" in told
    assert {run.data.tags[Tag.BELOW_CHANCE] for run in few_records.runs(Kind.EVALUATE)} == {"kind/en"}


def test_a_job_that_fails_is_told_and_the_others_go_on(records, rerun, monkeypatch, finished) -> None:
    own = train.train_adapters

    def failing(base, assignments, recipe, **options):
        if assignments[0].seed == 42 and assignments[0].examples == broken:
            return [FloatingPointError("the loss is nan at step 3")]
        broken[:] = broken or assignments[0].examples
        return own(base, assignments, recipe, **options)

    broken: list[object] = []  # the examples of the first cell
    monkeypatch.setattr(train, "train_adapters", failing)
    failures = rerun(records)
    assert [(str(failure.job), failure.reason) for failure in failures] == [
        ("tiny kind/en seed 42", "FloatingPointError: the loss is nan at step 3")
    ]
    (failed,) = records.runs(status="FAILED")
    assert failed.info.run_name == "finetune tiny kind/en seed 42"
    assert len(records.finished(Kind.EVALUATE)) == 7
    assert not records.runs(status="RUNNING")
    monkeypatch.undo()
    assert rerun(records) == []
    assert records.results() == finished.results()


@pytest.mark.parametrize("workers", [1, 2])
def test_adapters_trained_together_are_recorded_one_by_one(records, finished, rerun, workers: int) -> None:
    records = dataclasses.replace(records, study=dataclasses.replace(records.study, adapters_at_once=3))
    assert rerun(records, workers=workers) == []
    records.assert_complete()
    for kind in (Kind.FINETUNE, Kind.EVALUATE):
        alone, together = finished.finished(kind), records.finished(kind)
        assert set(together) == set(alone), "how many train together decides no fingerprint"
        for fingerprint, run in together.items():
            assert run.info.end_time > run.info.start_time
            for name, value in alone[fingerprint].data.metrics.items():
                if name.startswith(("train/", "validation/")):
                    assert run.data.metrics[name] == pytest.approx(value, abs=1e-4), name


def test_one_adapter_of_several_that_fails_does_not_stop_the_others(records, rerun, monkeypatch) -> None:
    own = train.train_adapters

    def failing(base, assignments, recipe, **options):
        found = own(base, assignments, recipe, **options)
        return [FloatingPointError("the loss is nan at step 3"), *found[1:]] if len(found) > 2 else found

    records = dataclasses.replace(records, study=dataclasses.replace(records.study, adapters_at_once=6))
    monkeypatch.setattr(train, "train_adapters", failing)
    failures = rerun(records)
    assert [failure.reason for failure in failures] == ["FloatingPointError: the loss is nan at step 3"]
    assert len(records.runs(Kind.FINETUNE, "FAILED")) == 1
    assert len(records.finished(Kind.EVALUATE)) == 7


def test_every_run_tells_what_it_took(finished) -> None:
    for kind, phase in ((Kind.FINETUNE, "train"), (Kind.EVALUATE, "score"), (Kind.BASELINE, "score")):
        for run in finished.finished(kind).values():
            metrics = run.data.metrics
            assert metrics[f"tokens_per_second/{phase}"] == pytest.approx(
                metrics[f"tokens/{phase}"] / metrics[f"seconds/{phase}"]
            )
            assert metrics[f"tflop_per_second/{phase}"] > 0
            assert 0.1 < metrics[f"peak_memory_gb/{phase}"] < 20


def test_what_a_phase_took_holds_nothing_but_its_tokens(few_records, monkeypatch) -> None:
    """Whoever is told of the progress may be slow, and a base is tried before its first scoring: neither counts."""
    study = dataclasses.replace(
        few_records.study, recipe=dataclasses.replace(few_records.study.recipe, validation=0.25)
    )
    few_records = dataclasses.replace(few_records, study=study)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", few_records.uri)
    ready = prospect(study, workers=1)
    worker = job_executor.JobExecutor(Recorder(ready.experiment, ready.client, ready.experiment_id, "cpu"))
    tried, found = job_executor.loglikelihoods, score.batching_of

    def slowly(model, questions, **more):
        monkeypatch.setattr(score, "batching_of", lambda base: time.sleep(0.5) or found(base))
        return tried(model, questions, **more)

    monkeypatch.setattr(job_executor, "loglikelihoods", slowly)
    for job, step in ready.plan.todo[:2]:
        (error,) = [error for _, error in worker.do([(job, step)], lambda phase, share: time.sleep(0.3))]
        assert error is None
    ((tune,), (baseline,), (evaluation,)) = (
        few_records.finished(kind).values() for kind in (Kind.FINETUNE, Kind.BASELINE, Kind.EVALUATE)
    )
    for run, phases in ((tune, ("train", "validation")), (baseline, ("score",)), (evaluation, ("score",))):
        metrics = run.data.metrics
        took, waited = (run.info.end_time - run.info.start_time) / 1000, 0.8 if run is not tune else 0.3
        assert 0 < sum(metrics[f"seconds/{phase}"] for phase in phases) < took - waited
        for phase in phases:
            expected = metrics[f"tokens/{phase}"] / metrics[f"seconds/{phase}"]
            assert metrics[f"tokens_per_second/{phase}"] == pytest.approx(expected)
            assert metrics[f"tflop_per_second/{phase}"] > 0
    assert tune.data.metrics["tokens/train"] > 2 * tune.data.metrics["tokens/validation"] > 0


def test_without_a_baseline_nothing_is_trained(few_records, rerun, monkeypatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(job_executor, "loglikelihoods", failing)
    failures = rerun(few_records)
    assert [failure.reason for failure in failures] == [
        "RuntimeError: out of memory",
        *["tiny baseline failed, which it needs"] * 2,
    ]
    assert not few_records.runs(Kind.FINETUNE)


def test_what_another_process_did_since_the_plan_was_made_is_not_done_again(few_records, rerun) -> None:
    stale = prospect(few_records.study, workers=1)
    assert len(stale.plan.todo) == 3
    rerun(few_records)
    before = {run.info.run_id for run in few_records.runs()}
    worker = job_executor.JobExecutor(Recorder(stale.experiment, stale.client, stale.experiment_id, "cpu"))
    for job, step in stale.plan.todo:
        assert [error for _, error in worker.do([(job, step)], lambda phase, share: None)] == [None]
    assert {run.info.run_id for run in few_records.runs()} == before


def test_an_adapter_whose_evaluation_is_missing_is_scored_from_the_registry(few_records, rerun, finished) -> None:
    rerun(few_records)
    for run in few_records.runs(Kind.EVALUATE)[:1]:
        few_records.client.delete_run(run.info.run_id)
    assert rerun(few_records) == []
    few_records.assert_complete()
    assert_linked(few_records)
    expected = finished.results()
    assert few_records.results() == {key: expected[key] for key in few_records.results()}


def test_in_bf16_and_with_validation_an_adapter_scores_the_same_fresh_and_from_the_registry(
    uri, small_study, rerun, finished
) -> None:
    changed = ("  validation: 0\n", "  validation: 0.25\n  precision: bf16\n"), ("epochs: 1", "epochs: 2")
    records = type(finished)(uri, small_study(("seeds: [17, 42]", "seeds: [17]\nsources: [pair/tr]"), *changed))
    assert rerun(records) == []
    (tune,) = records.runs(Kind.FINETUNE)
    curve = [point.value for point in records.client.get_metric_history(tune.info.run_id, "validation/loss")]
    assert tune.data.metrics["train/kept_epoch"] == 1 + curve.index(min(curve))
    assert len(curve) == 2
    before = records.results()
    (evaluation,) = records.runs(Kind.EVALUATE)
    records.client.delete_run(evaluation.info.run_id)
    assert rerun(records) == []
    assert records.results() == before


def test_the_cost_of_what_is_left_is_told_from_what_was_done(finished, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", finished.uri)
    more = dataclasses.replace(finished.study, seeds=(17, 42, 101))
    ready = prospect(more, workers=2)
    assert (ready.plan.fine_tunes, ready.plan.evaluations) == (4, 4)
    took = [
        statistics.median((run.info.end_time - run.info.start_time) / 1000 for run in finished.finished(kind).values())
        for kind in (Kind.FINETUNE, Kind.EVALUATE)
    ]
    cost = estimate(ready.experiment, ready.plan, look_up(more.name), workers=2)
    assert cost.basis == "finished runs of the same bases, scaled by tokens"
    assert cost.seconds == pytest.approx(4 * sum(took) / 2, rel=0.5)  # as many tokens each, on a machine that is busy
    (weights, *_) = finished.folder.rglob("adapter_model.safetensors")
    assert cost.bytes / 4 == pytest.approx(weights.stat().st_size, rel=0.5)


def test_a_negative_number_of_workers_is_refused(records) -> None:
    with pytest.raises(Refused, match="workers=-1"):
        prospect(records.study, workers=-1)


def test_a_recorded_study_is_simulated_with_the_seconds_of_its_own_phases(finished) -> None:
    identity = experiment_id(finished.client, finished.study.name)
    found = replay(finished.client, identity)
    assert found is not None
    runs = [run for kind in (Kind.BASELINE, Kind.FINETUNE, Kind.EVALUATE) for run in finished.runs(kind, "FINISHED")]
    spent = sum(run.data.metrics.get(f"seconds/{phase}", 0.0) for run in runs for phase in ("train", "score"))
    took = [(run.info.end_time - run.info.start_time) / 1000 for run in runs]
    alone, two = found.simulated(1), found.simulated(2)
    assert alone.busy == pytest.approx(sum(took), rel=1e-9)
    assert sum(found.seconds.trained.values()) + sum(found.seconds.scored.values()) == pytest.approx(spent)
    assert alone.makespan == pytest.approx(alone.busy + alone.loading)
    assert alone.makespan / 2 <= two.makespan < alone.makespan
