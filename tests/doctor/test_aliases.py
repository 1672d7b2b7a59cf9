"""Aliases against recorded promotions: what was interrupted is completed, what moved otherwise is named."""

from __future__ import annotations

import pytest
from mlflow.entities import Run

from registry.deploy.alias_history import DEMOTING, PASSED, PENDING
from registry.doctor.examination import repaired
from registry.doctor.findings import Level, Section
from registry.tracking import names
from registry.tracking.names import Kind, Tag
from tests.doctor.conftest import Book

NAME = "tiny--kind--en"
ALIAS = "champion"


@pytest.fixture
def whole(book: Book) -> Book:
    book.fill()
    return book


def promotion(book: Book, verdict: str, *, version: str = "1", before: str = "", status: str = "FINISHED") -> Run:
    tags = {
        Tag.KIND: str(Kind.PROMOTE), Tag.ALIAS: ALIAS, Tag.VERDICT: verdict, Tag.ALIAS_BEFORE: before,
        Tag.MODEL_VERSION: f"{NAME}/{version}",
    }  # fmt: skip
    run = book.client.create_run(book.identity, tags=tags)
    book.client.set_terminated(run.info.run_id, status)
    return run


def faults(book: Book) -> list[str]:
    return [f"{fault.text} {fault.places} {fault.remedy}" for fault in book.faults()]


def test_an_alias_where_a_finished_promotion_put_it_is_no_fault(whole: Book) -> None:
    promotion(whole, PASSED)
    whole.client.set_registered_model_alias(NAME, ALIAS, "1")
    assert faults(whole) == []


def test_a_move_that_was_interrupted_is_completed(whole: Book) -> None:
    run = promotion(whole, PENDING, status="KILLED")
    assert faults(whole) == []  # it moved nothing
    whole.client.set_registered_model_alias(NAME, ALIAS, "1")
    (fault,) = faults(whole)
    assert "interrupted before it recorded that" in fault and run.info.run_id in fault
    assert "-P repair=true" in fault
    repaired(Section("", whole.findings()))
    assert faults(whole) == []
    assert whole.client.get_run(run.info.run_id).data.tags[Tag.VERDICT] == PASSED
    tag = whole.client.get_model_version(NAME, "1").tags[names.promotion(ALIAS)]
    assert tag.startswith("passed (") and run.info.run_id in tag
    taken = promotion(whole, DEMOTING, before=f"{NAME}/1", status="KILLED")
    whole.client.delete_registered_model_alias(NAME, ALIAS)
    repaired(Section("", whole.findings()))
    assert faults(whole) == []
    assert whole.client.get_run(taken.info.run_id).data.tags[Tag.VERDICT] == "demoted"


def test_what_stands_elsewhere_than_recorded_is_named_with_the_command(whole: Book) -> None:
    promotion(whole, PASSED)
    (fault,) = faults(whole)  # the alias was taken away by hand
    assert "champion is carried by no version, recorded is version 1" in fault
    assert f"-e promote --env-manager local -P study=small -P name={NAME} -P version=1 -P alias=champion" in fault


def test_a_promotion_that_a_former_version_left_half_done_is_named(whole: Book) -> None:
    """It wrote the verdict first: run and version say that it passed, and the alias was never set."""
    run = promotion(whole, PASSED, status="KILLED")
    text = f"passed (2024-01-01 00:00 UTC by me, run {run.info.run_id})"
    whole.client.set_model_version_tag(NAME, "1", names.promotion(ALIAS), text)
    (fault,) = faults(whole)
    assert "by a run that never finished" in fault
    assert f"-P name={NAME} -P version=1 -P alias=champion" in fault


def test_an_alias_set_by_hand_and_foreign_promotions_are_no_fault(whole: Book) -> None:
    whole.client.set_registered_model_alias(NAME, "mine", "1")
    run = whole.client.create_run(whole.identity, tags={Tag.KIND: str(Kind.PROMOTE), Tag.ALIAS: ALIAS})  # no verdict
    whole.client.set_terminated(run.info.run_id)
    assert faults(whole) == []
    notes = [finding for finding in whole.findings() if finding.level is Level.NOTE]
    assert any("mine is carried by version 1" in place for finding in notes for place in finding.places)
