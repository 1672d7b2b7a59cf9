"""Every fault that a study's records can have is found and reported, and repaired only where that is safe."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from registry.doctor.adapters import check_folders, check_unregistered
from registry.doctor.examination import Examination, examine, repaired
from registry.doctor.findings import Finding, Level, Section
from registry.doctor.records import read_records
from registry.tracking import liveness
from registry.tracking.liveness import worker_identity
from registry.tracking.names import Kind, Tag
from registry.tracking.store import sqlite_uri
from tests.clock import Clock
from tests.closed_stores import close_store
from tests.doctor.conftest import Book, answers

_HOST, _, _PROCESS = worker_identity().rpartition(":")
#: Of process 1, but started at another time.
DEAD = {Tag.HEARTBEAT: "1", Tag.WORKER: f"{_HOST}:1-999999999-{_PROCESS.rpartition('-')[2]}"}


@pytest.fixture
def whole(book: Book) -> Book:
    book.fill()
    return book


def only(book: Book) -> Finding:
    (fault,) = book.faults()
    return fault


def repair(book: Book) -> list[Finding]:
    found = repaired(Section("", book.findings())).findings
    return [finding for finding in found if finding.text.startswith("mended")]


def states(book: Book) -> dict[str, str]:
    return {run.info.run_id: run.info.status for run in book.client.search_runs([book.identity], max_results=1000)}


def test_a_whole_study_has_no_fault(whole: Book) -> None:
    found = whole.findings()
    assert [finding.text for finding in found if finding.level is not Level.GOOD] == []
    assert "all 3 jobs are recorded" in [finding.text for finding in found]
    assert any("the weights of 2 compared" in finding.text for finding in found)


def test_a_study_that_was_never_run_has_no_fault(book: Book) -> None:
    assert book.faults() == []


def test_a_study_that_there_is_not_is_told_before_the_store_and_the_hub(book: Book) -> None:
    sections = {section.title: section.findings for section in examine(Examination("dmo"))}
    assert list(sections) == ["environment", "devices", "study dmo", "store", "hub", "disk"]
    (finding,) = sections["study dmo"]
    assert (finding.level, finding.text) == (Level.WRONG, "there is no study 'dmo'; nearest: demo")
    assert finding.remedy.endswith("or a study file; or one on record: small")
    assert sections["hub"][0].text.startswith("'dmo' has no study file")


def test_a_study_that_is_only_on_record_is_looked_at(book: Book) -> None:
    book.client.create_experiment("published")
    sections = {section.title: section.findings for section in examine(Examination("published"))}
    assert all(finding.level is not Level.WRONG for finding in sections["study published"])


def test_missing_jobs_are_listed(whole: Book) -> None:
    evaluation, *_ = whole.client.search_runs([whole.identity], "tags.kind = 'evaluate'")
    whole.client.delete_run(evaluation.info.run_id)
    fault = only(whole)
    assert "1 of 3 jobs" in fault.text
    assert "evaluate a recorded fine-tune" in fault.places[0]
    assert fault.remedy.startswith("mlflow run . -e study")
    assert fault.repair is None


def test_runs_of_a_dead_process_are_ended_and_no_other(whole: Book) -> None:
    job = whole.jobs[1]
    dead = whole.run(Kind.EVALUATE, job, status="RUNNING", **DEAD)
    alive = whole.run(Kind.EVALUATE, job, status="RUNNING", heartbeat=str(time.time()), worker="elsewhere:1-1")
    before = states(whole)
    assert only(whole).places == [f"{dead.info.run_id}  {dead.info.run_name}"]
    (done,) = repair(whole)
    assert "1 runs are KILLED" in done.text
    assert states(whole) == before | {dead.info.run_id: "KILLED"}
    assert states(whole)[alive.info.run_id] == "RUNNING"
    assert whole.faults() == []


def test_a_heartbeat_that_beats_again_while_it_is_watched_saves_its_run(whole: Book, monkeypatch) -> None:
    job = whole.jobs[1]
    silent, slow = (whole.run(Kind.EVALUATE, job, status="RUNNING", heartbeat="1", worker="far:1-1") for _ in range(2))
    beat = lambda _: whole.client.set_tag(slow.info.run_id, Tag.HEARTBEAT, "2")  # noqa: E731
    assert "2 runs of other machines" in only(whole).text
    monkeypatch.setattr(liveness, "time", Clock(beat))
    repair(whole)
    assert (states(whole)[silent.info.run_id], states(whole)[slow.info.run_id]) == ("KILLED", "RUNNING")


def test_nothing_is_deleted_while_a_study_is_running(whole: Book) -> None:
    job = whole.jobs[1]
    whole.run(Kind.EVALUATE, job, status="RUNNING", heartbeat=str(time.time()), worker="elsewhere:1-1")
    whole.run(Kind.BASELINE, whole.jobs[0])
    assert only(whole).repair is None


@pytest.mark.parametrize("lost", ["outcomes", "scores", "tag"])
def test_a_finished_run_that_lacks_a_part_is_named(book: Book, lost: str) -> None:
    book.fill()
    (run, *_) = book.client.search_runs([book.identity], "tags.kind = 'evaluate'")
    if lost == "outcomes":
        (book.folder / run.info.run_id / "artifacts" / "outcomes.parquet").unlink()
        told = "no outcomes.parquet"
    elif lost == "tag":
        book.client.delete_tag(run.info.run_id, Tag.BASELINE_RUN)
        told = "no tag baseline_run"
    else:
        book.client.delete_run(run.info.run_id)
        tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
        run = book.client.create_run(book.identity, tags=tags)
        answers(book.scratch / "outcomes.parquet", book.experiment.grid)
        book.client.log_artifact(run.info.run_id, str(book.scratch / "outcomes.parquet"))
        book.client.set_terminated(run.info.run_id)
        told = "no scores of 4 targets"
    fault = only(book)
    assert fault.places[0].startswith(run.info.run_id)
    assert told in fault.places[0]
    assert f"mlflow runs delete --run-id {run.info.run_id}" in fault.remedy
    assert fault.repair is None


@pytest.mark.parametrize(
    ("change", "told"),
    [("gone", "have no weights any more"), ("other", "have other weights"), ("settings", "have other files")],
)
def test_weights_that_are_gone_or_changed_are_found(book: Book, change: str, told: str) -> None:
    folder = next(iter(book.fill().values()))
    weights = folder / "adapter_model.safetensors"
    if change == "gone":
        weights.unlink()
    elif change == "settings":
        (folder / "adapter_config.json").write_text((folder / "adapter_config.json").read_text() + " ")
    else:
        content = bytearray(weights.read_bytes())
        content[0] ^= 1
        weights.write_bytes(content)
    fault = only(book)
    assert told in fault.text
    assert fault.places[0].startswith("tiny--kind--en/1")
    assert fault.repair is None
    # What exists is never to be deleted or trained again.
    assert ("backup" in fault.remedy, "delete" in fault.remedy) == (True, change == "gone")


def test_an_adapter_that_was_never_registered_is_deleted(whole: Book) -> None:
    run = whole.run(Kind.FINETUNE, whole.jobs[1], status="KILLED")
    model = whole.client.create_logged_model(
        whole.identity, name="tiny--kind--en", source_run_id=run.info.run_id, model_type="lora-adapter"
    )
    assert only(whole).places[0].startswith(model.model_id)
    repair(whole)
    assert whole.faults() == []
    assert len(whole.client.search_logged_models([whole.identity])) == 2


def test_folders_without_owner_are_told_and_left(whole: Book) -> None:
    orphans = [whole.folder / ("0" * 32), whole.folder / "models" / f"m-{'0' * 32}"]
    for orphan in orphans:
        (orphan / "artifacts").mkdir(parents=True)
    (whole.folder / "notes").mkdir()  # a user's own
    fault = only(whole)
    assert fault.places == sorted(map(str, orphans))
    assert repair(whole) == []
    assert all(orphan.is_dir() for orphan in orphans)


def test_what_is_recorded_while_the_doctor_looks_is_left_alone(whole: Book, monkeypatch) -> None:
    records = read_records(whole.client, whole.client.get_experiment(whole.identity), "small")
    run = whole.run(Kind.FINETUNE, whole.jobs[1])
    whole.adapter(run, whole.jobs[1])
    (whole.folder / run.info.run_id).mkdir(exist_ok=True)
    unregistered = whole.client.create_logged_model(
        whole.identity, name="tiny--kind--en", source_run_id=run.info.run_id, model_type="lora-adapter"
    )
    late = replace(records, models=[*records.models, whole.client.get_logged_model(unregistered.model_id)])
    for check in (check_folders, check_unregistered):
        assert [finding.text for finding in check(late) if finding.remedy] == []


def test_a_deleted_run_keeps_its_folders(whole: Book) -> None:
    (run, *_) = whole.client.search_runs([whole.identity], "tags.kind = 'finetune'")
    whole.client.delete_logged_model(run.data.tags[Tag.MODEL_ID])
    whole.client.delete_run(run.info.run_id)
    assert not [fault for fault in whole.faults() if "folders" in fault.text]


def test_looking_changes_nothing(whole: Book) -> None:
    whole.run(Kind.EVALUATE, whole.jobs[1], status="RUNNING", **DEAD)
    whole.run(Kind.BASELINE, whole.jobs[0])
    before, files = states(whole), sorted(whole.folder.rglob("*"))
    assert len(whole.faults()) == 2
    assert states(whole) == before
    assert sorted(whole.folder.rglob("*")) == files


def test_a_whole_store_without_its_artifacts_is_told_and_nothing_is_to_be_deleted(whole: Book) -> None:
    shutil.rmtree(whole.folder)
    faults = whole.faults()
    told = " ".join(fault.text for fault in faults)
    assert "2 registered versions have no weights any more" in told
    assert "3 of 5 finished runs lack a part" in told
    for fault in faults:
        assert f"bring {whole.folder} back" in fault.remedy
        assert not re.search("runs delete|train again|rm -r", fault.remedy)


def test_files_in_the_folder_beside_are_copied_back(whole: Book) -> None:
    """As after renaming an experiment's folder and recording into it again."""
    aside = whole.folder.with_name("small before")
    models = sorted((whole.folder / "models").iterdir())
    (run, *_) = whole.client.search_runs([whole.identity], "tags.kind = 'evaluate'")
    (aside / "models").mkdir(parents=True)
    models[0].rename(aside / "models" / models[0].name)
    (whole.folder / run.info.run_id).rename(aside / run.info.run_id)
    faults = whole.faults()
    assert len(faults) == 2
    for fault in faults:
        assert not re.search("runs delete|train again|rm -r", fault.remedy)
        subprocess.run(fault.remedy, shell=True, check=True)
    assert whole.faults() == []


