"""Study files: what loads, and what a mistake in one is answered with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from registry.config.files import load_studies, load_study, study_names
from registry.config.study import LoraSpec, Recipe
from registry.errors import Refused
from registry.models.catalogue import PAPER
from registry.planning.design_files import study_yaml
from registry.planning.fingerprints import fingerprint

GOOD = """\
description: a study
benchmark:
  kind: files
  path: data/topics
  languages: [en, "no"]
  tasks:
    topic:
      train: "{language}/train.tsv"
      test: "{language}/test.tsv"
      id: index
      question: "{text}"
      choices: [sports, health]
      answer: category
      answer_is: text
models:
  - demo-wide
  - {name: tiny, family: tiny-1, size_b: 0.1}
seeds: [17]
split: {train: 10, test: 20}
recipe:
  epochs: 1
  lora:
    rank: 4
"""


@pytest.fixture
def study(tmp_path: Path):
    """Write GOOD with one text replaced, and return the file's path."""

    def write(old: str = "", new: str = "") -> str:
        assert old in GOOD
        path = tmp_path / "mine.yaml"
        path.write_text(GOOD.replace(old, new, 1) if old else GOOD, encoding="utf-8")
        return str(path)

    return write


def refusal(path: str, **overrides: object) -> str:
    with pytest.raises(Refused) as caught:
        load_study(path, **overrides)
    return str(caught.value)


def test_a_study_file_loads(study) -> None:
    loaded = load_study(study())
    assert loaded.name == "mine"
    assert [model.name for model in loaded.models] == ["demo-wide", "tiny"]
    assert loaded.benchmark.languages == ("en", "no")
    assert loaded.benchmark.tasks["topic"].choices == ("sports", "health")
    assert (loaded.recipe.lora.rank, loaded.recipe.epochs, loaded.recipe.batch_size) == (4, 1, 8)


def test_a_large_bases_settings_are_read_from_the_study(study) -> None:
    plain, large = load_study(study()), load_study(study("seeds:", "placement: spread\nquantization: 8bit\nseeds:"))
    assert (plain.placement, plain.quantization) == ("one", None)
    assert (large.placement, large.quantization) == ("spread", "8bit")


