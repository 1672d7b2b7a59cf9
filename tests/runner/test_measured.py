"""An adapter is scored while another worker scores the baseline, and waits to be measured against it."""

from __future__ import annotations

import pytest

from registry.planning.plan import Step
from registry.runner import job_executor
from registry.runner.job_executor import JobExecutor
from registry.runner.recorder import Recorder
from registry.runner.session import prospect
from registry.runner.worker import reports
from registry.tracking.claims import Claims, Unmeasured
from registry.tracking.names import Kind


@pytest.fixture
def meeting(few_records, monkeypatch):
    """Two workers, the first tasks of both, and a claim on the baseline by someone who may never end."""
    monkeypatch.setattr(job_executor, "_POLL_SECONDS", 0.01)
    ready = prospect(few_records.study, workers=1)
    place = Recorder(ready.experiment, ready.client, ready.experiment_id, "cpu")
    baseline, adapter = ready.plan.todo[:2]
    claim = Claims(ready.client, ready.experiment_id).take(baseline[0].evaluate)
    assert (baseline[1], adapter[1]) == (Step.BASELINE, Step.TRAIN_AND_EVALUATE)
    return JobExecutor(place), JobExecutor(place), baseline, adapter, claim


def test_it_is_measured_when_the_baseline_comes(meeting, few_records, finished) -> None:
    worker, other, baseline, adapter, claim = meeting
    phases: list[str] = []

    def progress(phase: str, share: float) -> None:
        phases.append(phase)
        if phase == "wait for the baseline" and phases.count(phase) == 2:
            claim.release()
            assert [error for _, error in other.do([baseline], lambda phase, share: None)] == [None]

    assert [error for _, error in worker.do([adapter], progress)] == [None]
    assert phases.count("wait for the baseline") == 2
    for kind in (Kind.FINETUNE, Kind.EVALUATE):
        (fingerprint,) = few_records.finished(kind)
        assert few_records.results()[kind, fingerprint] == finished.results()[kind, fingerprint]


def test_it_gives_up_when_whoever_scored_the_baseline_is_gone(meeting, few_records) -> None:
    worker, _, _, adapter, claim = meeting

    def progress(phase: str, share: float) -> None:
        if phase == "wait for the baseline":
            claim.release()

    ((job, error),) = worker.do([adapter], progress)
    assert isinstance(error, Unmeasured)
    assert [run.info.status for run in few_records.runs(Kind.EVALUATE)] == ["KILLED"]
    assert len(few_records.finished(Kind.FINETUNE)) == 1, "its training is not lost"
    assert list(reports(worker, [(job, Step.EVALUATE)], progress)) == [("unmeasured", job)]
