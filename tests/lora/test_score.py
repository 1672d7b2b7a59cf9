"""Scores with options as siblings equal scores of one option at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from registry.evaluation.outcomes import choose
from registry.lora import trial
from registry.lora.encoding import Continuations
from registry.lora.score import ScoringSet, loglikelihoods

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
    "llama, tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "mixtral": MixtralConfig(**SHAPE, num_local_experts=4),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=128,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.15,
    ),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "mistral, wide window": MistralConfig(**SHAPE, sliding_window=128),
    "gemma3, wide window": Gemma3TextConfig(**SHAPE, **GEMMA, sliding_window=128),
}
WINDOWED = {
    "mistral": MistralConfig(**SHAPE, sliding_window=8),
    "gemma3": Gemma3TextConfig(**SHAPE, **GEMMA, sliding_window=8),
    "gemma2, soft-capped": Gemma2Config(
        **SHAPE, head_dim=16, query_pre_attn_scalar=16, sliding_window=8, attn_logit_softcapping=2.0
    ),
}
#: What keeps an architecture from reading several sequences in one row.
OBSTACLES = {
    "position biases": BloomConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        n_layer=2,
        n_head=4,
        initializer_range=0.15,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "recurrent layers": MambaConfig(
        vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, state_size=4, initializer_range=0.15
    ),
    "attention sinks": GptOssConfig(**SHAPE, num_local_experts=4, head_dim=16, sliding_window=8),
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
    return loglikelihoods(model, ScoringSet(queries, tokens_per_batch=tokens_per_batch, max_length=max_length))


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


@pytest.mark.parametrize("config", [*CONFIGS.values(), *WINDOWED.values()], ids=[*CONFIGS, *WINDOWED])
def test_a_beginning_that_many_share_is_computed_once_and_changes_nothing(config: PreTrainedConfig) -> None:
    model = random_model(config)
    header, primer = ((tuple(range(start, start + 9))) for start in (20, 40))
    beginnings = ((), header, header + primer)
    queries = [
        Continuations(beginnings[number % 3] + query.context, query.options)
        for number, query in enumerate(random_queries(21, context=(2, 12), options=(1, 4)))
    ]
    questions = ScoringSet(queries, tokens_per_batch=128, max_length=128, worth=30)
    assert {questions.prefix(number) for number in range(questions.batches)} == set(beginnings)
    alone = sum(len(query.context) + sum(len(option) - 1 for option in query.options) for query in queries)
    assert questions.tokens == alone - 6 * len(header) - 6 * len(header + primer)
    assert_same(loglikelihoods(model, questions), one_by_one(model, queries, max_length=128))


def test_equal_contexts_and_contexts_within_contexts_are_shared_rightly() -> None:
    model = random_model(CONFIGS["llama"])
    (longest,) = random_queries(1, context=(30, 30), options=(2, 3))
    lengths = [30] * 5 + list(range(1, 30))
    queries = [Continuations(longest.context[:length], longest.options) for length in lengths]
    questions = ScoringSet(queries, tokens_per_batch=128, max_length=128, worth=5)
    own = sum(len(option) - 1 for option in longest.options)
    assert questions.tokens < 0.8 * sum(length + own for length in lengths)
    assert_same(loglikelihoods(model, questions), one_by_one(model, queries, max_length=128))


@pytest.mark.parametrize("config", OBSTACLES.values(), ids=OBSTACLES)
def test_an_architecture_that_cannot_read_siblings_reads_one_option_a_row_and_that_is_said_once(
    caplog, config: PreTrainedConfig
) -> None:
    model = random_model(config)
    queries = random_queries(12, context=(1, 40), options=(1, 7))
    expected = one_by_one(model, queries, max_length=128)
    for _ in range(2):
        assert_same(scored(model, queries), expected)
    assert not trial.batching_of(model).flat
    (said,) = [record.getMessage() for record in caplog.records if record.name == trial.__name__]
    assert said.startswith(f"{config.model_type} runs one option per row")


@pytest.mark.parametrize("config", [*CONFIGS.values(), *WINDOWED.values()], ids=[*CONFIGS, *WINDOWED])
def test_the_families_of_the_study_read_siblings(config: PreTrainedConfig) -> None:
    assert trial.batching_of(random_model(config)).shared


@pytest.mark.parametrize("most", [60, 200])
def test_too_little_memory_halves_the_batch_and_scoring_goes_on(caplog, most: int) -> None:
    model = random_model(CONFIGS["llama"])
    queries = random_queries(40, context=(5, 40), options=(1, 6))
    expected = scored(model, queries)
    own, refused = model.forward, []

    def small(*arguments: object, input_ids: torch.Tensor, **fields: object) -> object:
        if input_ids.numel() > most:
            refused.append(input_ids.numel())
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return own(*arguments, input_ids=input_ids, **fields)

    model.forward = small
    questions = ScoringSet(queries, tokens_per_batch=1000, max_length=128)
    for _ in range(2):
        assert_same(loglikelihoods(model, questions), expected)
    assert 2 <= len(refused) <= 6, "what was found to be too much is not tried again"
    assert questions.tokens_per_batch <= most < 1000
    assert "out of memory: scoring goes on with" in caplog.text


def test_one_question_that_does_not_fit_into_memory_ends_the_scoring() -> None:
    model = random_model(CONFIGS["llama"])

    def none(*_: object, **__: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    trial.batching_of(model)
    model.forward = none
    with pytest.raises(torch.OutOfMemoryError):
        scored(model, random_queries(8, context=(5, 40), options=(1, 6)))


def test_an_error_that_is_not_of_memory_is_not_taken_for_one() -> None:
    model = random_model(CONFIGS["llama"])
    trial.batching_of(model)

    def broken(*_: object, **__: object) -> object:
        raise RuntimeError("shapes do not match")

    model.forward = broken
    with pytest.raises(RuntimeError, match="shapes do not match"):
        scored(model, random_queries(8, context=(5, 40), options=(1, 6)))


@pytest.mark.parametrize("max_length", [16, 23, 30])
def test_an_over_long_context_loses_its_left_side_for_each_option_apart(max_length: int) -> None:
    model = random_model(CONFIGS["llama"])
    queries = random_queries(12, context=(10, 40), options=(1, 7))
    lengths = [len(query.context) + max(map(len, query.options)) - 1 for query in queries]
    assert min(lengths) <= max_length < max(lengths), "some rows are cut, some are not"
    assert_same(scored(model, queries, max_length=max_length), one_by_one(model, queries, max_length=max_length))


def test_an_option_that_no_position_is_left_for_is_refused() -> None:
    with pytest.raises(ValueError, match="option of 9 tokens does not fit a model of 8 positions"):
        ScoringSet([Continuations((3,), ((4,), tuple(range(3, 12))))], tokens_per_batch=64, max_length=8)


@pytest.mark.parametrize("tokens_per_batch", [1, 100, 100_000])
def test_scores_do_not_depend_on_the_batch_size(tokens_per_batch: int) -> None:
    model = random_model(CONFIGS["llama"])
    queries = random_queries(20, context=(1, 40), options=(1, 6))
    whole = ScoringSet(queries, tokens_per_batch=tokens_per_batch, max_length=128)
    expected_batches = {1: len(queries), 100_000: 1}
    assert whole.batches == expected_batches.get(tokens_per_batch, whole.batches)
    assert_same(loglikelihoods(model, whole), scored(model, queries, tokens_per_batch=317))


def test_no_batch_is_larger_than_asked_for_unless_it_is_one_row() -> None:
    queries = random_queries(40, context=(1, 40), options=(1, 6))
    whole = ScoringSet(queries, tokens_per_batch=200, max_length=128)
    assert all(
        whole.batch(number).batch.tokens.numel() <= 200 or whole.rows(number) == 1 for number in range(whole.batches)
    )
    assert whole.batches < len(queries)


def test_the_token_count_is_that_of_contexts_and_option_inputs() -> None:
    queries = [Continuations((3, 4, 5), ((6,), (7, 8))), Continuations((3,), ((4, 5, 6), (7,), (8,)))]
    assert ScoringSet(queries, tokens_per_batch=64, max_length=128).tokens == (3 + 0 + 1) + (1 + 2)


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
        loglikelihoods(model, ScoringSet(queries, tokens_per_batch=16, max_length=128), progress=interrupt)
    assert torch.equal(model(tokens).logits, before)


def test_progress_rises_to_one() -> None:
    shares: list[float] = []
    questions = ScoringSet(random_queries(9, context=(5, 20), options=(1, 3)), tokens_per_batch=64, max_length=128)
    loglikelihoods(random_model(CONFIGS["llama"]), questions, progress=shares.append)
    assert len(shares) == questions.batches > 2
    assert shares == sorted(set(shares))
    assert shares[-1] == 1.0


def test_the_best_option_is_chosen_and_a_tie_goes_to_the_first() -> None:
    rows = [np.array([-3.0, -1.0, -2.0]), np.array([-2.0, -1.0, -1.0]), np.array([-1.0, -1.0])]
    assert choose(rows).tolist() == [1, 1, 0]


def test_division_by_length_can_choose_another_option_and_its_ties_go_to_the_first() -> None:
    rows = [np.array([-3.0, -4.0]), np.array([-4.0, -2.0]), np.array([-1.0, -4.0])]
    assert choose(rows).tolist() == [0, 1, 0]
    assert choose(rows, [(3, 8), (2, 1), (2, 4)]).tolist() == [1, 0, 0]