@pytest.mark.parametrize("name", study_names())
def test_every_study_of_the_project_loads_and_begins_with_its_command(name: str) -> None:
    assert all(study.name.startswith(name) for study in load_studies(name))
    path = Path(__file__).parents[2] / "registry" / "studies" / f"{name}.yaml"
    _, command = path.read_text(encoding="utf-8").splitlines()[:2]  # behind the line that names the schema
    assert command.startswith("# mlflow run . -e ")
    assert f"study={name}" in command


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("seeds:", "seed:", "mine.yaml:18: there is no key 'seed'; nearest: seeds"),
        ("  epochs:", "  epoch:", "mine.yaml:21 in recipe: there is no key 'epoch'; nearest: epochs"),
        ("    rank:", "    rnk:", "mine.yaml:23 in recipe.lora: there is no key 'rnk'; nearest: rank"),
        ("family:", "famly:", "mine.yaml:17 in models[1]: there is no key 'famly'; nearest: family"),
        ("  kind:", "  knd:", "mine.yaml:3 in benchmark: there is no key 'knd'; nearest: kind"),
        (
            "      answer_is:", "      answers_is:",
            "mine.yaml:14 in benchmark.tasks.topic: there is no key 'answers_is'; nearest: answer_is",
        ),
        ("{train: 10", "{trian: 10", "mine.yaml:19 in split: there is no key 'trian'; nearest: train"),
        ("seeds:", "quantisation: 4bit\nseeds:", "mine.yaml:18: there is no key 'quantisation'; nearest: quantization"),
        ("seeds:", "placment: spread\nseeds:", "mine.yaml:18: there is no key 'placment'; nearest: placement"),
    ],
)  # fmt: skip
def test_a_mistyped_key_is_told_with_line_and_nearest_key(study, old: str, new: str, expected: str) -> None:
    assert expected in refusal(study(old, new))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("train: 10", "train: -1", "mine.yaml:19: split.train: input should be greater than or equal to 0 (got -1)"),
        ("epochs: 1", "epochs: many", "mine.yaml:21: recipe.epochs: input should be a valid integer"),
        ("answer_is: text", "answer_is: txt", "mine.yaml:14: benchmark.tasks.topic.answer_is: input should be 'text'"),
        ("seeds: [17]", "seeds: []", "mine.yaml:18: seeds: tuple should have at least 1 item"),
        ("seeds: [17]", "seeds: 17", "mine.yaml:18: seeds: a list is needed"),
        ("  - demo-wide", "  - 5", "mine.yaml:16: models[0]: a mapping is needed"),
        ("name: tiny, ", "", "mine.yaml:17: models[1].name is missing"),
        ('"no"', "no", "benchmark.languages[1]: input should be a valid string (got False); YAML reads no"),
        ("[en,", '["e n",', "mine.yaml:5: benchmark.languages[0]: a name is letters, digits"),
        ("[en,", '["no", en,', "mine.yaml:2: benchmark: languages named twice: no"),
        ("    topic:", "    my topic:", "mine.yaml:7: benchmark.tasks.my topic: a name is letters, digits"),
        ("kind: files", "kind: demo", "mine.yaml:2: benchmark: path, languages and tasks belong to a files benchmark"),
        ("  path: data/topics\n", "", "mine.yaml:2: benchmark: a files benchmark needs path"),
        ("      choices:", "      options: [a, b]\n      choices:", "topic: give either options (columns) or choices"),
        ("{language}/train", "../{language}", "mine.yaml:7: benchmark.tasks.topic: '../{language}.tsv' leaves the"),
        ("{language}/train", "/{language}", "mine.yaml:7: benchmark.tasks.topic: '/{language}.tsv' leaves the"),
        ("{language}/train", "{task}/train", "the only placeholder in a file's name is {language}"),
        ("{language}/train", "all/train", "tasks.topic: 'all/train.tsv' names no language"),
        ("train.tsv", "train.xlsx", "'{language}/train.xlsx' is no file of items"),
        ("seeds:", "quantization: 4\nseeds:", "mine.yaml:18: quantization: input should be '8bit' or '4bit' (got 4)"),
        ("seeds:", "placement: all\nseeds:", "mine.yaml:18: placement: input should be 'one' or 'spread' (got 'all')"),
        ("train: 10", "manifest: mine, train: 10", "mine.yaml:19: split: a manifest names the items"),
        (
            "      answer:", "      words: {text: {a: {en: b}}}\n      answer:",
            "mine.yaml:2: benchmark: tasks.topic.words.text.a has no text for: no",
        ),
    ],
)  # fmt: skip
def test_a_bad_value_is_told_with_line_and_key(study, old: str, new: str, expected: str) -> None:
    assert expected in refusal(study(old, new))


def test_several_mistakes_are_told_at_once(study) -> None:
    told = refusal(study("seeds: [17]\nsplit: {train: 10", "seed: [17]\nsplit: {train: -1"))
    assert "no key 'seed'" in told
    assert "split.train" in told


def test_a_key_given_twice_is_refused_where_it_stands_again(study) -> None:
    told = refusal(study("  epochs: 1", "  epochs: 1\n  epochs: 2"))
    assert "mine.yaml:22: epochs already stands in line 21" in told


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"models: [", "is not YAML"),
        (b"- demo", "a study is a mapping"),
        (b"", "a study is a mapping"),
        (b"name: \xff", "is not UTF-8"),
        (b"5: 3\nmodels: [demo-wide]", "keys should be strings"),
    ],
)
def test_what_is_no_study_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    assert expected in refusal(str(path))


