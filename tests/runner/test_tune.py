"""A search for a recipe: what it reads, what it minds, what it leaves, and that a kill costs nothing."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import optuna
import pytest
import torch
import yaml
from mlflow.entities import Run
from optuna.trial import TrialState

from registry.benchmarks import align, load_benchmark
from registry.benchmarks import demo as demo_items
from registry.cells import Cell
from registry.lora.adapter import fresh_adapter
from registry.lora.tokens import Example
from registry.lora.train import Assignment, train_adapter
from registry.refusal import Refused
from registry.runner import single
from registry.runner.session import prospect, run_study
from registry.study import LoraSpec, Recipe, SplitSpec, Study
from registry.studyfile import load_study
from registry.tracking import runs
from registry.tracking.names import Kind, Tag
from registry.tracking.store import PROJECT, all_runs, experiment_id, open_store
from registry.tunespec import Dimension, TuneSpace, TuneSpec
from registry.tuning import objective, preparation
from registry.tuning.items import held_out, training_side
from registry.tuning.objective import transfer_value
from registry.tuning.preparation import prepare_search
from registry.tuning.search import run_search
from registry.tuning.space import recipe_of, suggested
from registry.tuning.spec import spec_of
from registry.tuning.storage import RUN, Trials, open_storage, open_trials, storage_url

TUNE = """\
tune:
  startup: 1
  trials: 4
  space:
    learning_rate: [1.0e-12, 5.0e-2]
    rank: [2]
    alpha: [4, 8]
    epochs: {low: 1, high: 2}
    batch_size: [4]
    dropout: [0.0]
    targets: [[q_proj, v_proj]]
