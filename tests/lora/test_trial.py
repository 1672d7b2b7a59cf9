"""A score never depends on what else is in a batch, whatever the architecture."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedConfig, PreTrainedModel

from registry.errors import Refused
from registry.lora import trial
from registry.lora.encoding import Continuations
from registry.lora.score import ScoringSet, loglikelihoods
from tests.architectures.sweep import one_by_one, questions
from tests.architectures.tiny import POSITIONS, VARIANTS, tiny_config, tiny_model

#: Architectures that take something from a batch: attention called twice in a layer, frequencies by length, windows,
#: experts, positions in a table, biases by distance, recurrences.
KINDS = ("diffllama", "phi3, LongRoPE", "phimoe, LongRoPE", "gemma2, soft-capped", "mixtral", "gpt2", "bloom", "mamba")


def configured(name: str) -> PreTrainedConfig:
    kind, fields = VARIANTS.get(name, (name, {}))
    return tiny_config(kind, **fields)


@pytest.fixture(scope="module", params=KINDS)
def measured(request) -> tuple[PreTrainedModel, list[Continuations], list[np.ndarray]]:
    model = tiny_model(configured(request.param))
    queries = questions(500, POSITIONS)
    return model, queries, one_by_one(model, queries, longest=POSITIONS)


@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_order_batch_size_and_prefix_threshold_gives_the_same_scores(measured, data) -> None:
    model, queries, expected = measured
    order = data.draw(st.permutations(range(len(queries))))
    tokens = data.draw(st.integers(1, 5000))
    worth = data.draw(st.sampled_from([1, 20, 200, float("inf")]))
    asked = ScoringSet([queries[place] for place in order], tokens_per_batch=tokens, max_length=POSITIONS, worth=worth)
    for place, values in zip(order, loglikelihoods(model, asked), strict=True):
        np.testing.assert_allclose(values, expected[place], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["diffllama", "phi3, LongRoPE"])
def test_an_architecture_with_peculiar_attention_still_shares_beginnings(name: str) -> None:
    assert trial.batching_of(tiny_model(configured(name))).shared


def test_options_on_two_sides_of_a_switch_are_in_rows_of_their_own() -> None:
    """Beside an option that is long enough for other frequencies, a short one would be computed with them, too."""
    model = tiny_model(configured("phi3, LongRoPE"))
    context = tuple(np.random.default_rng(3).integers(13, 500, 62).tolist())
    queries = [Continuations(context, ((20, 21), tuple(range(20, 30)), (40,)))]
    found = loglikelihoods(model, ScoringSet(queries, tokens_per_batch=4096, max_length=POSITIONS))
    np.testing.assert_allclose(found[0], one_by_one(model, queries, longest=POSITIONS)[0], rtol=0, atol=1e-4)


def test_windows_that_attention_is_not_told_of_are_noticed_before_a_text_is_that_long(caplog) -> None:
    config = configured("phimoe, LongRoPE")
    config.sliding_window = 4096
    with caplog.at_level(logging.WARNING):
        assert not trial.batching_of(tiny_model(config)).flat
    assert "limits how far back tokens see in a way of its own" in caplog.text


@pytest.mark.parametrize("kind", ["deepseek_v32", "minimax_m3_vl_text"])
def test_layers_that_choose_among_all_tokens_are_read_alone(kind: str) -> None:
    assert not trial.batching_of(tiny_model(tiny_config(kind))).padded


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("bert, bidirectional", "the base bert sees the tokens that it is to predict"),
        ("xlnet", "the base xlnet sees the tokens that it is to predict"),
        ("reformer", "the base reformer gives other logits each time"),
    ],
)
def test_what_is_no_causal_language_model_is_refused_in_words(name: str, told: str) -> None:
    with pytest.raises(Refused, match=told):
        trial.batching_of(tiny_model(configured(name)))


def test_logits_that_are_no_numbers_are_refused() -> None:
    model = tiny_model(tiny_config("llama"))
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    with pytest.raises(Refused, match="logits that are not numbers"):
        trial.batching_of(model)


def test_a_table_of_positions_shorter_than_stated_is_refused() -> None:
    model = tiny_model(tiny_config("gpt2"))
    model.transformer.wpe.weight.data = model.transformer.wpe.weight.data[:250]
    with pytest.raises(Refused, match="cannot read the 256 tokens that its configuration states"):
        trial.batching_of(model)


def test_too_little_memory_in_the_trial_is_no_verdict_on_the_architecture() -> None:
    model = tiny_model(tiny_config("llama"))

    def none(*_: object, **__: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    own, model.forward = model.forward, none
    with pytest.raises(torch.OutOfMemoryError):
        trial.batching_of(model)
    model.forward = own
    assert trial.batching_of(model).shared
