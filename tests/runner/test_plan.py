"""Fingerprints change with what decides a result and nothing else; what is recorded under one is not done again."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from registry.benchmarks.aligned import align
from registry.benchmarks.kinds import load_benchmark
from registry.cells import Cell
from registry.config.data import SplitSpec
from registry.config.files import load_study
from registry.config.study import BaseSpec, LoraSpec, Recipe, Study
from registry.errors import Refused
from registry.planning import fingerprints
from registry.planning.experiment import Experiment, Job, prepare
from registry.planning.plan import Step, make_plan
from registry.tracking.names import Kind, Tag
from registry.tracking.runs import recorded
from registry.tracking.store import experiment_id

SOURCE = Cell("kind", "en")


@pytest.fixture(scope="module")
def study(small_study) -> Study:
    return small_study()


@pytest.fixture(scope="module")
def experiment(study) -> Experiment:
    return prepare(study)


def prints(experiment: Experiment, *, seed: int = 17) -> tuple[str | None, str, str]:
    """Fingerprints of a fine-tune, its evaluation and the baseline."""
    model = next(iter(experiment.bases))
    job = experiment.job(model, SOURCE, seed)
    return job.finetune, job.evaluate, experiment.baseline(model).evaluate


def changed(experiment: Experiment, other: Experiment, **seed: int) -> tuple[bool, bool, bool]:
    pairs = zip(prints(experiment), prints(other, **seed), strict=True)
    return tuple(one != another for one, another in pairs)  # type: ignore[return-value]


def another(value: Any) -> Any:
    """A valid value other than the one given, for any field of a recipe."""
    match value:
        case "fp32":
            return "bf16"
        case "lora":
            return "full"
        case "as_prompted":
            return "whole_text"
        case float():
            return value / 2 + 0.01
        case int():
            return value + 1
        case tuple():
            return value[:-1]
    raise TypeError(f"what else could {value!r} be?")


FIELDS = [field.name for field in dataclasses.fields(Recipe) if field.name != "lora"]


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_the_recipe_decides_the_adapter(study, experiment, field: str) -> None:
    recipe = dataclasses.replace(study.recipe, **{field: another(getattr(study.recipe, field))})
    other = dataclasses.replace(experiment, study=dataclasses.replace(study, recipe=recipe))
    assert changed(experiment, other) == (True, True, field == "precision")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(LoraSpec)])
def test_every_field_of_lora_decides_the_adapter(study, experiment, field: str) -> None:
    lora = dataclasses.replace(study.recipe.lora, **{field: another(getattr(study.recipe.lora, field))})
    recipe = dataclasses.replace(study.recipe, lora=lora)
    other = dataclasses.replace(experiment, study=dataclasses.replace(study, recipe=recipe))
    assert changed(experiment, other) == (True, True, False)


def test_the_seed_decides_the_adapter_and_not_the_baseline(experiment) -> None:
    assert changed(experiment, experiment, seed=42) == (True, True, False)


@pytest.mark.parametrize(
    ("cell", "split", "expected"),
    [
        (SOURCE, "train", (True, True, False)),
        (SOURCE, "test", (False, True, True)),
        (Cell("pair", "tr"), "test", (False, True, True)),
        (Cell("pair", "tr"), "train", (False, False, False)),
    ],
    ids=["trained on", "tested on", "another target", "another source"],
)
def test_one_letter_of_an_item_decides_what_read_it(study, experiment, cell, split, expected) -> None:
    benchmark = load_benchmark(study.benchmark)

    def pool(of: Cell, part: str):
        items = benchmark.pool(of, part)
        if (of, part) != (cell, split):
            return items
        wanted = experiment.items.train(cell)[5].id if part == "train" else experiment.items.test(cell)[5].id
        return tuple(
            dataclasses.replace(item, question=f"{item.question}.") if item.id == wanted else item for item in items
        )

    items = align(dataclasses.replace(benchmark, pool=pool), experiment.grid, study.split)
    assert changed(experiment, dataclasses.replace(experiment, items=items)) == expected


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        (SplitSpec(train=23, test=16), (True, True, False)),
        (SplitSpec(train=24, test=15), (False, True, True)),
        (SplitSpec(train=24, test=16, seed=43), (True, True, True)),
    ],
    ids=["fewer to train on", "fewer to test on", "another draw"],
)
def test_the_draw_of_items_decides_what_read_them(study, experiment, split, expected) -> None:
    assert changed(experiment, prepare(dataclasses.replace(study, split=split))) == expected


def test_one_weight_of_the_base_decides_everything(study, experiment, base, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    moved = dataclasses.replace(study, models=(BaseSpec(name="renamed", path=str(copy)),))
    assert changed(experiment, prepare(moved)) == (False, False, False)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert changed(experiment, prepare(moved)) == (True, True, True)


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json"])
def test_the_bases_tokenizer_and_configuration_decide_everything(study, experiment, base, tmp_path, file) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    (copy / file).write_text((copy / file).read_text() + "\n")
    moved = dataclasses.replace(study, models=(BaseSpec(name="tiny", path=str(copy)),))
    assert changed(experiment, prepare(moved)) == (True, True, True)


def test_the_engines_version_decides_everything(experiment, monkeypatch) -> None:
    before = prints(experiment)
    monkeypatch.setattr(fingerprints, "ENGINE", "another")
    assert not set(before) & set(prints(experiment))


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "other"},
        {"description": "other"},
        {"protocol": "other"},
        {"tokens_per_batch": 99},
        {"seeds": (17,)},
        {"sources": ("kind/en",)},
        {"tasks": ("pair", "kind"), "languages": ("tr", "en")},
    ],
    ids=lambda fields: " and ".join(fields),
)
def test_what_decides_no_result_changes_no_fingerprint(study, experiment, fields) -> None:
    assert changed(experiment, prepare(dataclasses.replace(study, **fields))) == (False, False, False)


def test_fewer_targets_leave_the_adapter_what_it_was(study, experiment) -> None:
    assert changed(experiment, prepare(dataclasses.replace(study, tasks=("kind",)))) == (False, True, True)


def test_a_default_written_out_is_the_same_recipe(study_file) -> None:
    silent = study_file(("  lora: {rank: 4, alpha: 8}\n", ""))
    told = study_file(("lora: {rank: 4, alpha: 8}", "lora: {rank: 8, alpha: 16, dropout: 0}\n  weight_decay: 0"))
    expected = prints(prepare(load_study(str(silent))))
    assert prints(prepare(load_study(str(told)))) == expected
    assert prints(prepare(load_study(str(silent), seeds=(17,)))) == expected


def test_no_two_jobs_of_a_study_share_a_fingerprint(experiment) -> None:
    jobs = experiment.jobs()
    assert [str(job) for job in jobs][:2] == ["tiny baseline", "tiny kind/en seed 17"]
    assert len(jobs) == 1 + 4 * 2
    written = [job.evaluate for job in jobs] + [job.finetune for job in jobs if job.finetune]
    assert len(set(written)) == len(written) == 17


@pytest.mark.parametrize(
    ("source", "told"),
    [("kind", "is not a cell"), ("kin/en", "no task 'kin'; nearest: kind"), ("kind/tx", "no language 'tx'")],
)
def test_a_source_that_is_not_in_the_grid_is_refused(study, source: str, told: str) -> None:
    with pytest.raises(Refused, match=told):
        prepare(dataclasses.replace(study, sources=(source,)))


class TestPlan:
    """Plans against a store that holds some of the runs."""

    @pytest.fixture
    def store(self, client, study):
        identity = experiment_id(client, study.name)

        def note(kind: Kind, fingerprint: str | None, *, fails: bool = False) -> None:
            try:
                with recorded(client, identity, kind=kind, name="x", tags={Tag.FINGERPRINT: fingerprint}):
                    if fails:
                        raise ValueError
            except ValueError:
                pass

        return note

    @pytest.fixture
    def plan(self, client, experiment, study):
        return lambda **fields: make_plan(experiment, client, experiment_id(client, study.name), **fields)

    def test_with_nothing_recorded_everything_is_left_the_baseline_first(self, plan, experiment) -> None:
        found = plan()
        assert [job for job, _ in found.todo] == experiment.jobs()
        assert [step for _, step in found.todo] == [Step.BASELINE] + [Step.TRAIN_AND_EVALUATE] * 8
        assert (found.fine_tunes, found.evaluations) == (8, 9)
        assert set(found.reused.values()) == {0}

    def test_what_is_finished_is_left_out_and_what_failed_is_not(self, plan, store, experiment) -> None:
        baseline, one, two, three, *rest = experiment.jobs()
        store(Kind.BASELINE, baseline.evaluate)
        store(Kind.FINETUNE, one.finetune)
        store(Kind.EVALUATE, one.evaluate)
        store(Kind.FINETUNE, two.finetune)
        store(Kind.EVALUATE, two.evaluate, fails=True)
        store(Kind.FINETUNE, three.finetune, fails=True)
        found = plan()
        assert found.todo == (
            (two, Step.EVALUATE),
            *((job, Step.TRAIN_AND_EVALUATE) for job in (three, *rest)),
        )
        assert found.reused == {Kind.BASELINE: 1, Kind.FINETUNE: 2, Kind.EVALUATE: 1}
        assert (found.fine_tunes, found.evaluations) == (6, 7)

    def test_with_everything_recorded_nothing_is_left(self, plan, store, experiment) -> None:
        for job in experiment.jobs():
            store(Kind.BASELINE if job.source is None else Kind.EVALUATE, job.evaluate)
            if job.finetune:
                store(Kind.FINETUNE, job.finetune)
        found = plan()
        assert found.todo == ()
        assert found.reused == {Kind.BASELINE: 1, Kind.FINETUNE: 8, Kind.EVALUATE: 8}

    def test_an_evaluation_is_enough_even_if_its_fine_tune_is_gone(self, plan, store, experiment) -> None:
        job = experiment.jobs()[1]
        store(Kind.EVALUATE, job.evaluate)
        assert plan(jobs=[job]).todo == ()

    def test_a_fine_tune_alone_is_never_followed_by_an_evaluation(self, plan, store, experiment) -> None:
        done, left = experiment.jobs()[1:3]
        store(Kind.FINETUNE, done.finetune)
        assert plan(jobs=[done, left], train_only=True).todo == ((left, Step.TRAIN),)

    def test_a_fingerprint_counts_for_its_own_kind_alone(self, plan, store, experiment) -> None:
        job: Job = experiment.jobs()[1]
        store(Kind.EVALUATE, job.finetune)
        store(Kind.FINETUNE, job.evaluate)
        assert plan(jobs=[job]).todo == ((job, Step.TRAIN_AND_EVALUATE),)
