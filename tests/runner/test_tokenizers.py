"""What a base's tokenizer cannot tell apart, or puts around texts, shows in what is recorded, or is refused."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

import pandas as pd
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from analysis.analysis import analyze
from analysis.published.compute import PublishedOptions
from analysis.reading.frame import load
from analysis.reading.runs import read_runs
from analysis.reading.tables import baselines
from registry.cards.card import _results
from registry.cards.results import results_of
from registry.cells import Cell
from registry.config.files import load_study
from registry.config.study import Study
from registry.errors import Refused
from registry.models.loading import load_tokenizer
from registry.planning.experiment import prepare
from registry.runner.engine_inputs import examples_of
from registry.runner.single import evaluate_one, finetune_one, narrowed
from registry.tracking.names import Kind, Tag
from tests.lora.tokenizer_kinds import SIZE, UNKNOWN, tokenizer_of

WORDS = {"en": ["cat", "dog", "mat", "park", "answer", "right"], "am": " ".join(UNKNOWN["am"]).split()[:6]}
EN, AM = Cell("topic", "en"), Cell("topic", "am")

STUDY = """\
name: scripts
benchmark:
  kind: files
  path: {data}
  languages: [en, am]
  tasks:
    topic:
      train: "{{language}}.tsv"
      test: "{{language}}.tsv"
      id: id
      question: "{{text}}"
      options: [one, two, three]
      answer: right
      answer_is: index
models: [{{name: tiny, path: {base}}}]
seeds: [17]
sources: [{source}]
split: {{train: 8, test: 8}}
recipe: {{epochs: 1, batch_size: 4, validation: 0, lora: {{rank: 2, alpha: 4}}}}
"""


@pytest.fixture(scope="module")
def study_of(tmp_path_factory) -> Callable[..., Study]:
    """A study of English and of a script that most of the tokenizers do not know, on a base with a tokenizer."""
    data = tmp_path_factory.mktemp("data")
    for language, words in WORDS.items():
        rows = ["id\ttext\tone\ttwo\tthree\tright"]
        for number in range(16):
            options = [words[(number + step) % len(words)] for step in (0, 1, 3)]
            rows.append("\t".join([str(number), f"{words[number % 5]} {number}", *options, str(number % 3)]))
        (data / f"{language}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")

    def make(kind: str, surroundings: str = "begins", *, source: Cell = EN) -> Study:
        folder = tmp_path_factory.mktemp("base")
        config = LlamaConfig(
            vocab_size=SIZE,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=256,
            initializer_range=0.2,
        )
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer_of(kind, surroundings).save_pretrained(folder)
        file = folder / "scripts.yaml"
        file.write_text(STUDY.format(data=data, base=folder, source=source), encoding="utf-8")
        return load_study(str(file))

    return make


@pytest.mark.parametrize("kind", ["unigram", pytest.param("dropping", marks=pytest.mark.slow)])
def test_options_that_are_the_same_tokens_are_said_recorded_and_reported(uri, study_of, kind, caplog, tmp_path) -> None:
    study = narrowed(study_of(kind))
    finetune_one(study)
    with caplog.at_level(logging.WARNING):
        result = evaluate_one(study)
    told = [record.getMessage() for record in caplog.records if "same tokens" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("tiny: options of task topic are the same tokens")
    assert "am (100% of the questions)" in told[0]
    assert "en" not in told[0].split(" in: ")[1].split(";")[0]
    baseline = result.client.get_run(result.run.data.tags[Tag.BASELINE_RUN])
    assert {run.data.tags[Tag.INDISTINCT] for run in (baseline, result.run)} == {"topic/am=1"}
    assert baseline.data.metrics["indistinct/topic/am"] == 1
    assert "indistinct/topic/en" not in baseline.data.metrics

    frame = load(result.client, study.name)
    shares = frame.baselines.set_index(["task", "language"])["indistinct"]
    assert shares.to_dict() == {("topic", "am"): 1.0, ("topic", "en"): 0.0}
    page = analyze(frame, tmp_path, PublishedOptions(mixed_models=False), corrected=False).report.read_text(
        encoding="utf-8"
    )
    assert "1 of 2 baselines have options that are the same tokens" in page
    found = results_of(result.client, result.run.data.tags[Tag.MODEL_VERSION])
    assert found is not None
    assert found.indistinct == {AM: 1.0}
    assert "makes the same tokens of different options in `topic/am` (100%)" in _results(found)

    for tag in (Tag.INDISTINCT, Tag.CHAT_HEADER):  # as an older version left it, which counted nothing
        result.client.delete_tag(baseline.info.run_id, tag)
    assert load(result.client, study.name).baselines["indistinct"].isna().all()


def test_a_tokenizer_that_knows_every_byte_has_none(uri, study_of, caplog) -> None:
    study = narrowed(study_of("bytes"))
    result = evaluate_one(study, base=True)
    assert Tag.INDISTINCT not in result.run.data.tags
    assert not [metric for metric in result.run.data.metrics if metric.startswith("indistinct/")]
    assert "same tokens" not in caplog.text
    assert not load_baselines(result)["indistinct"].any()


def load_baselines(result) -> pd.DataFrame:
    runs = read_runs(result.client, result.run.info.experiment_id)
    return baselines(runs.of(Kind.BASELINE), {})[0]


def test_answers_in_a_script_that_is_not_known_are_not_trained_on(uri, study_of) -> None:
    study = narrowed(study_of("unigram", source=AM))
    with pytest.raises(RuntimeError, match=r"tiny cannot be trained on topic/am: .*same tokens of all answers"):
        finetune_one(study)


def test_answers_that_are_partly_the_same_tokens_are_said(study_of, caplog) -> None:
    study = study_of("word pieces")
    experiment = prepare(study)
    base = experiment.bases["tiny"]
    tokenizer = load_tokenizer(base)
    with caplog.at_level(logging.WARNING):
        examples_of(experiment, base, tokenizer, EN)
        assert "same tokens" not in caplog.text
    with pytest.raises(Refused, match="leave the source out"):
        examples_of(experiment, base, tokenizer, AM)


def test_a_tokenizer_that_ends_texts_gives_the_scores_of_one_that_does_not(new_store, study_of, monkeypatch) -> None:
    scores, jobs = [], []
    for which in ("begins and ends", "begins"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store())
        study = narrowed(study_of("bytes", which))
        finetune_one(study)
        result = evaluate_one(study)
        scores.append({name: value for name, value in result.run.data.metrics.items() if "/topic/" in name})
        experiment = prepare(study)
        assert experiment.facts_of("tiny").ends_texts is (which == "begins and ends")
        jobs.append((experiment.baseline("tiny").evaluate, result.job.finetune))
    assert scores[0] == scores[1]
    assert not set(jobs[0]) & set(jobs[1])


def test_results_from_before_end_tokens_came_off_are_not_found_again(study_of) -> None:
    """They are of other tokens; those of every other base are."""
    for surroundings, same in (("ends", False), ("begins", True)):
        experiment = prepare(study_of("bytes", surroundings))
        before = dataclasses.replace(experiment, facts={})
        pairs = list(zip(experiment.jobs(), before.jobs(), strict=True))
        assert all((one == other) is same for one, other in pairs)
