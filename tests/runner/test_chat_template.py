"""A study may score its questions in the base's chat template; everything that is recorded says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from registry.cells import Cell
from registry.config.study import Study
from registry.errors import Refused
from registry.lora.encoding import encode_queries
from registry.lora.score import ScoringSet, loglikelihoods
from registry.planning.experiment import prepare
from registry.runner.single import evaluate_one, finetune_one, narrowed
from registry.serving import AdapterModel

CHAT = (
    "{% for turn in messages %}{{ turn['role'] }}: {{ turn['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)


@pytest.fixture(scope="module")
def chat_study(small_study, base, make_llama, tokenizer, tmp_path_factory) -> Callable[[bool], Study]:
    """The small study on a base with a chat template, used or not."""
    folder = tmp_path_factory.mktemp("chat-base")
    make_llama(0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT, encoding="utf-8")

    def make(chat: bool) -> Study:
        used = f"name: small\nchat_template: {str(chat).lower()}"
        return small_study((str(base), str(folder)), ("name: small", used))

    return make


def test_a_base_without_a_chat_template_is_refused_before_any_work(small_study) -> None:
    study = small_study(("name: small", "name: small\nchat_template: true"))
    with pytest.raises(Refused, match=r"the base 'tiny' has no chat template.*chat_template: false"):
        prepare(study)


def test_it_is_another_evaluation_of_the_same_adapter(chat_study) -> None:
    plain, chat = (prepare(chat_study(used)) for used in (False, True))
    for one, other in zip(plain.jobs(), chat.jobs(), strict=True):
        assert one.finetune == other.finetune
        assert one.evaluate != other.evaluate


def test_a_baseline_is_scored_in_the_template(uri, chat_study, make_llama, tokenizer, tmp_path: Path) -> None:
    study = narrowed(chat_study(True))
    result = evaluate_one(study, base=True)
    assert result.run.data.params["chat_template"] == "True"
    experiment = prepare(study)
    items = experiment.items.test(Cell("kind", "en"))
    queries = [experiment.items.prompts["kind"].query(item) for item in items]
    tokenizer = type(tokenizer).from_pretrained(study.models[0].path)
    encoded = encode_queries(tokenizer, [(query.context, query.continuations) for query in queries], chat=True)
    assert tokenizer.decode(encoded[0].context) == f"user: {queries[0].context}\nassistant:"
    assert tokenizer.decode(encoded[0].options[0]) == f"\n{items[0].options[0]}"
    expected = loglikelihoods(make_llama(), ScoringSet(encoded, tokens_per_batch=4096, max_length=256))
    recorded = pd.read_parquet(result.download(str(tmp_path)) / "outcomes.parquet")
    found = recorded[(recorded.task == "kind") & (recorded.language == "en")].loglikelihood
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=0, atol=1e-4)


def test_an_adapter_tells_how_it_is_to_be_asked(uri, chat_study, tmp_path: Path) -> None:
    folder = finetune_one(narrowed(chat_study(True))).download(str(tmp_path))
    assert yaml.safe_load((folder / "MLmodel").read_text())["metadata"]["chat_template"] is True


def test_a_served_adapter_asks_in_the_template(chat_study, make_llama, tokenizer) -> None:
    experiment = prepare(chat_study(True))
    base, prompt = experiment.bases["tiny"], experiment.items.prompts["kind"]
    tokenizer = type(tokenizer).from_pretrained(base.location)
    asked = pd.DataFrame({"question": ["Is it so?"], "options": [["yes", "no, never"]]})
    plain, chat = (
        AdapterModel(make_llama(), tokenizer, prompt, base, chat=used).predict(asked).probabilities[0]
        for used in (False, True)
    )
    assert abs(plain[0] - chat[0]) > 1e-3
    text = "Question: Is it so?\nAnswer:"
    encoded = encode_queries(tokenizer, [(text, (" yes", " no, never"))], chat=True)
    (values,) = loglikelihoods(make_llama(), ScoringSet(encoded, tokens_per_batch=64, max_length=256))
    weights = np.exp(values / np.array([3, 9]))
    np.testing.assert_allclose(chat, weights / weights.sum(), rtol=1e-4)
