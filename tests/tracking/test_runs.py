"""Runs end in a state that says what became of them, whatever happened to their process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from registry.paths import PROJECT
from registry.tracking import liveness, runs
from registry.tracking.liveness import reap, worker_identity
from registry.tracking.names import Kind, Tag
from registry.tracking.recording import Recording
from registry.tracking.runs import Superseded, end_strays, finished_by_fingerprint, recorded
from registry.tracking.store import experiment_id
from tests.clock import Clock

PATIENCE = 120.0  # seconds after which what should happen at once is taken for missing


@pytest.fixture
def experiment(client) -> str:
    return experiment_id(client, "small")


def open_run(client: MlflowClient, experiment: str, **tags: object):
    return recorded(client, experiment, kind=Kind.EVALUATE, name="evaluate it", tags=tags)


def status(client: MlflowClient, run_id: str) -> str:
    return str(client.get_run(run_id).info.status)


def test_a_run_that_ends_is_finished(client, experiment) -> None:
    with open_run(client, experiment) as recording:
        assert status(client, recording.run_id) == "RUNNING"
    assert status(client, recording.run_id) == "FINISHED"
    assert client.get_run(recording.run_id).info.end_time is not None


@pytest.mark.parametrize(
    ("error", "expected"),
    [(ValueError, "FAILED"), (MemoryError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_a_run_that_is_broken_off_says_so_and_passes_the_error_on(client, experiment, error, expected: str) -> None:
    with pytest.raises(error), open_run(client, experiment) as recording:
        raise error
    assert status(client, recording.run_id) == expected


def test_a_run_whose_parameters_cannot_be_written_is_failed(client, experiment) -> None:
    with (
        pytest.raises(MlflowException, match="no=name"),
        recorded(client, experiment, kind=Kind.STUDY, name="it", tags={}, params={"no=name": 1}),
    ):
        pass
    assert [run.info.status for run in client.search_runs([experiment])] == ["FAILED"]


def test_a_run_carries_its_name_kind_description_parameters_and_process(client, experiment) -> None:
    with recorded(
        client,
        experiment,
        kind=Kind.FINETUNE,
        name="a name",
        tags={"seed": 17},
        params={"rank": 8},
        description="**x**",
    ) as recording:
        pass
    run = client.get_run(recording.run_id)
    assert run.info.run_name == "a name"
    assert run.data.params == {"rank": "8"}
    tags = run.data.tags
    assert (tags["kind"], tags["seed"], tags["mlflow.note.content"]) == ("finetune", "17", "**x**")
    assert tags[Tag.WORKER].startswith(f"{socket.gethostname()}:{os.getpid()}-")
    assert abs(time.time() - float(tags[Tag.HEARTBEAT])) < 60


def test_the_heartbeat_beats_while_the_run_is_open(client, experiment, monkeypatch) -> None:
    monkeypatch.setattr(liveness, "BEAT_SECONDS", 0.01)
    before, log, third, beats = threading.active_count(), client.log_batch, threading.Event(), []

    def heard(run, **what):
        log(run, **what)
        beats.append(what)
        if len(beats) == 3:
            third.set()

    monkeypatch.setattr(client, "log_batch", heard)
    with open_run(client, experiment):
        assert third.wait(PATIENCE)
        assert threading.active_count() > before
    assert threading.active_count() == before, "its thread ends with the run"


@pytest.fixture(scope="module")
def dead_process() -> str:
    """Identity of a process that was here and is gone, as the tag ``worker`` has it."""
    script = "from registry.tracking.liveness import worker_identity; print(worker_identity())"
    return subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True).stdout.strip()


def running(client: MlflowClient, experiment: str, worker: str, *, heard: float = 0.0) -> str:
    """A run that no one ends, last heard of some seconds ago."""
    tags = {Tag.WORKER: worker, Tag.HEARTBEAT: f"{time.time() - heard:.0f}"}
    return str(client.create_run(experiment, tags=tags).info.run_id)


def test_reaping_kills_runs_of_dead_processes_and_leaves_the_living(
    client, experiment, dead_process, monkeypatch
) -> None:
    monkeypatch.setattr(liveness, "time", Clock())
    started, place = worker_identity().split("-")[-2:]
    reused = f"{worker_identity().rpartition(':')[0]}:{os.getpid()}-{int(started) - 5000}-{place}"
    dead = {
        running(client, experiment, dead_process),
        running(client, experiment, reused),
        running(client, experiment, "elsewhere:1-1", heard=600),
    }
    living = {
        running(client, experiment, worker_identity(), heard=600),
        running(client, experiment, "elsewhere:1-1", heard=5),
    }
    foreign = str(client.create_run(experiment).info.run_id)  # not this project's: it never had a heartbeat
    assert {run.info.run_id for run in reap(client, experiment)} == dead
    assert {status(client, run_id) for run_id in dead} == {"KILLED"}
    assert {status(client, run_id) for run_id in (*living, foreign)} == {"RUNNING"}
    assert reap(client, experiment) == []


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_a_run_of_a_machine_whose_clock_is_wrong_lives_while_its_heartbeat_changes(
    client, experiment, monkeypatch, skew: float
) -> None:
    beating, silent = (running(client, experiment, f"elsewhere:{number}-1", heard=skew) for number in (1, 2))
    clock = Clock(lambda _: client.set_tag(beating, Tag.HEARTBEAT, f"{clock.time() - skew:.0f}"))
    monkeypatch.setattr(liveness, "time", clock)
    assert [run.info.run_id for run in reap(client, experiment)] == [silent]
    assert status(client, beating) == "RUNNING"


def test_a_run_that_ends_in_the_moment_its_process_does_stays_finished(
    client, experiment, dead_process, monkeypatch
) -> None:
    run, search = running(client, experiment, dead_process), client.search_runs

    def ended_since(*arguments, **named):
        found = search(*arguments, **named)
        client.set_terminated(run)
        return found

    monkeypatch.setattr(client, "search_runs", ended_since)
    assert reap(client, experiment) == []
    assert status(client, run) == "FINISHED"


def test_while_the_store_is_away_no_heartbeat_is_missed(client, experiment, monkeypatch) -> None:
    clock = Clock()
    monkeypatch.setattr(liveness, "time", clock)
    run, search, requests = running(client, experiment, "elsewhere:1-1", heard=600), client.search_runs, []

    def away_once(*arguments, **named):
        requests.append(arguments)
        if len(requests) == 3:
            clock.sleep(100)
        if len(requests) == 5:  # the process too reaches the store again
            client.set_tag(run, Tag.HEARTBEAT, "2")
        return search(*arguments, **named)

    monkeypatch.setattr(client, "search_runs", away_once)
    assert reap(client, experiment) == []


def test_a_run_that_a_request_made_twice_has_opened_is_ended_the_others_are_not(
    client, experiment, monkeypatch
) -> None:
    create = client.create_run

    def twice(*arguments, **named):  # the answer to the first was lost
        create(*arguments, **named)
        return create(*arguments, **named)

    monkeypatch.setattr(client, "create_run", twice)
    with open_run(client, experiment) as recording:
        end_strays(client, experiment)
        assert status(client, recording.run_id) == "RUNNING"
    assert sorted(run.info.status for run in client.search_runs([experiment])) == ["FINISHED", "KILLED"]


def test_a_heartbeat_survives_a_store_that_is_away(client, experiment, monkeypatch) -> None:
    monkeypatch.setattr(liveness, "BEAT_SECONDS", 0.01)
    log, requests, logged = client.log_batch, [], threading.Event()

    def away(run, **what):
        requests.append(what)
        if len(requests) < 3:
            raise MlflowException("the store is away")
        log(run, **what)
        logged.set()

    with open_run(client, experiment) as recording:
        monkeypatch.setattr(runs, "_now", lambda: "later")
        monkeypatch.setattr(client, "log_batch", away)
        assert logged.wait(PATIENCE)
    assert client.get_run(recording.run_id).data.tags[Tag.HEARTBEAT] == "later"


def test_a_run_whose_job_another_took_over_is_killed(client, experiment) -> None:
    with pytest.raises(Superseded), open_run(client, experiment) as recording:
        raise Superseded("another took it over")
    assert status(client, recording.run_id) == "KILLED"


def test_only_finished_runs_of_the_kind_are_found_by_fingerprint_and_the_first_counts(client, experiment) -> None:
    def finished(kind: Kind, fingerprint: str) -> str:
        with recorded(client, experiment, kind=kind, name="x", tags={Tag.FINGERPRINT: fingerprint}) as recording:
            time.sleep(0.002)
        return recording.run_id

    first, other = finished(Kind.EVALUATE, "a"), finished(Kind.EVALUATE, "b")
    finished(Kind.EVALUATE, "a")
    finished(Kind.FINETUNE, "c")
    with pytest.raises(ValueError), open_run(client, experiment, fingerprint="d"):
        raise ValueError
    with open_run(client, experiment), open_run(client, experiment, fingerprint="e"):
        found = finished_by_fingerprint(client, experiment, Kind.EVALUATE)
    assert {key: run.info.run_id for key, run in found.items()} == {"a": first, "b": other}


def test_more_metrics_than_mlflow_takes_at_once_are_all_recorded(client, experiment) -> None:
    values = {f"score/task/l{number}": number / 7 for number in range(2500)}
    with open_run(client, experiment) as recording:
        recording.metrics(values)
    assert client.get_run(recording.run_id).data.metrics == values


def test_a_curve_is_one_value_per_step_from_one_on(client, experiment) -> None:
    with open_run(client, experiment) as recording:
        recording.curves({"train/loss": [3.0, 2.0, 1.5], "validation/loss": []})
    history = client.get_metric_history(recording.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 3.0), (2, 2.0), (3, 1.5)]


def test_files_and_tags_are_stored_with_the_run(client, experiment, tmp_path) -> None:
    (tmp_path / "design").mkdir()
    (tmp_path / "design" / "study.yaml").write_text("name: x")
    with open_run(client, experiment) as recording:
        assert isinstance(recording, Recording)
        recording.files(tmp_path)
        recording.tags({"below_chance": "arc/de", "count": 3})
    assert [file.path for file in client.list_artifacts(recording.run_id, "design")] == ["design/study.yaml"]
    assert client.get_run(recording.run_id).data.tags["count"] == "3"


def gathering(client: MlflowClient, experiment: str):
    named = {"name": "evaluate it", "tags": {"a": 1}, "params": {"rank": 8}}
    return recorded(client, experiment, kind=Kind.EVALUATE, gathers=True, **named)


def test_what_is_gathered_arrives_at_once_and_whole(client, experiment, monkeypatch) -> None:
    log, asked = client.log_batch, []
    monkeypatch.setattr(client, "log_batch", lambda run, **what: asked.append(what) or log(run, **what))
    model = client.create_logged_model(experiment)
    with gathering(client, experiment) as recording:
        recording.curves({"loss": [3.0, 2.0]})
        recording.tags({"a": 2, "b": "first"})
        recording.metrics({"score": 0.5}, model_id=model.model_id)
        recording.tags({"b": "last"})
        assert client.get_run(recording.run_id).data.metrics == {}
    found = client.get_run(recording.run_id)
    assert (found.data.metrics, found.data.params) == ({"loss": 2.0, "score": 0.5}, {"rank": "8"})
    assert [point.value for point in client.get_metric_history(recording.run_id, "loss")] == [3.0, 2.0]
    assert (found.data.tags["a"], found.data.tags["b"]) == ("2", "last")
    assert [metric.key for metric in client.get_logged_model(model.model_id).metrics] == ["score"]
    assert len(asked) == 1


def test_what_was_gathered_is_there_with_the_next_heartbeat(client, experiment, monkeypatch) -> None:
    monkeypatch.setattr(liveness, "BEAT_SECONDS", 0.01)
    log, logged = client.log_batch, threading.Event()

    def heard(run, **what):
        log(run, **what)
        if what["metrics"]:
            logged.set()

    monkeypatch.setattr(client, "log_batch", heard)
    with gathering(client, experiment) as recording:
        recording.metrics({"score": 0.5})
        assert logged.wait(PATIENCE)
        found = client.get_run(recording.run_id).data
        assert (found.metrics, found.params) == ({"score": 0.5}, {"rank": "8"})


@pytest.mark.parametrize(("error", "expected"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_what_was_gathered_before_a_run_broke_off_is_there(client, experiment, error, expected: str) -> None:
    with pytest.raises(error), gathering(client, experiment) as recording:
        recording.metrics({"score": 0.5})
        raise error
    found = client.get_run(recording.run_id)
    assert (found.info.status, found.data.metrics) == (expected, {"score": 0.5})


def test_a_run_whose_gathered_metrics_the_store_refuses_is_not_finished(client, experiment) -> None:
    with pytest.raises(MlflowException, match="no=name"), gathering(client, experiment) as recording:
        recording.metrics({"no=name": 0.5})
    assert status(client, recording.run_id) == "FAILED"


def test_more_than_mlflow_takes_at_once_is_gathered_too(client, experiment) -> None:
    with gathering(client, experiment) as recording:
        recording.metrics({f"metric/{number}": number for number in range(1990)})
        recording.tags({f"tag {number}": number for number in range(30)})
    found = client.get_run(recording.run_id)
    assert (len(found.data.metrics), found.data.tags["tag 29"]) == (1990, "29")
