"""A study leaves alone what other runners do, goes on with the rest, and takes over what they leave."""

from __future__ import annotations

import threading
import time

import pytest

from registry.runner.dispatcher import SetAside
from registry.runner.recorder import Recorder as Recorder
from registry.tracking.claims import Claims, claims_model
from registry.tracking.names import Kind, Tag
from registry.tracking.store import experiment_id


def expected_of(few_records, finished) -> dict[object, object]:
    results = finished.results()
    return {key: results[key] for key in few_records.results()}


@pytest.fixture
def waiting(monkeypatch) -> threading.Event:
    """Set whenever nothing can be done but to wait for other runners."""
    event, note = threading.Event(), SetAside.note_waiting
    monkeypatch.setattr(SetAside, "note_waiting", lambda aside, jobs: event.set() or note(aside, jobs))
    return event


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_another_runner_holds_is_done_last_and_after_it(
    few_records, rerun, finished, waiting, capfd, workers: int
) -> None:
    client = few_records.client
    first = next(job for job in few_records.experiment.jobs() if job.source is not None)
    claim = Claims(client, experiment_id(client, "small")).take(first.finetune)
    seen: list[set[str]] = []

    def let_go() -> None:
        while not few_records.finished(Kind.EVALUATE):
            assert waiting.wait(300)
            waiting.clear()
        seen.append({run.data.tags[Tag.FINGERPRINT] for run in few_records.runs(Kind.FINETUNE)})
        claim.release()

    other = threading.Thread(target=let_go)
    other.start()
    assert rerun(few_records, workers=workers) == []
    other.join()
    assert len(seen[0]) == 1
    assert first.finetune not in seen[0]
    few_records.assert_complete()
    assert few_records.results() == expected_of(few_records, finished)
    assert "waiting for 1 jobs that other runners on this store do" in capfd.readouterr().err
    assert client.search_model_versions(f"name = '{claims_model(experiment_id(client, 'small'))}'") == []


def test_a_study_waits_for_a_baseline_that_another_runner_scores(few_records, rerun, waiting) -> None:
    client = few_records.client
    claim = Claims(client, experiment_id(client, "small")).take(few_records.experiment.baseline("tiny").evaluate)
    threading.Thread(target=lambda: waiting.wait(300) and claim.release()).start()
    assert rerun(few_records) == []
    few_records.assert_complete()


def test_a_runner_that_was_taken_for_dead_leaves_no_second_result(few_records, rerun, monkeypatch) -> None:
    """Its claim is deleted while it evaluates; it gives that run up, and since no one does the job, does it again."""
    client, record, lost = few_records.client, Recorder.evaluation, []

    def overtaken(self, *arguments):
        record(self, *arguments)
        if not lost:
            (claim,) = client.search_model_versions(f"name = '{claims_model(self.experiment_id)}'")
            client.delete_model_version(claim.name, claim.version)
            lost.append(arguments[0].run_id)

    monkeypatch.setattr(Recorder, "evaluation", overtaken)
    assert rerun(few_records) == []
    few_records.assert_complete()
    assert client.get_run(lost[0]).info.status == "KILLED"
    assert len(few_records.runs(Kind.FINETUNE)) == 2, "its adapter was finished before, and is not trained again"


def test_a_job_is_asked_for_less_and_less_often(few_records, monkeypatch) -> None:
    now, notes = [100.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    class Board:
        note = staticmethod(notes.append)

        def refresh(self) -> None:
            """Nothing is shown."""

    job, other = few_records.experiment.jobs()[:2]
    aside, pauses = SetAside(Board()), []  # type: ignore[arg-type]
    for _ in range(7):
        aside.put(job)
        assert not aside.is_open(job)
        assert aside.is_open(other)
        before = now[0]
        aside.rest([job])
        assert aside.is_open(job)
        pauses.append(now[0] - before)
    assert pauses == pytest.approx([0.5, 1, 2, 4, 8, 10, 10])
    assert len(notes) == 1
