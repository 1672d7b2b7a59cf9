"""A search: what it records, which trials it tries again or lets go, and how it ends."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from optuna.trial import TrialState

from registry.config.files import load_study
from registry.errors import Refused
from registry.runner.session import prospect, run_study
from registry.tracking import liveness
from registry.tracking.names import Kind, Tag
from registry.tuning import objective, storage
from registry.tuning.search import run_search
from registry.tuning.storage import open_storage, recipe_of, storage_url, suggest_values
from tests.clock import Clock
from tests.tuning.trials import RUNNING, runs_of, told, trials_of


def test_a_search_is_recorded_and_ends_with_a_study_that_runs(undisturbed, study, uri) -> None:
    (parent,), nested = runs_of(undisturbed, Kind.TUNE), runs_of(undisturbed, Kind.TRIAL)
    assert {run.data.tags["mlflow.parentRunId"] for run in nested} == {parent.info.run_id}
    assert {run.info.status for run in (parent, *nested)} == {"FINISHED"}
    assert len(nested) == 4
    assert undisturbed.client.search_registered_models() == []
    best = undisturbed.study.best_trial
    (winner,) = [run for run in nested if run.info.run_id == parent.data.tags[Tag.BEST_RUN]]
    assert winner.data.metrics["tune/value"] == parent.data.metrics["tune/best_value"] == best.value
    assert float(winner.data.params["learning_rate"]) == best.params["learning_rate"] == 5e-2
    assert parent.data.metrics["tune/validation_loss/pair/en"] > 0
    files = {file.path for file in undisturbed.client.list_artifacts(parent.info.run_id)}
    drawn = {f"{name}.{kind}" for name in ("history", "importances") for kind in ("png", "svg")}
    assert files == drawn | {"trials.csv", "small-tuned.yaml"}

    store = undisturbed.client.tracking_uri.removeprefix("sqlite:///")
    file = Path(store).parent / "tuned" / "small-tuned.yaml"
    first = file.read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# mlflow run . -e study --env-manager local -P study={file}"
    tuned = load_study(str(file))
    assert tuned.recipe == recipe_of(study.recipe, best.params)
    assert tuned == replace(study, name="small-tuned", recipe=tuned.recipe, tune=None)
    one = replace(tuned, sources=("kind/en",), seeds=(17,))
    assert run_study(prospect(one, workers=1)) == []


def test_nothing_left_is_not_recorded_again(study, uri, tmp_path) -> None:
    undisturbed = trials_of(study, uri)
    run_search(undisturbed, str(tmp_path / "tuned"))
    before = told(undisturbed)
    found = run_search(trials_of(study, uri), str(tmp_path / "again"))
    assert found.run_id == ""
    assert (tmp_path / "again" / "small-tuned.yaml").is_file()
    assert len(runs_of(undisturbed, Kind.TUNE)) == 1
    more = trials_of(study, uri, trials=5)
    run_search(more, str(tmp_path / "more"))
    assert (len(runs_of(more, Kind.TUNE)), len(runs_of(more, Kind.TRIAL))) == (2, 5)
    assert told(more)[:4] == before


def test_a_bad_trial_is_pruned_and_its_run_says_so(study, uri, tmp_path) -> None:
    trials = trials_of(study, uri, trials=8)
    run_search(trials, str(tmp_path))
    pruned = [run for run in runs_of(trials, Kind.TRIAL) if run.data.tags[Tag.TRIAL_STATE] == "pruned"]
    assert pruned
    assert len(pruned) == len(trials.valid(TrialState.PRUNED))
    for run in pruned:
        assert run.info.status == "FINISHED"
        assert "worse than the median" in run.data.tags[Tag.PRUNED_BECAUSE]
        assert float(run.data.params["learning_rate"]) == 1e-12
        assert "tune/value" not in run.data.metrics


def test_without_a_pruner_all_are_completed(study, uri, tmp_path) -> None:
    trials = trials_of(replace(study, tune=replace(study.tune, pruner="none")), uri, trials=5)
    run_search(trials, str(tmp_path))
    assert len(trials.valid(TrialState.COMPLETE)) == 5


def test_a_loss_that_is_not_finite_prunes_and_an_error_fails_one_trial_alone(study, uri, tmp_path, monkeypatch) -> None:
    train, calls = objective.train_adapters, []

    def sometimes(*given, **named):
        calls.append(None)
        if len(calls) == 1:
            return [FloatingPointError("the loss is nan at step 3")]
        if len(calls) == 2:
            raise RuntimeError("a cable was pulled")
        return train(*given, **named)

    monkeypatch.setattr(objective, "train_adapters", sometimes)
    trials = trials_of(study, uri)
    run_search(trials, str(tmp_path))
    runs = sorted(runs_of(trials, Kind.TRIAL), key=lambda run: int(run.data.params["trial"]))
    assert [run.info.status for run in runs] == ["FINISHED", "FAILED", "FINISHED", "FINISHED"]
    assert runs[0].data.tags[Tag.PRUNED_BECAUSE] == "the loss is nan at step 3"
    assert runs[1].data.tags[Tag.TRIAL_STATE] == "failed"


def test_a_search_without_a_completed_trial_says_why(study, uri, tmp_path, monkeypatch) -> None:
    def broken(*given, **named):
        raise RuntimeError("a cable was pulled")

    monkeypatch.setattr(objective, "train_adapters", broken)
    with pytest.raises(Refused, match=r"(?s)was completed.*2 fail.*raise trials.*a cable was pulled"):
        run_search(trials_of(study, uri, trials=2), str(tmp_path))


def test_a_trial_whose_process_is_gone_is_tried_again(undisturbed, study, uri, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(liveness, "time", Clock())
    trials = trials_of(study, uri)
    tags = {Tag.KIND: Kind.TUNE, Tag.HEARTBEAT: "0", Tag.WORKER: "another-machine:1-1"}
    dead = trials.client.create_run(trials.experiment_id, tags=tags).info.run_id
    orphan = trials.claim(dead)
    given = suggest_values(orphan, study.tune.space)
    assert trials.remaining == 4
    run_search(trials, str(tmp_path))
    assert trials.client.get_run(dead).info.status == "KILLED"
    assert told(trials) == told(undisturbed)
    assert told(trials)[0][2] == given
    assert len(trials.study.trials) == 5


def test_a_trial_that_was_killed_amid_its_draws_is_drawn_again(undisturbed, study, uri, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(liveness, "time", Clock())
    trials = trials_of(study, uri)
    tags = {Tag.KIND: Kind.TUNE, Tag.HEARTBEAT: "0", Tag.WORKER: "another-machine:1-1"}
    dead = trials.client.create_run(trials.experiment_id, tags=tags).info.run_id
    trials.claim(dead).suggest_categorical("learning_rate", list(study.tune.space.learning_rate.choices))
    run_search(trials, str(tmp_path))
    assert told(trials) == told(undisturbed)


def test_nothing_is_drawn_while_a_trial_names_no_process(undisturbed, study, uri, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(storage, "_UNMARKED", timedelta(seconds=1))
    trials = trials_of(study, uri)
    trials.study.ask()  # as a process that was killed right after
    run_search(trials, str(tmp_path))
    assert told(trials) == told(undisturbed)


def test_a_living_process_keeps_its_trial(study, uri) -> None:
    trials = trials_of(study, uri)
    alive = trials.client.create_run(trials.experiment_id).info.run_id
    trials.claim(alive)
    assert trials.remaining == 3
    assert len(trials.valid(RUNNING)) == 1


def test_of_two_that_begin_the_last_trial_at_once_one_lets_it_go(study, uri) -> None:
    mine, other = trials_of(study, uri, trials=1), trials_of(study, uri, trials=1)
    run, ask = mine.client.create_run(mine.experiment_id).info.run_id, mine.study.ask
    mine.study.ask = lambda: (other.claim(run), ask())[1]  # between looking and asking
    assert mine.claim(run) is None
    assert [trial.number for trial in mine.valid()] == [0]


def test_a_storage_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    file.write_text("no database, and long enough to be seen as none" * 50)
    with pytest.raises(Refused, match="cannot be opened"):
        open_storage(storage_url("", str(file)))


def test_a_search_does_not_end_without_a_trial_whose_process_was_killed_before_it_named_itself(
    study, uri, monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr(storage, "_UNMARKED", timedelta(seconds=2))
    trials = trials_of(study, uri, trials=1)
    trials.study.ask()
    assert (trials.remaining, trials.unmarked) == (0, True)
    run_search(trials, str(tmp_path / "out"))
    assert [trial.state for trial in trials.valid()] == [TrialState.COMPLETE]
    assert not trials.unmarked
