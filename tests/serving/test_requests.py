"""What a served adapter is asked, and by whom it is answered: several adapters on one base, and requests refused."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from peft import PeftModel
from transformers import AutoModelForCausalLM

from registry.config.study import Study
from registry.runner.single import AdapterResult, evaluate_one, finetune_one, narrowed
from registry.serving import _load_pyfunc

CHAT = (
    "{% for turn in messages %}{{ turn['role'] }}: {{ turn['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)
QUESTION = {"question": "kedi mi?", "options": ["cat", "dog", "horse"]}


@dataclass(frozen=True)
class Shop:
    """Three adapters in one store, two of them of one base, and the first of them loaded by MLflow."""

    pair: AdapterResult
    kind: AdapterResult
    other: AdapterResult
    served: mlflow.pyfunc.PyFuncModel
    base: Path

    def ask(self, *rows: dict[str, Any], **params: Any) -> pd.DataFrame:
        return self.served.predict(pd.DataFrame(list(rows)), params=params or None)

    def reason(self, *rows: dict[str, Any], **params: Any) -> str:
        """Return why a request is refused; MLflow's scoring server answers this error with HTTP 400."""
        with pytest.raises(MlflowException) as found:
            self.ask(*rows, **params)
        assert found.value.get_http_status_code() == 400
        return found.value.message


@pytest.fixture(scope="module")
def store(new_store) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        uri = new_store()
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        yield uri
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


@pytest.fixture(scope="module")
def shop(store, small_study, base, make_base) -> Shop:
    study, other = small_study(), small_study((str(base), str(make_base(1))), ("name: tiny", "name: other"))
    pair = finetune_one(narrowed(study, task="pair", language="tr", seed=42))
    kind = finetune_one(narrowed(study, task="kind", language="en", seed=17))
    strange = finetune_one(narrowed(other, task="kind", language="en", seed=17))
    served = mlflow.pyfunc.load_model(pair.uri, model_config={"base_path": str(base)})
    return Shop(pair, kind, strange, served, base)


def loaded_alone(adapter: AdapterResult, base: Path) -> mlflow.pyfunc.PyFuncModel:
    return mlflow.pyfunc.load_model(adapter.uri, model_config={"base_path": str(base)})


def test_rows_are_answered_by_the_adapters_they_name(shop: Shop) -> None:
    own, named = shop.ask(QUESTION), loaded_alone(shop.kind, shop.base).predict(pd.DataFrame([QUESTION]))
    assert np.abs(np.subtract(own.loglikelihoods[0], named.loglikelihoods[0])).max() > 1e-2
    both = shop.ask(
        QUESTION | {"adapter": None},
        QUESTION | {"adapter": "tiny--kind--en/1"},
        QUESTION | {"adapter": "models:/tiny--pair--tr/1"},
    )
    assert list(both.adapter) == ["tiny--pair--tr/1", "tiny--kind--en/1", "tiny--pair--tr/1"]
    for given, expected in zip(both.loglikelihoods, (own, named, own), strict=True):
        np.testing.assert_allclose(given, expected.loglikelihoods[0], rtol=0, atol=1e-5)


def test_a_parameter_names_the_adapter_of_all_rows_and_an_alias_follows_its_version(shop: Shop) -> None:
    client = MlflowClient()
    client.set_registered_model_alias("tiny--kind--en", "champion", "1")
    assert list(shop.ask(QUESTION, adapter="tiny--kind--en@champion").adapter) == ["tiny--kind--en/1"]
    client.delete_registered_model_alias("tiny--kind--en", "champion")
    assert "there is no 'tiny--kind--en@champion'" in shop.reason(QUESTION, adapter="tiny--kind--en@champion")


def test_requests_from_several_threads_do_not_mix_adapters(shop: Shop) -> None:
    rows = [QUESTION | {"adapter": f"tiny--{cell}/1"} for cell in ("pair--tr", "kind--en")]
    alone = [shop.ask(row).loglikelihoods[0] for row in rows]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: shop.ask(rows[number % 2]).loglikelihoods[0], range(24)))
    for number, values in enumerate(found):
        np.testing.assert_allclose(values, alone[number % 2], rtol=0, atol=1e-5)


def test_a_context_with_continuations_is_scored_as_it_stands(shop: Shop) -> None:
    asked = {"context": "Question: kedi mi?\nAnswer:", "continuations": [" cat", " dog", " horse"]}
    found, expected = shop.ask(asked), shop.ask(QUESTION)
    assert found.choice[0] == f" {expected.choice[0]}"
    assert found.loglikelihoods[0] == pytest.approx(expected.loglikelihoods[0], abs=1e-5)
    assert found.probabilities[0] == pytest.approx(expected.probabilities[0], abs=1e-6)


