"""The published study in miniature: tiny models of its three families, its four data sets in three languages.

Its own study files run end to end under both recipes; only what no machine of tests could hold is made smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from analysis.analysis import analyze
from analysis.reading.frame import load
from registry.benchmarks.demo.tokenizer import train_tokenizer
from registry.cells import Cell
from registry.config.files import load_study
from registry.lora.encoding import encode_examples
from registry.models.loading import load_tokenizer
from registry.planning.experiment import Experiment, prepare
from registry.runner.session import prospect, run_study
from registry.tracking.names import Kind, Tag
from registry.tracking.runs import finished_by_fingerprint
from registry.tracking.store import open_store
from tests.benchmarks.hub_fixture import SENTENCES, write_hub

LANGUAGES = ("ar", "en", "zh")
RECIPES = ("paper", "paper-v1")

#: As Llama-3's, Qwen2.5's and Gemma's do, the template closes the user's turn and opens the model's.
CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

STUDY = """\
extends: {recipe}
name: {recipe}-miniature
benchmark: {{kind: hub, path: {hub}}}
languages: [{languages}]
models:
  - {{name: llama, path: {models}/llama, family: Llama-3, size_b: 1}}
  - {{name: qwen, path: {models}/qwen, family: Qwen2.5, size_b: 3}}
  - {{name: gemma, path: {models}/gemma, family: Gemma-3, size_b: 7}}
seeds: [17, 42]
split: {{train: 10, test: 8}}
recipe:
  precision: fp32
  epochs: 1
  learning_rate: 5.0e-2
  lora: {{rank: 4, alpha: 8}}
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    return write_hub(tmp_path_factory.mktemp("hub"), LANGUAGES, 10)


@pytest.fixture(scope="module")
def chat_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE learned from the sentences of the data sets."""
    texts = [text.format(n=n, m=n, k=n) for part in SENTENCES.values() for text in part for n in range(9)]
    tokenizer = train_tokenizer(texts, vocabulary=600)
    tokenizer.chat_template = CHAT
    return tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory, chat_tokenizer) -> Path:
    """A folder with a tiny random model of each family."""
    folder = tmp_path_factory.mktemp("models")
    shape = {
        "vocab_size": len(chat_tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.15,
    }
    families: dict[str, PreTrainedConfig] = {
        "llama": LlamaConfig(**shape),
        "qwen": Qwen2Config(**shape),
        "gemma": Gemma3TextConfig(**shape, head_dim=8, sliding_window=64, query_pre_attn_scalar=8),
    }
    for name, config in families.items():
        torch.manual_seed(7)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        chat_tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def study_of(tmp_path_factory, hub, models) -> Callable[..., str]:
    """Write the miniature of a recipe, with lines added, and return its path."""

    def write(recipe: str, *lines: str) -> str:
        path = tmp_path_factory.mktemp("study") / f"{recipe}.yaml"
        text = STUDY.format(recipe=recipe, hub=hub, models=models, languages=", ".join(LANGUAGES))
        path.write_text("\n".join([text, *lines]), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture(scope="module")
def experiments(study_of) -> dict[str, Experiment]:
    return {recipe: prepare(load_study(study_of(recipe))) for recipe in RECIPES}


def test_the_two_recipes_share_no_fine_tune_and_no_evaluation_of_an_adapter(experiments) -> None:
    one, other = (
        {name for job in experiment.jobs() if job.source for name in (job.finetune, job.evaluate)}
        for experiment in experiments.values()
    )
    assert len(one) == len(other) == 2 * 3 * 12 * 2
    assert not one & other


#: A row of each data set as an adapter is trained on it: what the paper's appendix says, written out by hand.
TEXTS = {
    ("arc_challenge/en", "shells_27"): (
        "Question: Ola finds 27 shells, then 8 more. How many has she? \n"
        "A) she has 36\nB) she has 37\nC) she has 35\nD) she has 38\nE) she has 39\nAnswer:",
        " C",
    ),
    ("hellaswag/en", "34"): (
        "Counting stones: A child lays 34 stones in a row. Then the child\n"
        "A) takes 9 of them away\nB) takes 10 of them away\nC) takes 8 of them away\nD) takes 11 of them away\nAnswer:",
        " C",
    ),
    ("global_mmlu/zh", "sums/test/27"): ("27减去8还剩多少？\nA. 20\nB. 21\nC. 22\nD. 19\nAnswer:", " D"),
    ("truthfulqa/ar", "9"): ("", "Question: هل العدد 29 أكبر من 3؟\nAnswer: نعم، 29 أكبر"),
}


@pytest.mark.parametrize(("cell", "id"), TEXTS)
def test_training_texts_are_those_of_the_appendix(cell, id, experiments) -> None:
    prompt, target = TEXTS[cell, id]
    texts = {}
    for recipe, experiment in experiments.items():
        ids = [item.id for item in experiment.items.train(Cell.parse(cell))]
        texts[recipe] = experiment.training_texts(Cell.parse(cell))[ids.index(id)]
    assert (texts["paper"].prompt, texts["paper"].target) == (prompt, target)
    assert (texts["paper-v1"].prompt, texts["paper-v1"].target) == ("", prompt + target)


def test_only_the_answer_carries_the_loss_and_in_the_first_version_every_token(experiments) -> None:
    tokenizer = load_tokenizer(experiments["paper"].bases["llama"])
    for recipe, experiment in experiments.items():
        for cell in experiment.grid:
            pairs = [(text.prompt, text.target) for text in experiment.training_texts(cell)]
            for example in encode_examples(tokenizer, pairs, max_length=512):
                supervised = tokenizer.decode(example.tokens[example.supervised_from :])
                if recipe == "paper" and cell.task != "truthfulqa":
                    assert supervised in {" A", " B", " C", " D", " E"}
                else:
                    assert supervised == tokenizer.decode(example.tokens[1:])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_study_of_the_paper_runs_from_its_data_to_its_report(recipe, study_of, uri, tmp_path) -> None:
    study = load_study(study_of(recipe))
    assert run_study(prospect(study, workers=1)) == []
    client: MlflowClient = open_store(uri)
    experiment = client.get_experiment_by_name(study.name)
    assert experiment is not None
    counts = {
        kind: len(finished_by_fingerprint(client, experiment.experiment_id, kind))
        for kind in (Kind.BASELINE, Kind.FINETUNE, Kind.EVALUATE)
    }
    assert counts == {Kind.BASELINE: 3, Kind.FINETUNE: 72, Kind.EVALUATE: 72}
    runs = finished_by_fingerprint(client, experiment.experiment_id, Kind.EVALUATE).values()
    assert {run.data.tags[Tag.MODEL_FAMILY] for run in runs} == {"Llama-3", "Qwen2.5", "Gemma-3"}
    result = analyze(load(client, study.name), tmp_path / "report")
    report = result.report.read_text(encoding="utf-8")
    assert "As published" in report
    assert {"uplift.csv", "variance.csv", "consistency.csv"} <= {path.name for path in result.files}