@pytest.fixture
def extending(study, tmp_path: Path):
    """Write a file that extends GOOD, and return its path."""
    study()

    def write(text: str, name: str = "other.yaml") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def test_a_study_that_extends_another_says_only_what_differs(study, extending) -> None:
    parent = load_study(study())
    loaded = load_study(extending("extends: mine.yaml\nrecipe: {lora: {alpha: 3}}\nseeds: [1, 2]\n"))
    lora = dataclasses.replace(parent.recipe.lora, alpha=3.0)
    recipe = dataclasses.replace(parent.recipe, lora=lora)
    assert loaded == dataclasses.replace(parent, name="other", seeds=(1, 2), recipe=recipe)
    assert load_study(extending("extends: other.yaml\nseeds: [3]\n", "third.yaml")).recipe == recipe
    assert load_study(extending("extends: demo\n")).models == load_study("demo").models


def test_a_benchmark_of_another_kind_replaces_the_former(extending) -> None:
    assert load_study(extending("extends: mine.yaml\nbenchmark: demo\n")).benchmark.tasks == {}
    changed = load_study(extending("extends: mine.yaml\nbenchmark: {path: elsewhere}\n")).benchmark
    assert (changed.path, list(changed.tasks)) == ("elsewhere", ["topic"])


def test_what_a_study_extends_is_recorded_in_full(extending, tmp_path: Path) -> None:
    loaded = load_study(extending("extends: mine.yaml\nseeds: [5]\n"))
    text = study_yaml(loaded)
    assert "extends" not in text
    (tmp_path / "alone.yaml").write_text(text)
    assert load_study(str(tmp_path / "alone.yaml")) == loaded


VARIED = """\
extends: mine.yaml
variants:
  plain:
  wide:
    seeds: [5]
    recipe:
      lora: {rank: 64}
"""


def test_variants_are_studies_of_their_own(study, extending) -> None:
    parent = load_study(study())
    plain, wide = load_studies(extending(VARIED))
    assert plain == dataclasses.replace(parent, name="other-plain")
    assert (wide.name, wide.seeds, wide.recipe.lora.rank) == ("other-wide", (5,), 64)
    assert wide.recipe.epochs == parent.recipe.epochs
    path = extending(VARIED)
    assert load_study(f"{path}:wide") == wide
    assert [one.seeds for one in load_studies(path, seeds=(9,))] == [(9,), (9,)]
    assert [one.name for one in load_studies(study())] == ["mine"]


WORDS = '      words: {text: {a: {en: b, "no": c}, d: {en: e, "no": f}}}\n'


def test_an_inherited_key_can_be_taken_away(study, extending) -> None:
    study("      answer:", f"{WORDS}      prompt: letter\n      answer:")

    def loaded(text: str):
        return load_study(extending(f"extends: mine.yaml\n{text}"))

    def topic(text: str):
        return loaded(f"benchmark: {{tasks: {{topic: {{{text}}}}}}}\n").benchmark.tasks["topic"]

    assert list(topic("train: '{language}/more.tsv'").words["text"]) == ["a", "d"]
    assert topic("words: {}").words == {}
    assert topic("words: null").words == {}
    assert topic("words: {text: null}").words == {}
    assert topic("words: {text: {a: null}}").words == {"text": {"d": {"en": "e", "no": "f"}}}
    assert topic("prompt: null").prompt == "text"
    assert topic("words: {}").prompt == "letter"
    parent = load_study(study())
    assert loaded("recipe: {lora: null}\n").recipe == dataclasses.replace(parent.recipe, lora=LoraSpec())
    assert loaded("recipe: {lora: {rank: null}}\n").recipe.lora.rank == LoraSpec().rank
    assert loaded("recipe: {}\n").recipe == Recipe()
    assert loaded("recipe: null\nsplit: {test: null}\n").split == dataclasses.replace(parent.split, test=0)
    assert loaded("seeds: null\n").seeds == (17, 42, 101)
    assert loaded("quantization: null\n") == dataclasses.replace(parent, name="other")  # null is a value of it


def test_what_was_taken_away_can_be_given_again(study, extending) -> None:
    study()
    extending("extends: mine.yaml\nrecipe: {lora: null}\n")
    assert load_study(extending("extends: other.yaml\nrecipe: {lora: {rank: 3}}\n", "third.yaml")).recipe.lora.rank == 3


