"""Languages whose files are copies, and one base under two names: refused, or kept apart and told."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.reading.frame import load
from analysis.reading.observations import copy_cautions
from registry.cells import Cell
from registry.config.data import BenchmarkSpec, SplitSpec
from registry.config.study import BaseSpec, Study
from registry.errors import Refused
from registry.planning.experiment import prepare
from registry.planning.plan import make_plan
from registry.runner.session import prospect, run_study
from registry.runner.single import narrowed
from registry.tracking.names import Kind, Tag
from registry.tracking.runs import finished_by_fingerprint
from registry.tracking.store import experiment_id

LANGUAGES = ("en", "id", "tr")
EN, ID, TR = (Cell("topic", language) for language in LANGUAGES)


@pytest.fixture
def study(small_study, tmp_path: Path) -> Callable[..., Study]:
    """Make a study of one task in three languages; ``train`` and ``test`` say whose file each language has."""

    def make(train: str = "en id tr", test: str = "en id tr", **split: object) -> Study:
        for part, whose in (("train", train), ("test", test)):
            for language, other in zip(LANGUAGES, whose.split(), strict=True):
                path = tmp_path / "data" / language / f"{part}.csv"
                path.parent.mkdir(parents=True, exist_ok=True)
                rows = [f"{n},A {part} text {n} of {other}.,{'ab'[n % 2]}" for n in range(6)]
                path.write_text("\n".join(["id,text,label", *rows]) + "\n", encoding="utf-8")
        task = {
            "train": "{language}/train.csv", "test": "{language}/test.csv", "id": "id", "question": "text",
            "choices": ("a", "b"), "answer": "label", "answer_is": "text",
        }  # fmt: skip
        spec = BenchmarkSpec(kind="files", path=str(tmp_path / "data"), languages=LANGUAGES, tasks={"topic": task})  # type: ignore[dict-item]
        small = small_study()
        return replace(
            small, name="copies", benchmark=spec, tasks=(), languages=(), seeds=(17,), split=SplitSpec(**split)
        )  # type: ignore[arg-type]

    return make


def marks(study: Study) -> list[str]:
    jobs = prepare(study).jobs()
    return [mark for job in jobs for mark in (job.finetune, job.evaluate) if mark]


@pytest.mark.parametrize(("train", "test"), [("en en tr", "en en tr"), ("en en tr", "en id tr")])
def test_languages_with_the_same_training_items_are_refused(study, train: str, test: str) -> None:
    with pytest.raises(Refused) as raised:
        prepare(study(train, test))
    assert "topic/en and topic/id have the same training items, and a copy is no second language" in str(raised.value)
    assert "split.copies: allow" in str(raised.value)


@pytest.mark.parametrize(("train", "test"), [("en en tr", "en en tr"), ("en en en", "en id tr")])
def test_copies_that_are_allowed_have_fingerprints_of_their_own(study, caplog, train: str, test: str) -> None:
    found = marks(study(train, test, copies="allow"))
    assert len(set(found)) == len(found) == 7
    assert "have the same training items: an adapter of one is an adapter of the other" in caplog.text
    plain = marks(study())
    assert marks(study(copies="allow")) == plain
    if train == "en en tr":
        assert set(found) & set(plain) == (set(plain[5:6]) if test == "en id tr" else {found[5]})


def test_one_cell_trained_on_needs_no_other(study, caplog) -> None:
    one = study("en en en")
    for language in LANGUAGES:
        prepare(replace(one, sources=(f"topic/{language}",)))
    assert "topic/en, topic/id and topic/tr have the same training items" in caplog.text


def test_an_adapter_of_one_language_is_never_taken_for_that_of_another(study, client, uri) -> None:
    """As the entry point `finetune` is called, for one cell after the other."""
    both = study("en en tr")
    assert run_study(prospect(narrowed(both, task="topic", language="en"), workers=1)) == []
    with pytest.raises(Refused, match=r"topic/id seed 17 has the training items of topic/en, .*split.copies: allow"):
        prospect(narrowed(both, task="topic", language="id"), workers=1)
    allowed = study("en en tr", copies="allow")
    plan = prospect(narrowed(allowed, task="topic", language="id"), workers=1).plan
    assert [(job.source_cell, step.trains) for job, step in plan.todo] == [(ID, True)]


def test_targets_that_are_copies_are_told_on_the_terminal_in_the_runs_and_in_the_report(study, client, caplog) -> None:
    copied = replace(study("en en tr", "en tr tr", copies="allow"), sources=("topic/en", "topic/id"))
    assert run_study(prospect(copied, workers=1)) == []
    assert "topic/id and topic/tr have the same test items: each result on them counts 2 times" in caplog.text
    runs = finished_by_fingerprint(client, experiment_id(client, "copies"), Kind.EVALUATE).values()
    assert {run.data.tags[Tag.SOURCE_LANGUAGE] for run in runs} == {"en", "id"}
    assert {run.data.tags[Tag.COPIED_TARGETS] for run in runs} == {"topic/id=topic/tr"}
    assert {run.data.tags[Tag.COPIED_SOURCES] for run in runs} == {"topic/en=topic/id"}
    told = "topic/en and topic/id have the same training items. topic/id and topic/tr have the same test items."
    assert all(told in run.data.tags["mlflow.note.content"] for run in runs)
    frame = load(client, "copies")
    assert len(frame.observations) == 6
    assert copy_cautions(frame.notes) == [
        (
            "Cells that are copies",
            "topic/en, topic/id have the same training items, so adapters of one are adapters of the other.",
        ),
        (
            "Cells that are copies",
            "topic/id, topic/tr have the same test items, so every result on them counts once for each.",
        ),
    ]


def test_a_study_without_copies_is_told_nothing(study, caplog) -> None:
    caplog.set_level(logging.WARNING)
    prepare(study())
    assert caplog.text == ""


def test_half_translated_targets_are_told(study, caplog, tmp_path) -> None:
    design = study()
    path = tmp_path / "data" / "id" / "test.csv"
    path.write_text(path.read_text().replace("of id", "of en", 4), encoding="utf-8")
    prepare(design)
    assert "4 of 6 questions of topic/en and topic/id are the same text" in caplog.text


def test_one_base_under_two_names_is_refused(study, base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "renamed")
    specs = (BaseSpec(name="tiny", path=str(base)), BaseSpec(name="other", path=str(tmp_path / "renamed")))
    with pytest.raises(Refused, match=r"models 'tiny' \(.*\) and 'other' \(.*renamed\) are the same files"):
        prepare(replace(study(), models=specs))


@pytest.mark.parametrize("twice", [("topic/en", "topic/en")])
def test_a_plan_with_one_job_twice_is_refused(study, client, twice) -> None:
    experiment = prepare(replace(study(), sources=twice))
    with pytest.raises(Refused, match="topic/en seed 17 and tiny topic/en seed 17 are the same fine-tune"):
        make_plan(experiment, client, experiment_id(client, "copies"))