def test_folders_that_another_database_may_own_are_moved_not_removed(whole: Book) -> None:
    orphan = whole.folder / ("0" * 32)
    (orphan / "artifacts").mkdir(parents=True)
    (orphan / "artifacts" / "report.html").write_text("of a store that shares this folder")
    fault = only(whole)
    assert "rm " not in fault.remedy
    subprocess.run(fault.remedy.partition(": ")[2], shell=True, check=True)
    assert whole.faults() == []
    (kept,) = whole.folder.parent.rglob("report.html")
    assert kept.read_text() == "of a store that shares this folder"


def test_a_moved_study_is_repaired_and_then_examined(whole: Book, tmp_path: Path, command, monkeypatch) -> None:
    folder, moved = whole.folder.parents[1], tmp_path / "moved 100%"
    close_store(whole.client)
    shutil.move(folder, moved)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri(moved / "mlflow.db"))
    code, output, _ = command("doctor", "--study", whole.file)
    assert code == 1
    assert "was moved: its artifact addresses still name" in output
    assert not re.search("runs delete|train again|rm -r", output)
    code, output, errors = command("doctor", "--study", whole.file, "--repair", "true")
    assert "addresses name" in output, errors
    assert "store, as repaired" in output
    assert "all 3 jobs are recorded" in output
    assert "the weights of 2 compared" in output
    code, output, _ = command("doctor", "--study", whole.file)
    assert "  wrong" not in output.partition("store\n")[2]