"""
RUNNING = TrialState.RUNNING
SPLIT = "split: {train: 24, test: 16}\n"


@pytest.fixture
def tuned_file(study_file) -> Path:
    return study_file((SPLIT, SPLIT + TUNE))


@pytest.fixture
def study(tuned_file) -> Study:
    return load_study(str(tuned_file))


def trials_of(study: Study, uri: str, **given: object) -> Trials:
    search, client = prepare_search(study, spec_of(study, **given)), open_store(uri)
    return open_trials(search, open_storage(storage_url(uri)), client, experiment_id(client, study.name))


def runs_of(trials: Trials, kind: Kind) -> list[Run]:
    return all_runs(trials.client, [trials.experiment_id], f"tags.{Tag.KIND} = '{kind}'")


def told(trials: Trials) -> list[tuple[TrialState, object, dict[str, object]]]:
    return [(trial.state, trial.value, trial.params) for trial in trials.counted()]


class TestItems:
    @pytest.fixture
    def sealed(self):
        """The built-in grid, its test items out of reach."""

        def pool(cell, split):
            assert split == "train", f"a test item of {cell} was read"
            return demo_items.items(cell, split)

        return replace(load_benchmark(Study(name="x", models=[{"name": "demo-wide"}]).benchmark), pool=pool)

    @pytest.mark.parametrize("objective", ["validation_loss", "transfer"])
    def test_a_whole_search_reads_no_test_item(self, study, sealed, uri, monkeypatch, tmp_path, objective) -> None:
        monkeypatch.setattr(preparation, "load_benchmark", lambda spec: sealed)
        monkeypatch.setattr(single, "load_benchmark", lambda spec: sealed)
        with pytest.raises(AssertionError, match="a test item of kind/en was read"):
            align(sealed, sealed.select(study.tasks, study.languages), study.split)
        trials = trials_of(study, uri, objective=objective, trials=2)
        run_search(trials, str(tmp_path))
        assert trials.counted(TrialState.COMPLETE)

    def test_the_training_side_is_what_the_study_trains_on(self, study) -> None:
        benchmark = load_benchmark(study.benchmark)
        grid = benchmark.select(study.tasks, study.languages)
        whole, side = align(benchmark, grid, study.split), training_side(benchmark, grid, study.split)
        divided = held_out(benchmark, grid, study.split, share=0.25)
        for cell in grid:
            trained, judged = ({item.id for item in part(cell)} for part in (divided.train, divided.test))
            assert side.train(cell) == whole.train(cell)
            assert not trained & judged
            assert trained | judged <= {item.id for item in whole.train(cell)}
            assert (len(trained), len(judged)) == (18, 6)
            assert judged == {item.id for item in divided.test(Cell(cell.task, "en"))}

    def test_where_one_pool_is_divided_only_its_training_part_is_used(self, study) -> None:
        benchmark = load_benchmark(study.benchmark)
        one = replace(benchmark, one_pool=frozenset({"kind"}))
        grid = one.select(["kind"], ["en", "tr"])
        split = SplitSpec(test=10)  # all others are trained on
        whole, divided = align(one, grid, split), held_out(one, grid, split, share=0.2)
        tested = {item.id for item in whole.test(Cell("kind", "en"))}
        used = {item.id for part in (divided.train, divided.test) for item in part(Cell("kind", "en"))}
        assert used
        assert not used & tested

    def test_a_manifest_keeps_its_training_rows_and_the_lines_of_its_faults(self, study, tmp_path) -> None:
        benchmark = load_benchmark(study.benchmark)
        grid = benchmark.select(study.tasks, study.languages)
        whole = align(benchmark, grid, study.split)
        for task in grid.tasks:
            (tmp_path / f"{task}.csv").write_text(whole.manifest(task).to_csv(), encoding="utf-8")
        split = SplitSpec(manifest=str(tmp_path))
        side = training_side(benchmark, grid, split)
        assert all(side.train(cell) == whole.train(cell) for cell in grid)
        file = tmp_path / "pair.csv"
        test = whole.manifest("pair").test[0]
        file.write_text(f"split,id\ntest,{test}\ntrain,nowhere\n", encoding="utf-8")
        with pytest.raises(Refused, match=rf"{file}:3: train has no item 'nowhere'"):
            training_side(benchmark, grid, split)

    def test_a_question_trained_on_under_another_id_is_not_judged_on(self, study) -> None:
        benchmark = load_benchmark(study.benchmark)
        grid = benchmark.select(["kind"], ["en", "tr"])
        plain = held_out(benchmark, grid, study.split, share=0.25)
        cell = Cell("kind", "en")
        twin, trained = plain.test(cell)[0], plain.train(cell)[0]

        def pool(cell, split):
            items = {item.id: item for item in benchmark.pool(cell, split)}
            items[twin.id] = replace(items[trained.id], id=twin.id)
            return tuple(items.values())

        found = held_out(replace(benchmark, pool=pool), grid, study.split, share=0.25)
        assert {item.id for item in plain.test(cell)} - {item.id for item in found.test(cell)} == {twin.id}
        assert found.train(cell) == plain.train(cell)


class TestObjective:
    def test_transfer_weighs_gain_in_other_languages_against_harm_to_other_tasks(self) -> None:
        source = Cell("a", "en")
        baseline = {Cell(task, language): 0.5 for task in "abc" for language in ("en", "tr", "sw")}
        changed = {
            Cell("a", "en"): 0.9,  # the trained cell itself counts for nothing
            Cell("a", "tr"): 0.56,
            Cell("a", "sw"): 0.52,
            Cell("b", "en"): 0.47,  # 3 points of harm
            Cell("c", "tr"): 0.41,  # 9 points of harm
            Cell("b", "tr"): 0.9,  # a gain off the task counts for nothing
        }
        value, gain, harm = transfer_value(source, baseline | changed, baseline, weight=0.5)
        assert (gain, harm) == pytest.approx((4.0, 12 / 6))
        assert value == pytest.approx(4.0 - 0.5 * 2.0)

    def test_validation_loss_is_that_of_the_epoch_that_the_study_would_keep(self, study, monkeypatch) -> None:
        losses = {"kind": [3.0, 1.0, 2.0], "pair": [5.0, 6.0, 4.5]}

        def training(model, assignments, recipe, **_):
            for epoch in range(3):
                for one, curve in zip(assignments, losses.values(), strict=True):
                    one.validated(epoch + 1, curve[epoch])
            return []

        monkeypatch.setattr(objective, "train_adapters", training)
        for share, steps in ((0.0, [4.0, 3.5, 3.25]), (0.1, [4.0, 3.0, 2.75])):
            recipe = replace(study.recipe, validation=share, epochs=3)
            search = prepare_search(replace(study, recipe=recipe), spec_of(study))
            bench = objective.Workbench(search.experiment, search.spec, seed=1, device="cpu")
            found: dict[int, float] = {}
            measured = bench.measure(recipe, found.__setitem__, lambda what, share: None)
            assert found == dict(enumerate(steps, 1))
            assert measured.value == steps[-1]

    def test_a_training_tells_every_epoch_and_may_be_stopped(self, llama) -> None:
        before = {name: weight.clone() for name, weight in llama.state_dict().items()}
        examples = [Example((1, 5, n, 7), 2) for n in range(10, 26)]
        recipe = Recipe(epochs=3, batch_size=4, validation=0.25)
        adapter = fresh_adapter(llama, LoraSpec(rank=2), seed=1)
        seen: list[tuple[int, float]] = []
        whole = train_adapter(llama, Assignment(adapter, examples, 1, validated=lambda *t: seen.append(t)), recipe)
        assert seen == list(enumerate(whole.validation_losses, 1))

        def stop(epoch: int, loss: float) -> None:
            raise optuna.TrialPruned

        with pytest.raises(optuna.TrialPruned):
            train_adapter(llama, Assignment(adapter, examples, 1, validated=stop), recipe)
        assert not llama.training
        assert all(torch.equal(weight, before[name]) for name, weight in llama.state_dict().items())


class TestSpace:
    def test_every_default_is_a_recipe(self) -> None:
        space = TuneSpace()
        for field in fields(space):
            for value in getattr(space, field.name).values:
                stored = "+".join(value) if isinstance(value, tuple) else value
                recipe = recipe_of(Recipe(), {field.name: stored})
                found = getattr(recipe, field.name, None) or getattr(recipe.lora, field.name, None)
                assert found == value or (value == 0.0 and not found)

    @pytest.mark.parametrize(
        ("name", "bad"), [("rank", 0), ("rank", 1.5), ("dropout", 1.0), ("learning_rate", 0.0), ("epochs", 0)]
    )
    def test_what_a_recipe_refuses_the_space_refuses(self, name: str, bad: float) -> None:
        with pytest.raises(ValueError):
            recipe_of(Recipe(), {name: bad})
        with pytest.raises(ValueError, match=name):
            TuneSpace(**{name: Dimension(choices=(bad,))})

    @pytest.mark.parametrize(
        ("old", "new", "expected"),
        [
            ("  startup", "  strtup", "small.yaml:10 in tune: there is no key 'strtup'; nearest: startup"),
            ("    rank: [2]", "    rnk: [2]", "in tune.space: there is no key 'rnk'; nearest: rank"),
            ("{low: 1, high", "{low: 1, hihg", "in tune.space.epochs: there is no key 'hihg'; nearest: high"),
            ("{low: 1, high: 2}", "{low: 2, high: 1}", "tune.space.epochs: low 2 is not below high 1"),
            ("alpha: [4, 8]", "alpha: {low: 0, high: 8, log: true}", "a logarithmic range cannot begin at 0"),
            ("[1.0e-12, 5", "[1e-5, 5", "YAML reads 1e-5 as text: write 1.0e-5"),
            ("[[q_proj, v_proj]]", "[q_proj, v_proj]", "targets: 'q_proj' is no list of projections"),
            ("trials: 4", "trials: 0", "tune.trials: input should be greater than 0 (got 0)"),
        ],
    )
    def test_a_mistake_in_the_study_file_is_told(self, study_file, old: str, new: str, expected: str) -> None:
        assert old in TUNE
        file = study_file((SPLIT, SPLIT + TUNE.replace(old, new)))
        with pytest.raises(Refused) as refused:
            load_study(str(file))
        assert expected in str(refused.value)

    def test_what_is_given_takes_the_place_of_the_file(self, study) -> None:
        assert spec_of(study, trials=9, objective=None).trials == 9
        assert spec_of(replace(study, tune=None)) == TuneSpec()
        with pytest.raises(Refused, match="no objective 'transfr'; nearest: transfer"):
            spec_of(study, objective="transfr")
        with pytest.raises(Refused, match=r"^tune.harm_weight: input should be .* equal to 0 \(got -1.0\)$"):
            spec_of(study, harm_weight=-1.0)


class TestPreparation:
    def test_by_default_each_task_is_searched_in_one_language(self, study) -> None:
        def cells(**given: str) -> list[str]:
            return [str(cell) for cell in prepare_search(study, spec_of(study), **given).experiment.sources]

        assert cells() == ["kind/en", "pair/en"]
        assert cells(language="tr") == ["kind/tr", "pair/tr"]
        assert cells(task="pair") == ["pair/en"]
        with pytest.raises(Refused, match="no task 'pai'; nearest: pair"):
            cells(task="pai")

    def test_transfer_needs_another_language(self, study) -> None:
        with pytest.raises(Refused, match="has only en; name more languages"):
            prepare_search(replace(study, languages=("en",)), spec_of(study, objective="transfer"))

    def test_what_decides_the_value_decides_the_name(self, study) -> None:
        def named(study: Study = study, **given: object) -> str:
            return prepare_search(study, spec_of(study, **given)).name

        assert named() == named(trials=99, timeout=5.0)
        others = {
            named(objective="transfer"),
            named(objective="transfer", harm_weight=2.0),
            named(replace(study, seeds=(3,))),
            named(validation=0.5),
        }
        assert len(others | {named()}) == 5


@pytest.fixture(scope="module")
def undisturbed(study_file, new_store, tmp_path_factory) -> Iterator[Trials]:
    """A search that was done in one go; nothing may write to it."""
    uri, study = new_store(), load_study(str(study_file((SPLIT, SPLIT + TUNE))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        trials = trials_of(study, uri)
        run_search(trials, str(Path(uri.removeprefix("sqlite:///")).parent / "tuned"))
        yield trials


class TestSearch:
    def test_a_search_is_recorded_and_ends_with_a_study_that_runs(self, undisturbed, study, uri) -> None:
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

    def test_nothing_left_is_not_recorded_again(self, study, uri, tmp_path) -> None:
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

    def test_a_bad_trial_is_pruned_and_its_run_says_so(self, study, uri, tmp_path) -> None:
        trials = trials_of(study, uri, trials=8)
        run_search(trials, str(tmp_path))
        pruned = [run for run in runs_of(trials, Kind.TRIAL) if run.data.tags[Tag.TRIAL_STATE] == "pruned"]
        assert pruned
        assert len(pruned) == len(trials.counted(TrialState.PRUNED))
        for run in pruned:
            assert run.info.status == "FINISHED"
            assert "worse than the median" in run.data.tags[Tag.PRUNED_BECAUSE]
            assert float(run.data.params["learning_rate"]) == 1e-12
            assert "tune/value" not in run.data.metrics

    def test_without_a_pruner_all_are_completed(self, study, uri, tmp_path) -> None:
        trials = trials_of(replace(study, tune=replace(study.tune, pruner="none")), uri, trials=5)
        run_search(trials, str(tmp_path))
        assert len(trials.counted(TrialState.COMPLETE)) == 5

    def test_a_loss_that_is_not_finite_prunes_and_an_error_fails_one_trial_alone(
        self, study, uri, tmp_path, monkeypatch
    ) -> None:
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

    def test_a_search_without_a_completed_trial_says_why(self, study, uri, tmp_path, monkeypatch) -> None:
        def broken(*given, **named):
            raise RuntimeError("a cable was pulled")

        monkeypatch.setattr(objective, "train_adapters", broken)
        with pytest.raises(Refused, match=r"(?s)was completed.*2 fail.*raise trials.*a cable was pulled"):
            run_search(trials_of(study, uri, trials=2), str(tmp_path))

    def test_a_trial_whose_process_is_gone_is_tried_again(self, undisturbed, study, uri, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(runs, "_WATCH_SECONDS", 0.5)
        trials = trials_of(study, uri)
        tags = {Tag.KIND: Kind.TUNE, Tag.HEARTBEAT: "0", Tag.WORKER: "another-machine:1-1"}
        dead = trials.client.create_run(trials.experiment_id, tags=tags).info.run_id
        orphan = trials.claim(dead)
        given = suggested(orphan, study.tune.space)
        assert trials.left == 4
        run_search(trials, str(tmp_path))
        assert trials.client.get_run(dead).info.status == "KILLED"
        assert told(trials) == told(undisturbed)
        assert told(trials)[0][2] == given
        assert len(trials.study.trials) == 5

    def test_a_living_process_keeps_its_trial(self, study, uri) -> None:
        trials = trials_of(study, uri)
        alive = trials.client.create_run(trials.experiment_id).info.run_id
        trials.claim(alive)
        assert trials.left == 3
        assert len(trials.counted(RUNNING)) == 1

    def test_of_two_that_begin_the_last_trial_at_once_one_lets_it_go(self, study, uri) -> None:
        mine, other = trials_of(study, uri, trials=1), trials_of(study, uri, trials=1)
        run, ask = mine.client.create_run(mine.experiment_id).info.run_id, mine.study.ask
        mine.study.ask = lambda: (other.claim(run), ask())[1]  # between looking and asking
        assert mine.claim(run) is None
        assert [trial.number for trial in mine.counted()] == [0]

    def test_a_storage_that_is_none_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "notes.db"
        file.write_text("no database, and long enough to be seen as none" * 50)
        with pytest.raises(Refused, match="cannot be opened"):
            open_storage(storage_url("", str(file)))


def start(file: Path, uri: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "entrypoints.tune", "--study", str(file), "--output", str(file.parent / "out"), *more],
        cwd=PROJECT,
        env=os.environ | {"MLFLOW_TRACKING_URI": uri},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


class TestCommand:
    @pytest.mark.slow
    def test_a_search_killed_with_9_goes_on_as_if_nothing_had_been(
        self, undisturbed, study, tuned_file, uri, tmp_path
    ) -> None:
        killed = uri
        process = start(tuned_file, killed)
        trials = trials_of(study, killed)
        deadline = time.monotonic() + 120
        while not (trials.counted(TrialState.COMPLETE) and any(RUN in t.user_attrs for t in trials.counted(RUNNING))):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGKILL)
        process.communicate()
        before = len(trials.counted())
        assert before < 4
        run_search(trials_of(study, killed), str(tmp_path / "resumed"))
        assert told(trials_of(study, killed)) == told(undisturbed)
        statuses = [run.info.status for run in runs_of(trials, Kind.TRIAL)]
        assert sorted(statuses) in (["FINISHED"] * 4 + ["KILLED"], ["FINISHED"] * 4)
        assert sorted(run.info.status for run in runs_of(trials, Kind.TUNE)) == ["FINISHED", "KILLED"]

    @pytest.mark.slow
    def test_two_at_once_share_the_trials(self, study, tuned_file, uri) -> None:
        processes = [start(tuned_file, uri, "--trials", "8") for _ in range(2)]
        for process in processes:
            output, _ = process.communicate(timeout=400)
            assert process.returncode == 0, output
            assert "next:\n  the tuned study:  mlflow run . -e study" in output
        trials = trials_of(study, uri, trials=8)
        assert len(trials.counted()) == 8
        assert not trials.counted(TrialState.RUNNING)
        assert not trials.counted(TrialState.FAIL)

    def test_its_parameters_are_declared_and_explained(self) -> None:
        shown = subprocess.run(
            [sys.executable, "-m", "entrypoints.tune", "--help"], cwd=PROJECT, capture_output=True, text=True
        ).stdout
        declared = yaml.safe_load((PROJECT / "MLproject").read_text(encoding="utf-8"))["entry_points"]["tune"]
        for name in declared["parameters"]:
            assert f"--{name.replace('_', '-')}" in shown
        filled = {name: shlex.quote(str(one["default"])) for name, one in declared["parameters"].items()}
        assert shlex.split(declared["command"].format(**filled))[:3] == ["python", "-m", "entrypoints.tune"]
        assert "example: mlflow run . -e tune --env-manager local" in " ".join(shown.split())
