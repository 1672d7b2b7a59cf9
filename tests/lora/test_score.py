"""Scores with options as siblings equal scores of one option at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from registry.lora.score import ScoringSet, choose, loglikelihoods
from registry.lora.tokens import Continuations

VOCABULARY = 97
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "mistral, wide window": MistralConfig(**SHAPE, sliding_window=128),
    "gemma3, wide window": Gemma3TextConfig(**SHAPE, **GEMMA, sliding_window=128),
}
WINDOWED = {
    "mistral": MistralConfig(**SHAPE, sliding_window=8),
    "gemma3": Gemma3TextConfig(**SHAPE, **GEMMA, sliding_window=8),
}
LENGTHS = {"one token": (1, 1), "several tokens": (3, 3), "unequal": (1, 7)}


def random_model(config: PreTrainedConfig) -> nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def random_queries(
    count: int, *, context: tuple[int, int], options: tuple[int, int], seed: int = 0
) -> list[Continuations]:
    """Questions of two to five options; lengths in tokens, drawn between the bounds, both included."""
    rng = np.random.default_rng(seed)

    def draw(bounds: tuple[int, int]) -> tuple[int, ...]:
        return tuple(rng.integers(3, VOCABULARY, rng.integers(bounds[0], bounds[1] + 1)).tolist())

    return [Continuations(draw(context), tuple(draw(options) for _ in range(rng.integers(2, 6)))) for _ in range(count)]


def one_by_one(model: nn.Module, queries: Sequence[Continuations], *, max_length: int) -> list[np.ndarray]:
    """``HFLM._loglikelihood_tokens`` of lm-evaluation-harness, a batch of one at a time."""
    rows = []
    for query in queries:
        row = []
        for option in query.options:
            inputs = torch.tensor((query.context + option)[-(max_length + 1) :][:-1])
            logprobs = torch.log_softmax(model(inputs[None]).logits[0].float(), dim=-1)[-len(option) :]
            row.append(logprobs[range(len(option)), option].sum().item())
        rows.append(np.array(row))
    return rows


def scored(
    model: nn.Module, queries: Sequence[Continuations], *, tokens_per_batch: int = 256, max_length: int = 128
) -> list[np.ndarray]:
    return loglikelihoods(model, ScoringSet.of(queries, tokens_per_batch=tokens_per_batch, max_length=max_length))


def assert_same(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    assert np.ptp(np.concatenate(expected)) > 1, "scores that hardly differ would prove nothing"
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(choose(found), choose(expected))


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_siblings_score_as_one_option_at_a_time(config: PreTrainedConfig, lengths: tuple[int, int]) -> None:
    model = random_model(config)
    queries = random_queries(12, context=(1, 40), options=lengths)
    assert_same(scored(model, queries), one_by_one(model, queries, max_length=128))


@pytest.mark.parametrize("config", WINDOWED.values(), ids=WINDOWED)
def test_siblings_score_right_where_a_row_is_longer_than_the_sliding_window(config: PreTrainedConfig) -> None:
    model = random_model(config)
    queries = random_queries(8, context=(20, 40), options=(1, 4))
    assert_same(scored(model, queries), one_by_one(model, queries, max_length=128))


@pytest.mark.parametrize("config", WINDOWED.values(), ids=WINDOWED)
def test_siblings_score_right_where_a_row_fits_the_sliding_window(config: PreTrainedConfig) -> None:
    model = random_model(config)
    queries = random_queries(8, context=(1, 5), options=(1, 3))
    assert_same(scored(model, queries), one_by_one(model, queries, max_length=128))


@pytest.mark.parametrize("max_length", [16, 23, 30])
def test_an_over_long_context_loses_its_left_side_for_each_option_apart(max_length: int) -> None:
    model = random_model(CONFIGS["llama"])
    queries = random_queries(12, context=(10, 40), options=(1, 7))
    lengths = [len(query.context) + max(map(len, query.options)) - 1 for query in queries]
    assert min(lengths) <= max_length < max(lengths), "some rows are cut, some are not"
    assert_same(scored(model, queries, max_length=max_length), one_by_one(model, queries, max_length=max_length))


def test_an_option_that_no_position_is_left_for_is_refused() -> None:
    with pytest.raises(ValueError, match="option of 9 tokens does not fit a model of 8 positions"):
        ScoringSet.of([Continuations((3,), ((4,), tuple(range(3, 12))))], tokens_per_batch=64, max_length=8)


@pytest.mark.parametrize("tokens_per_batch", [1, 100, 100_000])
def test_scores_do_not_depend_on_the_batch_size(tokens_per_batch: int) -> None:
    model = random_model(CONFIGS["llama"])
    queries = random_queries(20, context=(1, 40), options=(1, 6))
    whole = ScoringSet.of(queries, tokens_per_batch=tokens_per_batch, max_length=128)
    expected_batches = {1: len(queries), 100_000: 1}
    assert len(whole.batches) == expected_batches.get(tokens_per_batch, len(whole.batches))
    assert_same(loglikelihoods(model, whole), scored(model, queries, tokens_per_batch=317))


def test_no_batch_is_larger_than_asked_for_unless_it_is_one_row() -> None:
    queries = random_queries(40, context=(1, 40), options=(1, 6))
    batches = ScoringSet.of(queries, tokens_per_batch=200, max_length=128).batches
    assert all(batch.tokens.numel() <= 200 or len(batch.tokens) == 1 for batch in batches)
    assert len(batches) < len(queries)


def test_the_token_count_is_that_of_contexts_and_option_inputs() -> None:
    queries = [Continuations((3, 4, 5), ((6,), (7, 8))), Continuations((3,), ((4, 5, 6), (7,), (8,)))]
    assert ScoringSet.of(queries, tokens_per_batch=64, max_length=128).tokens == (3 + 0 + 1) + (1 + 2)


def test_scores_of_a_bf16_model_are_sums_of_float32_log_softmax() -> None:
    model = random_model(CONFIGS["llama"]).to(torch.bfloat16)
    queries = random_queries(1, context=(20, 20), options=(1, 1))
    found = scored(model, queries)
    np.testing.assert_allclose(found[0], one_by_one(model, queries, max_length=128)[0], atol=1e-4)
    assert any(value != torch.tensor(value).bfloat16().item() for value in found[0])


def test_the_model_gives_all_its_logits_again_after_scoring_even_after_a_failure() -> None:
    model = random_model(CONFIGS["llama"])
    tokens = torch.tensor([[3, 4, 5, 6]])
    before = model(tokens).logits
    queries = random_queries(4, context=(5, 9), options=(1, 2))

    def interrupt(share: float) -> None:
        raise KeyboardInterrupt

    scored(model, queries)
    assert torch.equal(model(tokens).logits, before)
    with pytest.raises(KeyboardInterrupt):
        loglikelihoods(model, ScoringSet.of(queries, tokens_per_batch=16, max_length=128), progress=interrupt)
    assert torch.equal(model(tokens).logits, before)


def test_progress_rises_to_one() -> None:
    shares: list[float] = []
    questions = ScoringSet.of(random_queries(9, context=(5, 20), options=(1, 3)), tokens_per_batch=64, max_length=128)
    loglikelihoods(random_model(CONFIGS["llama"]), questions, progress=shares.append)
    assert len(shares) == len(questions.batches) > 2
    assert shares == sorted(set(shares))
    assert shares[-1] == 1.0


def test_the_best_option_is_chosen_and_a_tie_goes_to_the_first() -> None:
    rows = [np.array([-3.0, -1.0, -2.0]), np.array([-2.0, -1.0, -1.0]), np.array([-1.0, -1.0])]
    assert choose(rows).tolist() == [1, 1, 0]


def test_division_by_length_can_choose_another_option_and_its_ties_go_to_the_first() -> None:
    rows = [np.array([-3.0, -4.0]), np.array([-4.0, -2.0]), np.array([-1.0, -4.0])]
    assert choose(rows).tolist() == [0, 1, 0]
    assert choose(rows, [(3, 8), (2, 1), (2, 4)]).tolist() == [1, 0, 0]