def test_a_variant_takes_away_what_its_own_file_says(study, extending) -> None:
    study()
    text = "extends: mine.yaml\nsources: [topic/en]\nvariants:\n  one: {}\n  all: {sources: null, seeds: [5]}\n"
    one, every = load_studies(extending(text))
    assert (one.sources, one.seeds) == (("topic/en",), (17,))
    assert (every.sources, every.seeds) == ((), (5,))


NONE_HERE = "; null takes away what is inherited, and nothing is here: give a value, or leave the key out"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models: null\n", "other.yaml:2: models is missing: a study must have it, so null cannot take it away"),
        (
            "benchmark: {tasks: {topic: {question: null}}}\n",
            "other.yaml:2: benchmark.tasks.topic.question is missing: a study must have it, so null cannot take it",
        ),
        ("benchmark: {path: null}\n", "other.yaml:2: benchmark: a files benchmark needs path"),
        ("benchmark: {tasks: {topic: null}}\n", "other.yaml:2: benchmark: a files benchmark needs path (its folder), "),
        ("benchmark: {tasks: {topic: {choices: {}}}}\n", "benchmark.tasks.topic.choices: a list is needed"),
        (
            "benchmark: {tasks: {topic: {columns_from: null}}}\n",
            "other.yaml:2: benchmark.tasks.topic.columns_from: a mapping is needed, such as {a: b} (got None)"
            + NONE_HERE,
        ),
        (
            "benchmark: {tasks: {tropic: null}}\n",
            "benchmark.tasks.tropic: a mapping is needed, such as {a: b} (got None)",
        ),
        (
            "recipe:\n  batch_size: null\n",
            "other.yaml:3: recipe.batch_size: input should be a valid integer (got None)",
        ),
        ("recipe: {epochz: null}\n", "other.yaml:2 in recipe: there is no key 'epochz'; nearest: epochs"),
        ("name: null\n", "other.yaml:2: name: input should be a valid string (got None)"),
        (
            "variants: {one: {recipe: {clip: null}}}\n",
            "other.yaml:2: variants.one.recipe.clip: input should be a valid number (got None)" + NONE_HERE,
        ),
        ("variants: {one: {models: null}}\n", "other.yaml:2: variants.one.models is missing: a study must have it"),
    ],
)
def test_what_cannot_be_taken_away_is_told_with_file_and_key(study, extending, text: str, expected: str) -> None:
    study()
    with pytest.raises(Refused) as caught:
        load_studies(extending(f"extends: mine.yaml\n{text}"))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("extends: mine.yaml\nrecipe: {epochz: 1}\n", "other.yaml:2 in recipe: there is no key 'epochz'"),
        ("extends: mine.yaml\nrecipe: {epochs: 0}\n", "other.yaml:2: recipe.epochs: input should be greater than 0"),
        ("extend: mine.yaml\n", "other.yaml:1: there is no key 'extend'; nearest: extends"),
        ("extends: demmo\n", "there is no study 'demmo'; nearest: demo"),
        ("extends: [demo, mine.yaml]\n", "extends is the name or path of one study (got ['demo', 'mine.yaml'])"),
        ("extends: other.yaml\n", "extends leads back to other.yaml"),
        (VARIED.replace("rank", "rnk"), "other.yaml:7 in variants.wide.recipe.lora: there is no key 'rnk'"),
        (VARIED.replace("[5]", "5"), "other.yaml:5: variants.wide.seeds: a list is needed"),
        (VARIED.replace("  wide:", "  name: {name: x}\n  wide:"), "other.yaml:2: variants.name: a variant is named by"),
        (VARIED.replace("  plain:", "  plain: 5"), "other.yaml:2: variants: give names and what each has otherwise"),
        (VARIED.replace("wide", "w i"), "a name is letters, digits"),
        (VARIED.replace("variants", "variant"), "other.yaml:2: there is no key 'variant'; nearest: variants"),
    ],
)  # fmt: skip
def test_mistakes_in_what_extends_and_varies_are_told(extending, text: str, expected: str) -> None:
    with pytest.raises(Refused) as caught:
        load_studies(extending(text))
    assert expected in str(caught.value)


