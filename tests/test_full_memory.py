"""The memory that training every weight is said to take, held against the storages that it makes."""

from __future__ import annotations

import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from registry.lora.full import replaced
from registry.lora.score import ScoringSet, loglikelihoods
from registry.lora.tokens import Continuations
from registry.lora.train import train_full
from registry.memory import HEADROOM, memory_needed, require_full_memory
from registry.refusal import Refused
from registry.study import Recipe
from tests.peak_memory import LLAMA_8B, Peak, skeleton, texts


def medium(dtype: torch.dtype) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=4000,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(dtype).eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("dtype", "checkpointing", "supervised_from", "supervised"),
    [
        (torch.float32, False, 64, 1 / 64),
        (torch.bfloat16, False, 1, 1.0),
        (torch.bfloat16, True, 64, 1 / 64),
    ],
    ids=["fp32, answer", "bf16, whole text", "bf16, answer, checkpointed"],
)
def test_training_every_weight_takes_what_is_said(
    dtype: torch.dtype, checkpointing: bool, supervised_from: int, supervised: float
) -> None:
    base, examples = medium(dtype), texts(16, 65, supervised_from)
    recipe = Recipe(method="full", epochs=2, batch_size=16, validation=0)  # the moments come with the first step
    loglikelihoods(base, ScoringSet([Continuations((5, 6), ((7,), (8,)))], tokens_per_batch=9, max_length=9))
    with Peak() as peak:
        train_full(base, examples, recipe, seed=0, gradient_checkpointing=checkpointing)
    needed = memory_needed(
        base, None, tokens_per_batch=1024, dtype=dtype, checkpointing=checkpointing, supervised=supervised
    )
    made = needed.training + needed.aside - needed.weights  # on a CPU, where the base's own were there before
    assert peak.bytes / 1.1 < made < 1.4 * peak.bytes


def test_scoring_what_was_trained_makes_no_copy_of_its_weights() -> None:
    base = medium(torch.float32)
    result = train_full(base, texts(4, 17, 16), Recipe(method="full", epochs=1, validation=0), seed=0).adapter
    questions = ScoringSet(
        [Continuations(text.tokens[:33], (text.tokens[33:49], text.tokens[49:65])) for text in texts(16, 65, 1)],
        tokens_per_batch=1024,
        max_length=256,
    )
    loglikelihoods(base, questions)
    with Peak() as peak, replaced(base, result) as whole:
        loglikelihoods(whole, questions)
    share = questions.predictions / questions.tokens
    needed = memory_needed(base, None, tokens_per_batch=questions.tokens, dtype=torch.float32, supervised=share)
    assert peak.bytes / 1.1 < needed.scoring - needed.weights < 1.4 * peak.bytes


def test_an_8b_base_takes_what_the_documentation_says() -> None:
    base = skeleton(LLAMA_8B)
    needed = [
        memory_needed(base, None, tokens_per_batch=4096, dtype=dtype, checkpointing=True, supervised=0.01)
        for dtype in (torch.bfloat16, torch.float32)
    ]
    assert [round((one.weights + one.adapters) / 8.03e9, 2) for one in needed] == [18.0, 16.0]
    assert [round(one.aside / 8.03e9, 2) for one in needed] == [4.0, 8.0]


def test_what_does_not_fit_is_refused_with_the_arithmetic(monkeypatch) -> None:
    class Said:
        available = 0

    base = medium(torch.bfloat16)
    count = base.num_parameters()
    monkeypatch.setattr(psutil, "virtual_memory", Said)
    Said.available = round(HEADROOM * 20 * count) - 1
    with pytest.raises(
        Refused, match=r"'medium' cannot be trained in the machine's memory: .* × 20 bytes × 1\.1 .*lora"
    ):
        require_full_memory(base, "medium", device="cpu")
    Said.available += 2
    require_full_memory(base, "medium", device="cpu")


@pytest.mark.parametrize(
    ("on_gpu", "in_main", "told"),
    [(16, 99, "the memory of cuda:0: .* × 16 bytes"), (99, 4, "the machine's memory: .* × 4 bytes"), (18, 5, None)],
)
def test_on_a_gpu_both_memories_are_asked(monkeypatch, on_gpu: int, in_main: int, told: str | None) -> None:
    base = medium(torch.bfloat16)
    count = base.num_parameters()

    class Said:
        available = in_main * count

    monkeypatch.setattr(psutil, "virtual_memory", Said)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (on_gpu * count, None))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    if told is None:
        require_full_memory(base, "medium", device="cuda:0")
        return
    with pytest.raises(Refused, match=told):
        require_full_memory(base, "medium", device="cuda:0")