def test_a_prompt_is_continued_as_peft_and_transformers_would(shop: Shop, tokenizer, tmp_path) -> None:
    folder = shop.kind.download(str(tmp_path))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(shop.base), str(folder))
    ids = torch.tensor([tokenizer("Question: cat")["input_ids"]])
    expected = model.generate(input_ids=ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    (text,) = shop.ask({"prompt": "Question: cat"}, adapter="tiny--kind--en/1", max_new_tokens=12).text
    assert text == tokenizer.decode(expected, skip_special_tokens=True)
    assert text


def test_what_is_drawn_is_decided_by_the_seed(shop: Shop) -> None:
    texts = [shop.ask({"prompt": "cat"}, temperature=1.5, seed=seed).text[0] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_drawing_leaves_the_generator_of_the_process_as_it_was(shop: Shop) -> None:
    before = torch.random.get_rng_state()
    shop.ask({"prompt": "cat"}, temperature=1.0)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "a?", "options": []}, r"row 0: 0 option\(s\); a choice needs at least two"),
        ({"question": "a?", "options": ["x", "x"]}, "row 0: two options are equal"),
        ({"question": "a?", "options": ["x", " "]}, "row 0: an option is empty"),
        ({"question": "a?", "options": "xy"}, r"row 0: options: a list is needed, such as \[a, b\] \(got 'xy'\)"),
        (
            {"question": "a?", "options": ["x", None]},
            r"row 0: options\[1\]: input should be a valid string",
        ),
        ({"question": "a?", "options": ["x", {"y": 1}]}, r"row 0: options\[1\]: input should be a valid string"),
        ({"question": "a?", "options": ["x", "\ud800"]}, r"row 0: options\[1\]: .* \(a lone surrogate\)"),
        ({"question": "a?", "options": [str(n) for n in range(101)]}, "row 0: options: 101 options; at most 100"),
        ({"question": " ", "options": ["x", "y"]}, "row 0: question: the text is empty"),
        (
            {"question": "cat " * 300, "options": ["x", "y"]},
            r"row 0: \d+ tokens, the base model takes 256: shorten",
        ),
        (
            {"question": "cat " * 10**5, "options": ["x", "y"]},
            "row 0: a text of .*; the base model takes 256",
        ),
        ({"question": "a?"}, "question and options, or context and continuations, or prompt; not question"),
        ({"question": "a?", "options": ["x", "y"], "prompt": "b"}, "not options, prompt, question"),
        ({"adapter": "tiny--kind--en/1"}, "not none of them"),
        ({"prompt": ""}, "row 0: prompt: the text is empty"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value)[:40],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(shop: Shop, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(MlflowException, match=reason):
        shop.ask(row)
    assert shop.reason(row)


@pytest.mark.parametrize(
    ("adapter", "reason"),
    [
        ("tiny--kind--em/1", "there is no adapter 'tiny--kind--em'; there are: tiny--kind--en, tiny--pair--tr"),
        ("tiny--kind--en/7", "there is no 'tiny--kind--en/7'; 'tiny--kind--en' has the versions 1"),
        ("tiny--kind--en", "is no registered adapter; name it <model>/<version>, or <model>@<alias>"),
        ("models:/../../etc/passwd", "is no registered adapter"),
        ("tiny--kind--en/1' OR '1'='1", "is no registered adapter"),
        ("x' OR name LIKE '%/1", "there is no adapter"),
        ("other--kind--en/1", "belongs to the base model 'other' .*'tiny' .* is served here"),
    ],
)
def test_another_adapter_than_the_bases_own_is_refused(shop: Shop, adapter: str, reason: str) -> None:
    with pytest.raises(MlflowException, match=reason):
        shop.ask(QUESTION, adapter=adapter)
    assert shop.reason(QUESTION | {"adapter": adapter})


def test_a_registered_model_that_is_no_adapter_is_refused(shop: Shop, tmp_path: Path) -> None:
    client = MlflowClient()
    client.create_registered_model("forest")
    client.create_model_version("forest", source=tmp_path.as_uri())
    assert "forest/1 is not an adapter" in shop.reason(QUESTION, adapter="forest/1")


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: input should be greater than 0 (got 0)"),
        ({"max_new_tokens": 300}, "the base model takes 256: shorten the prompt or lower max_new_tokens"),
        ({"temperature": -1.0}, "temperature: input should be greater than or equal to 0 (got -1.0)"),
        ({"temperature": float("nan")}, "temperature: input should be greater than or equal to 0 (got nan)"),
        ({"seed": -1}, "seed: input should be greater than or equal to 0 (got -1)"),
        (
            {"chat_template": "maybe"},
            "chat_template: write 'true' or 'false', or leave it out",
        ),
        ({"chat_template": "true"}, "the base 'tiny' has no chat template"),
        ({"max_new_tokens": "many"}, "max_new_tokens"),
    ],
    ids=str,
)
def test_parameters_are_checked(shop: Shop, params: dict[str, Any], reason: str) -> None:
    assert reason in shop.reason({"prompt": "cat"}, **params)