def test_a_mistake_in_what_is_extended_is_told_where_it_stands(study, extending) -> None:
    path = extending("extends: mine.yaml\n")
    study("seeds:", "seed:")
    assert "mine.yaml:18: there is no key 'seed'" in refusal(path)


def test_a_comparison_is_no_single_study(extending) -> None:
    path = extending(VARIED)
    assert f"name one of its variants: {path}:plain, {path}:wide" in refusal(path)
    assert "there is no variant 'wid'; nearest: wide" in refusal(f"{path}:wid")
    assert "has no variants, so there is no 'wide'" in refusal("demo:wide")


def test_the_papers_recipes_are_as_published() -> None:
    paper, first = load_study("paper"), load_study("paper-v1")
    assert [model.name for model in paper.models] == list(PAPER)
    assert (paper.recipe.lora.rank, paper.recipe.lora.alpha, paper.recipe.lora.dropout) == (32, 64, 0)
    assert (paper.recipe.precision, first.recipe.precision) == ("bf16", "fp16")
    assert (paper.recipe.loss, first.recipe.loss) == ("as_prompted", "whole_text")
    assert (paper.seeds, len(first.seeds)) == ((17, 42, 101), 1)
    assert paper.chat_template
    assert first.chat_template
    tasks = ("arc_challenge", "global_mmlu", "hellaswag", "truthfulqa")
    assert [paper.recipe.length(task) for task in tasks] == [256, 512, 512, 128]
    assert [paper.split.count("train", task) for task in tasks] == [300, 215, 300, 300]
    assert {paper.split.count("test", task) for task in tasks} == {400}


def test_the_papers_comparisons_differ_in_one_thing() -> None:
    paper = load_study("paper")
    ranks = load_studies("paper-rank")
    assert [one.recipe.lora.rank for one in ranks] == [32, 64, 128]
    assert {one.recipe.lora.alpha / one.recipe.lora.rank for one in ranks} == {2.0}
    lora, full = load_studies("paper-full")
    assert (lora.recipe, ranks[0].recipe) == (paper.recipe, paper.recipe)
    assert full.recipe == dataclasses.replace(paper.recipe, method="full")
    assert dataclasses.replace(full, name=lora.name, protocol=lora.protocol, recipe=lora.recipe) == lora


def test_the_two_recipes_of_the_paper_make_other_adapters() -> None:
    def decides(study: str, task: str) -> dict[str, object]:
        return load_study(study).recipe.deciding(task, masked=task != "truthfulqa")

    for task in ("arc_challenge", "global_mmlu", "hellaswag", "truthfulqa"):
        made = {
            fingerprint("finetune", recipe=decides(study, task)) for study in ("paper", "paper-v1", "paper-full:full")
        }
        assert len(made) == 3


def test_an_unknown_study_names_the_nearest() -> None:
    assert "there is no study 'sib20'; nearest: sib200" in refusal("sib20")
    assert "there is no study file 'nowhere.yaml'" in refusal("nowhere.yaml")


def test_overrides_take_the_place_of_the_file(study, tmp_path: Path) -> None:
    loaded = load_study(study(), seeds=(1, 2), models=["demo-deep"], name=None, data=str(tmp_path))
    assert (loaded.seeds, loaded.name, loaded.benchmark.path) == ((1, 2), "mine", str(tmp_path))
    assert loaded.models[0].name == "demo-deep"


def test_a_folder_given_beside_the_file_starts_where_the_caller_is(study, tmp_path: Path, monkeypatch) -> None:
    path = study()
    monkeypatch.chdir(tmp_path)
    assert load_study(path, data="here").benchmark.path == str(tmp_path / "here")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"seeds": []}, "study mine, as given: seeds: tuple should have at least 1 item"),
        ({"sead": [1]}, "study mine, as given: there is no key 'sead'; nearest: seeds"),
        ({"tasks": ("a b",)}, "study mine, as given: tasks[0]: a name is letters"),
    ],
)
def test_overrides_are_checked_like_the_file(study, overrides: dict[str, object], expected: str) -> None:
    assert expected in refusal(study(), **overrides)


def test_the_built_in_grid_reads_no_folder() -> None:
    assert "reads no folder" in refusal("demo", data="somewhere")
