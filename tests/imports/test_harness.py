"""What lm-evaluation-harness wrote, imported: the same frame as from our own scorer, and no other run's numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from analysis.reading.frame import Frame, load
from analysis.reading.imported import outcomes_of
from analysis.reading.observations import copy_cautions
from registry.cells import Cell
from registry.errors import Refused
from registry.imports import ImportedResults, read_source, record_import
from registry.tracking.columns import INDISTINCT
from registry.tracking.names import Kind
from registry.tracking.outcomes import recorded_accuracies
from registry.tracking.runs import finished_by_fingerprint
from registry.tracking.store import experiment_id, open_store

if TYPE_CHECKING:
    from tests.imports.conftest import Twice

SOURCE, SEED = Cell("pair", "tr"), 17
ELSEWHERE = ["run_id", "model_version"]


@pytest.fixture(scope="module")
def frames(twice: Twice, tmp_path_factory) -> tuple[Frame, Frame]:
    """The study as measured here, and as imported from the harness's folders."""
    client = open_store(twice.uri)
    imported = read_source(twice.folder, staging=tmp_path_factory.mktemp("staging"))
    record_import(client, "elsewhere", imported)
    return with_accuracies(client, load(client, twice.study.name)), load(client, "elsewhere")


def with_accuracies(client: MlflowClient, frame: Frame) -> Frame:
    """A measured frame whose accuracies, beside the score, are those of its runs' outcomes."""
    table = frame.observations
    for accuracy in ("acc", "acc_norm"):
        found = {run: recorded_accuracies(client, run, accuracy) for run in table["run_id"].unique()}
        keys = zip(table["run_id"], table["target_task"], table["target_language"], strict=True)
        table = table.assign(**{accuracy: [found[run][Cell(task, language)] for run, task, language in keys]})
    return replace(frame, observations=table)


def test_the_harness_and_our_scorer_give_the_same_frame(frames) -> None:
    ours, theirs = (frame.observations for frame in frames)
    assert len(ours) == 4
    assert set(ours["regime"]) == {"MT-ML", "MT-CL", "CT-ML", "CT-CL"}
    pd.testing.assert_frame_equal(ours.drop(columns=ELSEWHERE), theirs.drop(columns=ELSEWHERE), check_exact=True)


def test_the_frame_that_is_compared_says_something(frames) -> None:
    ours = frames[0].observations
    assert ours["delta"].nunique() > 1
    assert (ours["acc"] != ours["acc_norm"]).any()
    assert (ours["baseline"] != ours["score"]).any()


def test_the_baselines_are_the_same_with_their_chance(frames) -> None:
    ours = frames[0].baselines  # the harness's files do not say which options are the same tokens
    pd.testing.assert_frame_equal(ours.drop(columns=INDISTINCT), frames[1].baselines)
    assert (ours[INDISTINCT] == 0).all()


