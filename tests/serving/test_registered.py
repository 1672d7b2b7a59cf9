"""A registered adapter lies in the registry as PEFT, MLflow and a reader of YAML each expect it, and answers alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from peft import PeftModel, get_peft_model_state_dict

from registry.cells import Cell
from registry.errors import Refused
from registry.evaluation.outcomes import choose
from registry.files.outputs import MANIFEST
from registry.lora.adapter import fresh_adapter, read_adapter
from registry.lora.bank import Bank, merged, put_on
from registry.lora.encoding import encode_examples, encode_queries
from registry.lora.score import ScoringSet, loglikelihoods
from registry.lora.train import Assignment, train_adapter
from registry.models.loading import load_base, load_tokenizer
from registry.planning.experiment import prepare
from registry.runner.single import AdapterResult, finetune_one, narrowed
from registry.tracking.names import Tag

SOURCE = Cell("pair", "tr")
TOKENS = torch.tensor([[5, 60, 7, 81, 9, 33], [2, 2, 40, 41, 42, 43]])


@pytest.fixture(scope="module")
def tuned(new_store, small_study):
    """One adapter, registered by `finetune_one` in a store of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", new_store())
        yield finetune_one(narrowed(small_study(), task="pair", language="tr", seed=42))
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


@pytest.fixture(scope="module")
def folder(tuned: AdapterResult, tmp_path_factory) -> Path:
    return tuned.download(str(tmp_path_factory.mktemp("adapter")))


@pytest.fixture(scope="module")
def experiment(small_study):
    return prepare(small_study())


@pytest.fixture
def model(experiment):
    return load_base(experiment.bases["tiny"], dtype=torch.float32, device="cpu")


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(TOKENS).logits


def stored(adapter: AdapterResult) -> Path:
    return Path(adapter.client.tracking_uri.removeprefix("sqlite:///")).parent / "mlartifacts"


def test_the_folder_holds_exactly_what_peft_and_mlflow_need(tuned: AdapterResult, folder: Path) -> None:
    needed = ["MLmodel", "README.md", "adapter_config.json", "adapter_model.safetensors", "conda.yaml"]
    (weights,) = stored(tuned).rglob("adapter_model.safetensors")
    assert sorted(path.name for path in weights.parent.iterdir()) == needed
    # MLflow notes in every download where it came from, and the command which files it wrote.
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, *needed, "registered_model_meta"]


def test_nothing_recorded_is_pickled(tuned: AdapterResult) -> None:
    artifacts = stored(tuned)
    names = [path.name for path in artifacts.rglob("*") if path.is_file()]
    assert "adapter_model.safetensors" in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".bin", ".pt", ".pth", ".joblib"))]


def test_nothing_recorded_names_a_path_of_this_machine(folder: Path, base) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    for name in ("adapter_config.json", "MLmodel"):
        text = (folder / name).read_text()
        assert str(base) not in text
        assert str(base.parent) not in text


def test_the_version_carries_what_tells_it_from_others(tuned: AdapterResult, experiment) -> None:
    version = tuned.client.get_model_version("tiny--pair--tr", "1")
    expected = {
        Tag.STUDY: "small",
        Tag.PROTOCOL: "small",
        Tag.BASE_MODEL: "tiny",
        Tag.BASE_REVISION: experiment.bases["tiny"].revision,
        Tag.MODEL_FAMILY: "llama",
        Tag.SOURCE_TASK: "pair",
        Tag.SOURCE_LANGUAGE: "tr",
        Tag.SEED: "42",
        Tag.FINGERPRINT: tuned.job.finetune,
    }
    assert {key: version.tags[key] for key in expected} == expected
    assert tuned.uri == "models:/tiny--pair--tr/1"
    assert version.run_id == tuned.run.info.run_id


def test_fine_tuning_again_gives_the_adapter_that_is_there(tuned: AdapterResult, small_study) -> None:
    again = finetune_one(narrowed(small_study(), task="pair", language="tr", seed=42))
    assert (again.reused, tuned.reused) == (True, False)
    assert again.uri == tuned.uri
    assert len(tuned.client.search_model_versions("name = 'tiny--pair--tr'")) == 1


def test_peft_loads_the_folder_with_the_logits_of_the_trained_adapter(
    folder: Path, experiment, model, make_llama
) -> None:
    recipe, items = experiment.study.recipe, experiment.items
    texts = [items.prompts["pair"].training(item) for item in items.train(SOURCE)]
    examples = encode_examples(
        load_tokenizer(experiment.bases["tiny"]),
        [(text.prompt, text.target) for text in texts],
        max_length=recipe.max_length,
    )
    fresh = fresh_adapter(model, recipe.lora, seed=42)
    trained = train_adapter(model, Assignment(fresh, examples, 42), recipe).adapter
    with put_on(model, Bank(model, [trained])):
        expected = logits(model)
    untouched = make_llama()
    assert not torch.allclose(logits(untouched), expected, atol=0.1)
    loaded = PeftModel.from_pretrained(untouched, str(folder))
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-5, atol=1e-5)
    kept = get_peft_model_state_dict(loaded)
    for name, (a, b) in trained.weights.items():
        assert torch.equal(kept[f"base_model.model.{name}.lora_A.weight"], a)
        assert torch.equal(kept[f"base_model.model.{name}.lora_B.weight"], b)