def test_one_bad_row_refuses_the_request_before_anything_is_computed(shop: Shop, monkeypatch) -> None:
    monkeypatch.setattr("registry.serving.model.loglikelihoods", lambda *_: pytest.fail("computed"))
    assert "row 1: options[1]" in shop.reason(QUESTION, QUESTION | {"options": ["x", 3]})


def test_an_adapter_is_asked_as_it_was_last_evaluated(
    store, small_study, base, make_llama, tokenizer, tmp_path_factory
) -> None:
    folder = tmp_path_factory.mktemp("chat-base")
    make_llama(0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT, encoding="utf-8")

    def study(chat: bool) -> Study:
        named = f"name: chatty\nchat_template: {str(chat).lower()}"
        return narrowed(small_study((str(base), str(folder)), ("name: small", named), ("name: tiny", "name: chatty")))

    def answer(**params: str) -> list[float]:
        model = mlflow.pyfunc.load_model(tuned.uri, model_config={"base_path": str(folder)})
        (values,) = model.predict(pd.DataFrame([QUESTION]), params=params).loglikelihoods
        return list(values)

    tuned = finetune_one(study(chat=False))
    plain = answer()
    evaluate_one(study(chat=True))
    assert finetune_one(study(chat=True)).uri == tuned.uri
    chatted = answer()
    assert np.abs(np.subtract(plain, chatted)).max() > 1e-2
    assert answer(chat_template="false") == pytest.approx(plain, abs=1e-5)
    assert answer(chat_template="true") == pytest.approx(chatted, abs=1e-5)


@pytest.mark.parametrize("recipe", ["quantization: 4bit\nseeds:", "quantization: null\nseeds:"], ids=["4bit", "bf16"])
def test_the_base_is_held_as_it_was_when_the_adapter_was_trained(
    store, small_study, base, recipe: str, tmp_path: Path
) -> None:
    quantised = "4bit" in recipe
    if quantised:
        pytest.importorskip("bitsandbytes", reason="python -m pip install -e '.[quantized]'")
    name = "four" if quantised else "half"
    changes = [("seeds:", recipe), ("name: small", f"name: {name}"), ("name: tiny", f"name: {name}")]
    if not quantised:
        changes.append(("epochs: 1", "epochs: 1\n  precision: bf16"))
    study = narrowed(small_study(*changes), task="pair", language="tr")
    tuned = finetune_one(study)
    recorded = pd.read_parquet(evaluate_one(study).download(str(tmp_path)) / "outcomes.parquet")
    recorded = recorded[(recorded.task == "pair") & (recorded.language == "tr")]
    items = tuned.client and _items(study)
    served = mlflow.pyfunc.load_model(tuned.uri, model_config={"base_path": str(base)})
    answers = served.predict(pd.DataFrame([{"question": q, "options": list(o)} for q, o in items]))
    expected = recorded.groupby("question", sort=False).loglikelihood.apply(list)
    found = np.concatenate(answers.loglikelihoods.to_list())
    # Rounding in bf16 depends on how questions are batched, here as there 4,096 and 2,048 tokens.
    np.testing.assert_allclose(found, np.concatenate(expected.to_list()), rtol=0, atol=1e-3 if quantised else 0.5)
    dtypes = {str(weight.dtype) for weight in served.get_raw_model().parameters()}
    assert dtypes == ({"torch.uint8", "torch.float32"} if quantised else {"torch.bfloat16"})


def test_an_adapter_of_a_base_held_otherwise_is_refused(shop: Shop, small_study, base) -> None:
    changes = (("name: small", "name: halved"), ("epochs: 1", "epochs: 1\n  precision: bf16"))
    halved = finetune_one(narrowed(small_study(*changes), task="kind", language="tr"))
    name = halved.uri.removeprefix("models:/")
    assert f"{name} was trained on bf16 weights; the base model is held in fp32 weights" in shop.reason(
        QUESTION, adapter=name
    )


def test_a_folder_carried_away_from_its_registry_is_served(shop: Shop, tmp_path: Path, new_store) -> None:
    folder = shop.pair.download(str(tmp_path))
    former = mlflow.get_tracking_uri()
    try:
        mlflow.set_tracking_uri(new_store())
        mlflow.set_registry_uri(None)
        model = _load_pyfunc(str(folder), {"base_path": str(shop.base), "device": "cpu"})
        found = model.predict(pd.DataFrame([QUESTION]))
    finally:
        mlflow.set_tracking_uri(former)
        mlflow.set_registry_uri(former)
    assert found.loglikelihoods[0] == pytest.approx(shop.ask(QUESTION).loglikelihoods[0], abs=1e-5)


def _items(study: Study) -> list[tuple[str, tuple[str, ...]]]:
    from registry.cells import Cell
    from registry.planning.experiment import prepare

    return [(item.question, item.options) for item in prepare(study).items.test(Cell("pair", "tr"))]