def test_every_outcome_is_the_same(frames, twice: Twice) -> None:
    client = open_store(twice.uri)
    experiment = experiment_id(client, twice.study.name)
    import_run = frames[1].observations["run_id"].iloc[0]
    for kind, where in ((Kind.BASELINE, ()), (Kind.EVALUATE, (SOURCE, SEED))):
        (run,) = finished_by_fingerprint(client, experiment, kind).values()
        ours = pd.read_parquet(mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/outcomes.parquet"))
        theirs = outcomes_of(client, import_run, "tiny", *where)
        assert theirs is not None
        assert list(theirs.columns) == list(ours.columns)
        assert list(theirs.dtypes.astype(str)[:-3]) == list(ours.dtypes.astype(str)[:-3])
        key = ["task", "language", "question", "option"]
        ours, theirs = (table.astype({"task": str, "language": str}).set_index(key) for table in (ours, theirs))
        theirs = theirs.loc[ours.index]
        np.testing.assert_allclose(theirs["loglikelihood"], ours["loglikelihood"], rtol=0, atol=1e-4)
        same = ["length", "right", "chosen", "chosen_norm"]
        pd.testing.assert_frame_equal(theirs[same], ours[same])


def test_an_import_that_has_everything_needs_no_note_but_where_it_is_from(frames) -> None:
    notes = [note for note in frames[1].notes if "grid" not in note]
    assert notes == ["Imported from manifest.yaml, not measured here."]
    assert not frames[1].seed_averaged


def test_outcomes_of_what_was_not_imported_are_none(frames, twice: Twice) -> None:
    run = frames[1].observations["run_id"].iloc[0]
    assert outcomes_of(open_store(twice.uri), run, "tiny", Cell("kind", "en"), 17) is None
    assert outcomes_of(open_store(twice.uri), run, "other") is None


# --- folders that were changed


@pytest.fixture
def folder(twice: Twice, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(twice.folder, tmp_path / "harness"))


@pytest.fixture
def read(folder: Path, tmp_path_factory) -> Callable[[], ImportedResults]:
    return lambda: read_source(folder, staging=tmp_path_factory.mktemp("staging"))


def results_of(folder: Path) -> Path:
    (path,) = folder.rglob("results_*.json")
    return path


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    """Change a JSON or YAML file's content in place."""
    text = path.read_text(encoding="utf-8")
    content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML


def samples_of(folder: Path, task: str) -> Path:
    (path,) = folder.rglob(f"samples_{task}_*.jsonl")
    return path


def test_without_samples_scores_are_imported_alone(read, folder: Path, frames) -> None:
    for path in folder.rglob("samples_*.jsonl"):
        path.unlink()
    found = read()
    assert found.outcomes is None
    assert any("no outcomes of single questions" in note and "and 3 more" in note for note in found.notes)
    ours = frames[0].observations.drop(columns=ELSEWHERE)
    pd.testing.assert_frame_equal(found.observations[ours.columns], ours)
    assert found.baselines["chance"].isna().all()


def test_acc_is_the_score_of_a_task_without_acc_norm(read, folder: Path, frames) -> None:
    for path in folder.rglob("results_*.json"):
        change(path, lambda told: told["results"]["pair_en"].pop("acc_norm,none"))
    found = read().observations.set_index(["target_task", "target_language"])
    ours = frames[0].observations.set_index(["target_task", "target_language"])
    assert found.loc[("pair", "en"), "score"] == ours.loc[("pair", "en"), "acc"]
    assert found.loc[("pair", "en"), "acc_norm"] == ours.loc[("pair", "en"), "acc_norm"]  # counted from the samples
    assert found.loc[("pair", "tr"), "score"] == ours.loc[("pair", "tr"), "acc_norm"]
    assert any(note.startswith("The score of pair is acc_norm where") for note in read().notes)


def test_the_manifest_chooses_the_accuracy_that_is_the_score(read, folder: Path, frames) -> None:
    change(folder / "manifest.yaml", lambda told: told.update(headline={"pair": "acc"}))
    found, key = read(), ["target_task", "target_language"]
    ours = frames[0].observations.set_index(key)
    for row in found.observations.itertuples():
        wanted = "acc" if row.target_task == "pair" else "acc_norm"
        assert row.score == ours.loc[(row.target_task, row.target_language), wanted]
        assert row.delta == pytest.approx(100 * (row.score - row.baseline), abs=1e-9)
    assert (ours["acc"] != ours["acc_norm"]).any()
    assert found.headlines == {"kind": "acc_norm", "pair": "acc"}
    change(folder / "manifest.yaml", lambda told: told.update(headline={"piar": "acc"}))
    with pytest.raises(Refused, match=r"manifest.yaml: headline: there is no task 'piar'; nearest: pair"):
        read()
    change(folder / "manifest.yaml", lambda told: told.update(headline={"pair": "acc_nrom"}))
    with pytest.raises(Refused, match=r"headline.pair: input should be 'acc' or 'acc_norm' \(got 'acc_nrom'\)"):
        read()


def test_the_newest_of_several_files_counts(read, folder: Path) -> None:
    path = results_of(folder / "base")
    older = path.with_name("results_2001-01-01T00-00-00.000001.json")
    shutil.copyfile(path, older)
    change(older, lambda told: told["results"]["kind_en"].update({"acc,none": 1.0}))
    found = read()
    assert any("only the newest counts: tiny baseline: kind_en" in note for note in found.notes)
    assert (found.baselines["score"] < 1).all()


def test_a_part_of_the_questions_is_noted(read, folder: Path) -> None:
    for path in folder.rglob("results_*.json"):
        change(path, lambda told: told["n-samples"]["kind_tr"].update(original=1000))
    assert "Only a part of the questions was evaluated, as by --limit, in: kind_tr." in read().notes


def test_tasks_are_left_out_if_the_manifest_says_so(read, folder: Path) -> None:
    change(folder / "manifest.yaml", lambda told: told["tasks"].update(kind_tr=None))
    found = read()
    assert len(found.observations) == 3
    assert "Left out, as the manifest says: kind_tr." in found.notes


def test_the_size_is_the_harness_own_count_where_nothing_else_tells(read, folder: Path) -> None:
    change(folder / "manifest.yaml", lambda told: told["models"]["tiny"].pop("size_b"))
    told = json.loads(results_of(folder / "base").read_text(encoding="utf-8"))["config"]["model_num_parameters"]
    assert set(read().observations["model_size_b"]) == {told / 1e9}


def test_a_csv_manifest_says_the_same(folder: Path, tmp_path: Path, read) -> None:
    expected = read()
    rows = f"folder,model,source,seed\nbase,gemma-3-1b-it,,\nadapter,gemma-3-1b-it,{SOURCE},{SEED}\n"
    (folder / "runs.csv").write_text(rows, encoding="utf-8")
    names = {"kind_en": "arc_en", "kind_tr": "arc_tr", "pair_en": "hellaswag_en", "pair_tr": "hellaswag_tr"}
    for path in [*folder.rglob("results_*.json"), *folder.rglob("samples_*.jsonl")]:
        text, name = path.read_text(encoding="utf-8"), path.name
        for old, new in names.items():
            text, name = text.replace(f'"{old}"', f'"{new}"'), name.replace(f"_{old}_", f"_{new}_")
        path.unlink()
        path.with_name(name).write_text(text, encoding="utf-8")
    found = read_source(folder / "runs.csv", staging=tmp_path / "other")
    assert set(found.observations["target_task"]) == {"arc_challenge", "hellaswag"}
    np.testing.assert_array_equal(sorted(found.observations["delta"]), sorted(expected.observations["delta"]))


def test_the_same_folders_have_the_same_digest_and_changed_ones_another(read, folder: Path) -> None:
    before = read().digest
    assert read().digest == before
    samples_of(folder / "base", "kind_en").unlink()
    assert read().digest != before


def no_result(folder: Path) -> None:
    results_of(folder / "adapter").unlink()


def no_folder(folder: Path) -> None:
    shutil.rmtree(folder / "adapter")


def two_models(folder: Path) -> None:
    shutil.copytree(folder / "base", folder / "adapter" / "base")


def cut_results(folder: Path) -> None:
    path = results_of(folder / "base")
    path.write_text(path.read_text(encoding="utf-8")[:-400], encoding="utf-8")


def cut_samples(folder: Path) -> None:
    path = samples_of(folder / "base", "kind_en")
    path.write_text(path.read_text(encoding="utf-8")[:-400], encoding="utf-8")


def fewer_samples(folder: Path) -> None:
    path = samples_of(folder / "base", "kind_en")
    path.write_text("\n".join(path.read_text(encoding="utf-8").splitlines()[:-1]), encoding="utf-8")


def twice_written(folder: Path) -> None:
    path = samples_of(folder / "base", "kind_en")
    path.write_text(path.read_text(encoding="utf-8") * 2, encoding="utf-8")


def other_answers(folder: Path) -> None:
    path = samples_of(folder / "base", "kind_en")
    samples = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for sample in samples:
        sample["target"] = str((int(sample["target"]) + 1) % len(sample["arguments"]))
    path.write_text("\n".join(map(json.dumps, samples)), encoding="utf-8")


def in_results(where: str, edit: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda folder: change(results_of(folder / where), edit)


def in_manifest(edit: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda folder: change(folder / "manifest.yaml", edit)


MISTAKES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no results": (no_result, "holds no results_*.json; name the folder that lm_eval was given as --output_path"),
    "no folder": (no_folder, "is not there; name the folder"),
    "results of two models": (two_models, "holds results of several models"),
    "cut results": (cut_results, "is not JSON"),
    "cut samples": (cut_samples, "is no sample of a multiple-choice task (JSONDecodeError"),
    "fewer samples": (fewer_samples, "the files are not of one evaluation"),
    "samples twice": (twice_written, "a doc_id stands there twice"),
    "other answers": (other_answers, "targets and log-likelihoods do not give the accuracies"),
    "an unknown task": (
        in_manifest(lambda told: told["tasks"].pop("kind_{language}")),
        "the cell of the task 'kind_en' is not known from its name; name it in manifest.yaml, such as tasks:",
    ),
    "one cell twice": (
        in_manifest(lambda told: told["tasks"].update(kind_en="pair/en")),
        "kind_en and pair_en are both pair/en",
    ),
    "no baseline on a target": (
        in_results("base", lambda told: told["results"].pop("kind_en")),
        "tiny has no baseline on kind/en; evaluate the untouched model there too",
    ),
    "no baseline at all": (in_manifest(lambda told: told["runs"].pop(0)), "no baseline is listed for: tiny"),
    "no adapter": (in_manifest(lambda told: told["runs"].pop(1)), "only baselines are listed"),
    "other questions": (
        in_results("base", lambda told: told["task_hashes"].update(kind_en="0")),
        "the set of questions and prompts of kind/en differs between",
    ),
    "another template": (
        in_results("adapter", lambda told: told.update(chat_template_sha="0")),
        "the chat template of kind/en differs between",
    ),
    "other shots": (
        in_results("adapter", lambda told: told["n-shot"].update(pair_tr=5)),
        "the number of examples in the prompt of pair/tr differs between",
    ),
    "a generation task": (
        in_results("base", lambda told: told["results"]["kind_en"].pop("acc,none")),
        "kind_en has no acc, so it is no multiple-choice task (it has: acc_norm,none)",
    ),
    "percent": (
        in_results("base", lambda told: told["results"]["kind_en"].update({"acc,none": 31.25})),
        "acc of kind_en is '31.25', no proportion in [0, 1]",
    ),
    "not results": (in_results("base", lambda told: told.pop("configs")), "is no file of results"),
    "an unknown family": (
        in_manifest(lambda told: told.pop("models")),
        "the family of model 'tiny' is not known; say it in the manifest",
    ),
}


def without_samples(folder: Path) -> None:
    for path in folder.rglob("samples_*.jsonl"):
        path.unlink()


def shots(folder: Path) -> None:
    for path in folder.rglob("results_*.json"):
        change(path, lambda told: told["n-shot"].update(dict.fromkeys(told["n-shot"], 5)))


def another_prompt(folder: Path) -> None:
    path = samples_of(folder / "adapter", "pair_tr")
    path.write_text(path.read_text(encoding="utf-8").replace('"arg_0": "', '"arg_0": "Be brief. '), encoding="utf-8")


def beside(folder: Path) -> None:
    change(results_of(folder / "adapter"), lambda told: told["config"]["model_args"].update(peft="adapter"))


def put(*places: str, value: Any) -> Callable[[Any], None]:
    """Set what stands at a place of a file."""

    def edit(told: Any) -> None:
        for place in places[:-1]:
            told = told[place]
        told[places[-1]] = value

    return edit


#: What is done to both files first, the place where the adapter's file is changed, and what is said.
SETTINGS: dict[str, tuple[Callable[[Path], None] | None, Callable[[Any], None], str]] = {
    "system instruction": (None, put("system_instruction", value="Be brief."), "the system instruction of kind/en"),
    "its hash alone": (None, put("system_instruction_sha", value="1a2b"), "the system instruction of kind/en"),
    "template without hash": (without_samples, put("chat_template", value="{{ x }}"), "the chat template of kind/en"),
    "dtype": (None, put("config", "model_dtype", value="torch.bfloat16"), "('bfloat16' and 'float32')"),
    "backend": (None, put("model_source", value="vllm"), "setting model_source of kind/en differs"),
    "begin token": (None, put("config", "model_args", "add_bos_token", value=True), "config.model_args.add_bos_token"),
    "quantised": (None, put("config", "model_args", "load_in_4bit", value=True), "('True' and None)"),
    "thinking": (None, put("config", "model_args", "enable_thinking", value=False), "model_args.enable_thinking"),
    "attention": (None, put("config", "model_args", "attn_implementation", value="sdpa"), "attn_implementation"),
    "longest input": (None, put("max_length", value=17), "setting max_length of kind/en differs"),
    "bos token": (None, put("tokenizer_bos_token", value=["<b>", "9"]), "setting tokenizer_bos_token"),
    "metrics": (None, put("configs", "pair_tr", "metric_list", value=[]), "setting configs.metric_list of pair/tr"),
    "repeats": (None, put("configs", "pair_tr", "repeats", value=3), "setting configs.repeats of pair/tr"),
    "filters": (None, put("configs", "pair_tr", "filter_list", value=["x"]), "setting configs.filter_list of pair/tr"),
    "what is to come": (None, put("config", "some_new_setting", value=1), "setting config.some_new_setting"),
    "prompt": (without_samples, put("configs", "pair_tr", "doc_to_text", value="{{x}}"), "configs.doc_to_text of pair"),
    "description": (without_samples, put("configs", "pair_tr", "description", value="Choose."), "configs.description"),
    "data": (without_samples, put("configs", "pair_tr", "dataset_path", value="x"), "configs.dataset_path of pair"),
    "seed": (without_samples, put("config", "random_seed", value=7), "setting config.random_seed of kind/en"),
    "logged prompt": (another_prompt, put("date", value=1), "options and targets, as logged with the samples, of pair"),
    "base": (beside, put("config", "model_sha", value="0a"), "the revision of the base model of kind/en differs"),
    "branch": (beside, put("config", "model_args", "revision", value="dev"), "config.model_args.revision of kind/en"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_that_can_change_a_score_is_refused_if_it_differs(read, folder: Path, setting: str) -> None:
    first, edit, told = SETTINGS[setting]
    if first is not None:
        first(folder)
    change(results_of(folder / "adapter"), edit)
    with pytest.raises(Refused) as raised:
        read()
    assert told in str(raised.value)
    assert "differs between" in str(raised.value)
    change(results_of(folder / "base"), edit)
    if setting not in ("logged prompt", "base", "branch"):
        assert len(read().observations) == 4


@pytest.mark.parametrize(("seed", "multiturn"), [(7, False), (None, True)])
def test_how_examples_are_drawn_matters_where_there_are_some(read, folder: Path, seed, multiturn) -> None:
    without_samples(folder)
    change(results_of(folder / "adapter"), put("config", "fewshot_seed", value=seed))
    change(results_of(folder / "adapter"), put("fewshot_as_multiturn", value=multiturn))
    assert len(read().observations) == 4
    shots(folder)
    with pytest.raises(Refused, match=r"setting (config.fewshot_seed|fewshot_as_multiturn) of kind/en differs"):
        read()


def test_what_changes_no_score_is_named(read, folder: Path) -> None:
    adapter = results_of(folder / "adapter")
    for place, value in (("batch_size", 1), ("device", "cuda:3"), ("random_seed", 7), ("model_num_parameters", 1)):
        change(adapter, put("config", place, value=value))
    change(adapter, put("transformers_version", value="4.0.0"))
    change(adapter, put("configs", "pair_tr", "doc_to_text", value="<function prompt at 0x7f00>"))
    change(results_of(folder / "base"), put("configs", "pair_en", "doc_to_text", value="<function prompt at 0x7f00>"))
    change(adapter, put("configs", "pair_en", "doc_to_text", value="<function prompt at 0x7fff>"))
    (note,) = (note for note in read().notes if "change no score" in note)
    named = "config.batch_size, config.device, config.random_seed, configs.doc_to_text, transformers_version."
    assert note.endswith(f"beyond rounding: {named}")


def test_what_one_version_of_the_harness_does_not_say_is_named(read, folder: Path) -> None:
    change(results_of(folder / "base"), lambda told: told.pop("max_length"))
    with pytest.raises(Refused, match="max_length"):
        read()
    change(results_of(folder / "base"), put("lm_eval_version", value="0.4.2"))
    assert any(note.endswith("so that they are not compared: max_length.") for note in read().notes)


def test_tasks_that_ask_the_same_are_named_as_copies(read, folder: Path) -> None:
    assert not any(note.startswith("Copies:") for note in read().notes)
    for path in folder.rglob("samples_kind_tr_*.jsonl"):
        (other,) = path.parent.glob("samples_kind_en_*.jsonl")
        shutil.copyfile(other, path)
    for path in folder.rglob("results_*.json"):
        change(path, lambda told: told["results"].update(kind_tr=told["results"]["kind_en"]))
        change(path, lambda told: told["task_hashes"].update(kind_tr=told["task_hashes"]["kind_en"]))
    (note,) = copy_cautions(read().notes)
    assert note[1] == "kind/en, kind/tr have the same test items, so every result on them counts once for each."


def test_an_adapter_that_was_not_loaded_is_named(read, folder: Path) -> None:
    for path in (folder / "base").rglob("*.json*"):
        kind = "results" if path.name.startswith("results") else path.name.rpartition("_")[0]
        (other,) = (folder / "adapter").rglob(f"{kind}_*.json*")
        shutil.copyfile(path, other)
    (note,) = (note for note in read().notes if "as if the adapter had not been loaded" in note)
    assert "use_cache" in note
    assert "tiny pair/tr seed 17 on kind/en" in note


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_does_not_fit_is_refused(read, folder: Path, mistake: str) -> None:
    spoil, told = MISTAKES[mistake]
    spoil(folder)
    with pytest.raises(Refused) as raised:
        read()
    assert told in str(raised.value)


def test_names_that_would_leave_a_folder_stay_in_it(read, folder: Path) -> None:
    """A task's name is whatever stands in the file of results."""
    name = "../../kind"
    change(folder / "manifest.yaml", lambda told: told["tasks"].update({name: "kind/de"}))
    for path in folder.rglob("results_*.json"):
        for part in ("results", "configs"):
            change(path, lambda told, part=part: told[part].update({name: told[part]["kind_en"]}))
    found = read()
    assert ("kind", "de") in set(found.baselines[["task", "language"]].itertuples(index=False, name=None))
    assert any("../../kind" in note for note in found.notes)


def test_two_models_of_one_name_in_files_have_outcomes_of_their_own(read, folder: Path) -> None:
    def rename(told: Any) -> None:
        told["models"] |= {"lab/tiny": told["models"]["tiny"], "lab--tiny": told["models"]["tiny"]}
        told["runs"] = [run | {"model": name} for name in ("lab/tiny", "lab--tiny") for run in told["runs"]]

    change(folder / "manifest.yaml", rename)
    found = read()
    assert set(found.observations["model"]) == {"lab/tiny", "lab--tiny"}
    assert len({path.parent.name for path in found.outcomes.rglob("*.parquet")}) == 2


def test_a_folder_without_manifest_is_told_what_to_write(read, folder: Path) -> None:
    (folder / "manifest.yaml").unlink()
    with pytest.raises(Refused) as raised:
        read()
    assert "holds no manifest.yaml" in str(raised.value)
    assert "results of lm_eval lie in: adapter/" in str(raised.value)
    assert "source: null" in str(raised.value)


def test_an_unfinished_read_records_nothing(client: MlflowClient, folder: Path, read) -> None:
    cut_results(folder)
    with pytest.raises(Refused):
        read()
    assert [experiment.name for experiment in client.search_experiments()] == ["Default"]