@pytest.fixture(scope="module")
def served(tuned: AdapterResult, base):
    return mlflow.pyfunc.load_model(tuned.uri, model_config={"base_path": str(base)})


@pytest.mark.parametrize("cell", [Cell("kind", "en"), SOURCE], ids=str)
def test_the_served_adapter_chooses_as_the_scorer_does(served, folder, experiment, model, cell: Cell) -> None:
    items = experiment.items.test(cell)
    queries = [experiment.items.prompts[cell.task].query(item) for item in items]
    encoded = encode_queries(
        load_tokenizer(experiment.bases["tiny"]), [(query.context, query.continuations) for query in queries]
    )
    with merged(model, read_adapter(folder)) as whole:
        scores = loglikelihoods(whole, ScoringSet(encoded, tokens_per_batch=4096, max_length=256))
    chosen = choose(scores, [query.lengths for query in queries])
    assert len(set(chosen.tolist())) > 1
    asked = pd.DataFrame(
        {"question": [item.question for item in items], "options": [list(item.options) for item in items]},
        index=range(100, 100 + len(items)),
    )
    answers = served.predict(asked)
    assert list(answers.index) == list(asked.index)
    assert list(answers.choice) == [item.options[index] for item, index in zip(items, chosen, strict=True)]
    for given, row, query in zip(answers.probabilities, scores, queries, strict=True):
        expected = np.exp(row / np.array(query.lengths))
        np.testing.assert_allclose(given, expected / expected.sum(), rtol=1e-4)
        assert sum(given) == pytest.approx(1.0)


def test_questions_may_have_different_numbers_of_options(served) -> None:
    answers = served.predict(pd.DataFrame({"question": ["a?", "b?"], "options": [["x", "y"], ["x", "y", "zz"]]}))
    assert [len(row) for row in answers.probabilities] == [2, 3]


@pytest.mark.parametrize(
    "data",
    [{"question": ["a?"]}, {"question": ["a?"], "options": ["x"]}, {"question": ["a?"], "options": [["x"]]}],
    ids=["no options", "no list", "one option"],
)
def test_a_question_without_options_to_choose_from_is_refused(served, data: dict[str, list[object]]) -> None:
    with pytest.raises(Exception, match=r"options?"):
        served.predict(pd.DataFrame(data))


def test_another_base_than_the_adapters_own_is_refused(tuned: AdapterResult, make_base, experiment) -> None:
    trained_on = experiment.bases["tiny"].revision
    with pytest.raises(Refused, match=rf"the base 'tiny' in .* is sha256:.*trained on {trained_on}"):
        mlflow.pyfunc.load_model(tuned.uri, model_config={"base_path": str(make_base(1))})


def test_a_base_is_found_where_it_was(tuned: AdapterResult, served) -> None:
    question = pd.DataFrame({"question": ["a?"], "options": [["x", "y"]]})
    found = mlflow.pyfunc.load_model(tuned.uri).predict(question)
    assert found.loglikelihoods.tolist() == served.predict(question).loglikelihoods.tolist()


def test_a_base_that_is_not_here_is_asked_for(tuned: AdapterResult, base, tmp_path: Path) -> None:
    # The tag is a hint that can be corrected; what it names is checked.
    with (
        path_of_the_base(tuned, tmp_path),
        pytest.raises(Refused, match=r"'tiny' .* was in .*no model is now.*base_path"),
    ):
        mlflow.pyfunc.load_model(tuned.uri)
    with path_of_the_base(tuned, tmp_path):
        mlflow.pyfunc.load_model(tuned.uri, model_config={"base_path": str(base)})


def test_another_base_where_the_base_was_is_refused(tuned: AdapterResult, make_base) -> None:
    with path_of_the_base(tuned, make_base(1)), pytest.raises(Refused, match=r"is sha256:.*trained on sha256:"):
        mlflow.pyfunc.load_model(tuned.uri)


@contextmanager
def path_of_the_base(tuned: AdapterResult, folder: Path) -> Iterator[None]:
    former = tuned.client.get_model_version("tiny--pair--tr", "1").tags[Tag.BASE_PATH]
    tuned.client.set_model_version_tag("tiny--pair--tr", "1", Tag.BASE_PATH, str(folder))
    try:
        yield
    finally:
        tuned.client.set_model_version_tag("tiny--pair--tr", "1", Tag.BASE_PATH, former)


def test_the_mlmodel_tells_what_serving_must_know(folder: Path, experiment) -> None:
    told = yaml.safe_load((folder / "MLmodel").read_text())
    assert told["metadata"]["base"]["revision"] == experiment.bases["tiny"].revision
    assert told["metadata"]["source"] == "pair/tr"
    assert told["flavors"]["python_function"]["loader_module"] == "registry.serving"
    inputs = json.loads(told["signature"]["inputs"])
    assert [column["name"] for column in inputs][:2] == ["question", "options"]
    assert told["metadata"]["precision"] == "fp32"
    assert told["metadata"]["quantization"] is None
