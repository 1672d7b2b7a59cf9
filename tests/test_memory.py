"""The memory a base and its adapters are said to take, held against the storages that a training and a scoring make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from registry.lora.adapter import fresh_adapter
from registry.lora.bank import merged
from registry.lora.score import ScoringSet, loglikelihoods
from registry.lora.tokens import Continuations
from registry.lora.train import Assignment, train_adapter
from registry.memory import HEADROOM, Memory, memory_needed, require_memory, weight_bytes
from registry.refusal import Refused
from registry.study import LoraSpec, Recipe
from tests.peak_memory import LLAMA_8B, Peak, skeleton, texts

PAPER_LORA = LoraSpec(rank=32, alpha=64)
GB = 1e9


@pytest.fixture(scope="module")
def medium() -> Callable[[torch.dtype], PreTrainedModel]:
    """Make a base of 19 million parameters."""

    def make(dtype: torch.dtype) -> PreTrainedModel:
        config = LlamaConfig(
            vocab_size=4000,
            hidden_size=384,
            intermediate_size=1024,
            num_hidden_layers=10,
            num_attention_heads=6,
            num_key_value_heads=2,
        )
        torch.manual_seed(0)
        return LlamaForCausalLM(config).to(dtype).eval().requires_grad_(False)

    return make


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("supervised_from", "supervised"), [(64, 1 / 64), (1, 1.0)], ids=["answer", "whole text"])
def test_training_takes_what_is_said(
    medium, dtype: torch.dtype, checkpointing: bool, supervised_from: int, supervised: float
) -> None:
    base, spec = medium(dtype), LoraSpec(rank=8)
    recipe = Recipe(lora=spec, epochs=2, batch_size=8, validation=0)  # AdamW's moments come with the first step
    assignment = Assignment(fresh_adapter(base, spec, seed=0), texts(8, 65, supervised_from), seed=0)
    train_adapter(base, assignment, recipe)  # what is found out once about a base is not part of its training
    with Peak() as peak:
        train_adapter(base, assignment, recipe, gradient_checkpointing=checkpointing)
    needed = memory_needed(
        base, spec, tokens_per_batch=512, dtype=dtype, checkpointing=checkpointing, supervised=supervised
    )
    assert peak.bytes / 1.1 < needed.training - needed.weights < 1.4 * peak.bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_scoring_takes_what_is_said(medium, dtype: torch.dtype) -> None:
    base, spec = medium(dtype), LoraSpec(rank=8)
    queries = [Continuations(text.tokens[:33], (text.tokens[33:49], text.tokens[49:65])) for text in texts(16, 65, 1)]
    questions = ScoringSet(queries, tokens_per_batch=1024, max_length=256)
    loglikelihoods(base, questions)
    adapter = fresh_adapter(base, spec, seed=0)
    with Peak() as peak, merged(base, adapter) as whole:
        loglikelihoods(whole, questions)
    share = questions.predictions / questions.tokens
    needed = memory_needed(base, spec, tokens_per_batch=questions.tokens, dtype=dtype, supervised=share)
    made = needed.scoring - needed.weights - 4 * adapter.parameters  # the adapter was there before
    assert peak.bytes / 1.1 < made < 1.4 * peak.bytes


def test_the_weights_take_what_a_loaded_base_takes(medium) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        base = medium(dtype)
        assert weight_bytes(base, dtype) == sum(weight.nbytes for weight in base.parameters())


def test_a_quantised_base_has_its_projections_in_fewer_bits(medium) -> None:
    base = skeleton(medium(torch.float32).config)
    rest = 2 * 4000 * 384 + 21 * 384  # embeddings, LM head, norms
    projections = base.num_parameters() - rest
    assert weight_bytes(base, torch.bfloat16, "8bit") == 2 * rest + projections
    assert weight_bytes(base, torch.bfloat16, "4bit") == pytest.approx(2 * rest + 0.516 * projections, rel=1e-3)


def test_adapters_trained_at_once_share_everything_but_their_weights(medium) -> None:
    base, spec = skeleton(medium(torch.float32).config), LoraSpec(rank=8)
    one, three = (
        memory_needed(base, spec, tokens_per_batch=512, dtype=torch.float32, adapters=count) for count in (1, 3)
    )
    assert three.adapters == 3 * one.adapters == 3 * 16 * 542_720
    assert three.training - one.training == 2 * one.adapters
    assert three.scoring == one.scoring


def terms(needed: Memory) -> dict[str, int]:
    """The rows of the table in docs/performance.md."""
    return {
        "weights": needed.weights,
        "adapter, gradients, AdamW": needed.adapters,
        "activations kept": needed.activations,
        "logits, gradients of activations": needed.passing,
        "**training**": needed.training,
        "merged copies": needed.merged,
        "adapter, logits": needed.scored,
        "**scoring**": needed.scoring,
    }


def test_an_8b_adapter_trains_and_scores_within_80_gb_as_the_documentation_says() -> None:
    base = skeleton(LLAMA_8B)
    assert base.num_parameters() == 8_030_261_248
    found = [
        memory_needed(
            base, PAPER_LORA, tokens_per_batch=4096, dtype=torch.bfloat16, checkpointing=kept, quantization=bits
        )
        for bits, kept in ((None, False), (None, True), ("4bit", True))
    ]
    assert [round(needed.training / GB, 1) for needed in found] == [48.1, 23.9, 13.5]
    assert [round(needed.scoring / GB, 1) for needed in found] == [31.7, 31.7, 7.4]
    assert max(needed.training for needed in found) < 80 * GB
    rows = zip(*(terms(needed).items() for needed in found), strict=True)
    table = [f"| {row[0][0]} | {' | '.join(f'{size / GB:.1f}' for _, size in row)} |" for row in rows]
    assert "\n".join(table) in (Path(__file__).parents[1] / "docs" / "performance.md").read_text(encoding="utf-8")


@pytest.fixture
def free(monkeypatch) -> Callable[[int], None]:
    """Have the machine say that so many bytes are free."""

    def say(count: int) -> None:
        class Said:
            available = count

        monkeypatch.setattr(psutil, "virtual_memory", Said)

    return say


def test_weights_that_do_not_fit_are_refused_with_the_arithmetic(free) -> None:
    base = skeleton(LLAMA_8B)
    needed = round(HEADROOM * 4 * base.num_parameters())
    free(needed - 1)
    with pytest.raises(Refused) as caught:
        require_memory(base, "llama", dtype=torch.float32, device="cpu")
    assert str(caught.value) == (
        "model 'llama' does not fit into the machine's memory: 8.03 B parameters × 4 bytes × 1.1 headroom = 35.3 GB, "
        "free are 35.3 GB; set recipe.precision to bf16, or set quantization to 4bit or 8bit, or set placement to "
        "spread, which adds the machine's other devices"
    )
    free(needed + 1)
    require_memory(base, "llama", dtype=torch.float32, device="cpu")


def test_remedies_that_are_already_taken_are_not_named(free) -> None:
    free(10**9)
    with pytest.raises(Refused, match=r"free are 1 GB; take a smaller model$"):
        require_memory(
            skeleton(LLAMA_8B),
            "llama",
            dtype=torch.bfloat16,
            device="cpu",
            placement="spread",
            quantization="4bit",
        )


@pytest.mark.parametrize(
    ("placement", "quantization", "device", "told"),
    [
        ("one", None, "cuda:1", "the memory of cuda:1: .* free are 2 GB"),
        ("spread", None, "cuda:1", "the memory of 2 GPUs and of the machine: .* free are 6 GB"),
        ("spread", "8bit", "cuda:1", "the memory of 2 GPUs .*: .* free are 3 GB"),
    ],
)
def test_what_is_free_is_asked_where_the_weights_are_to_go(
    free, monkeypatch, placement, quantization, device: str, told: str
) -> None:
    free(3 * 10**9)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda one: (2 * 10**9 if one == "cuda:1" else 1.5 * 10**9, None))
    with pytest.raises(Refused, match=told):
        require_memory(
            skeleton(LLAMA_8B),
            "llama",
            dtype=torch.float32,
            device=device,
            placement=placement,
            quantization=quantization,
        )
