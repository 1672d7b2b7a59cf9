"""Work that is recorded twice: only what repeats another to the last digit, and is named by nothing, is deleted."""

from __future__ import annotations

import shutil

import pytest
from mlflow.entities import Run

from registry.doctor.examination import repaired
from registry.doctor.findings import Finding, Level, Section
from registry.files.outputs import file_digest
from registry.planning.experiment import Job
from registry.tracking.names import Kind, Tag
from tests.doctor.conftest import Book, answers

_NAMED = (Tag.MODEL_ID, Tag.FINETUNE_RUN, Tag.BASELINE_RUN)


@pytest.fixture
def whole(book: Book) -> Book:
    book.fill()
    return book


@pytest.fixture
def job(whole: Book) -> Job:
    return next(job for job in whole.jobs if job.source is not None)


def only(book: Book) -> Finding:
    (fault,) = book.faults()
    return fault


def notes(book: Book) -> list[Finding]:
    return [finding for finding in book.findings() if finding.level is Level.NOTE]


def repair(book: Book) -> None:
    repaired(Section("", book.findings()))


def left(book: Book) -> set[str]:
    return {run.info.run_id for run in book.client.search_runs([book.identity], max_results=1000)}


def evaluation(book: Book, job: Job) -> Run:
    return book.client.search_runs([book.identity], f"tags.fingerprint = '{job.evaluate}'")[-1]


def again(book: Book, job: Job, **options: object) -> Run:
    first = evaluation(book, job)
    named = {key: first.data.tags[key] for key in _NAMED}
    return book.run(Kind.EVALUATE, job, **named, **options)  # type: ignore[arg-type]


def test_a_verified_duplicate_is_deleted_and_the_first_stays(whole: Book, job: Job) -> None:
    first = evaluation(whole, job)
    second = again(whole, job)
    assert only(whole).places == [f"{second.info.run_id}  {second.info.run_name}, repeats {first.info.run_id}"]
    repair(whole)
    assert first.info.run_id in left(whole)
    assert second.info.run_id not in left(whole)
    assert whole.faults() == []
    whole.client.restore_run(second.info.run_id)  # nothing is lost
    assert whole.client.get_run(second.info.run_id).data.metrics == second.data.metrics


def test_a_twin_with_invented_scores_is_named_and_neither_is_deleted(whole: Book, job: Job) -> None:
    first, before = evaluation(whole, job), left(whole)
    twin = again(whole, job, value=0.99)
    fault = only(whole)
    assert fault.repair is None
    (place,) = fault.places
    assert first.info.run_id in place and twin.info.run_id in place
    assert "0.5 and 0.99" in place
    repair(whole)
    assert left(whole) == before | {twin.info.run_id}


def test_other_answers_under_the_same_scores_are_a_conflict(whole: Book, job: Job) -> None:
    twin = again(whole, job)
    file = whole.folder / twin.info.run_id / "artifacts" / "outcomes.parquet"
    answers(file, whole.experiment.grid, right=0)
    assert any("the answers in outcomes.parquet" in place for fault in whole.faults() for place in fault.places)
    repair(whole)
    assert twin.info.run_id in left(whole)


def test_a_duplicate_whose_answers_cannot_be_compared_is_kept(whole: Book, job: Job) -> None:
    twin = again(whole, job)
    shutil.rmtree(whole.folder / twin.info.run_id)
    repair(whole)
    assert twin.info.run_id in left(whole)
    assert any(twin.info.run_id in place for finding in notes(whole) for place in finding.places)


def test_what_others_refer_to_is_kept(whole: Book, job: Job) -> None:
    """A fine-tune that trained a version, the evaluation of that version, and a baseline measured against."""
    trained = whole.run(Kind.FINETUNE, job)
    first = whole.client.search_runs([whole.identity], f"tags.fingerprint = '{job.finetune}'")[-1]
    whole.adapter(trained, job, weights=first.info.run_id)
    made = whole.client.get_run(trained.info.run_id).data.tags
    baseline = whole.run(Kind.BASELINE, whole.jobs[0])
    tags = {
        Tag.FINETUNE_RUN: trained.info.run_id, Tag.BASELINE_RUN: baseline.info.run_id,
        Tag.MODEL_ID: made[Tag.MODEL_ID], Tag.MODEL_VERSION: made[Tag.MODEL_VERSION],
    }  # fmt: skip
    scored = whole.run(Kind.EVALUATE, job, **tags)
    assert whole.faults() == []
    repair(whole)
    assert {run.info.run_id for run in (trained, baseline, scored)} <= left(whole)
    name, _, number = made[Tag.MODEL_VERSION].rpartition("/")
    whole.client.delete_model_version(name, number)
    repair(whole)
    assert {run.info.run_id for run in (trained, baseline, scored)} & left(whole) == set()


def test_answers_that_were_swapped_are_named(whole: Book, job: Job) -> None:
    run = evaluation(whole, job)
    file = whole.folder / run.info.run_id / "artifacts" / "outcomes.parquet"
    whole.client.set_tag(run.info.run_id, Tag.OUTCOMES_DIGEST, file_digest(file))
    assert whole.faults() == []
    for right, told in ((1, "another SHA-256"), (2, "another SHA-256")):
        answers(file, whole.experiment.grid, right=right)
        if right == 1:
            file.write_bytes(file.read_bytes() + b"PAR1")
        assert told in only(whole).places[0]
    whole.client.delete_tag(run.info.run_id, Tag.OUTCOMES_DIGEST)  # as of a store from before there were digests
    fault = only(whole)
    assert "gives acc 1 on" in fault.places[0]
    assert fault.places[0].startswith(run.info.run_id)
    assert "delete" not in fault.remedy and "again" not in fault.remedy
