"""The memory that training and scoring are said to take, held against the storages that they make."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from registry.config.study import LoraSpec, Recipe
from registry.lora.adapter import fresh_adapter
from registry.lora.bank import merged
from registry.lora.encoding import Continuations
from registry.lora.full import replaced
from registry.lora.score import ScoringSet, loglikelihoods
from registry.lora.train import Assignment, train_adapter, train_full
from tests.models.needed_memory import Memory, memory_needed
from tests.peak_memory import LLAMA_8B, Peak, medium, skeleton, texts

PAPER_LORA = LoraSpec(rank=32, alpha=64)
GB = 1e9


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("supervised_from", "supervised"), [(64, 1 / 64), (1, 1.0)], ids=["answer", "whole text"])
def test_training_takes_what_is_said(
    dtype: torch.dtype, checkpointing: bool, supervised_from: int, supervised: float
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
def test_scoring_takes_what_is_said(dtype: torch.dtype) -> None:
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


def test_adapters_trained_at_once_share_everything_but_their_weights() -> None:
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
    assert "\n".join(table) in (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")


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
    base, examples = medium(dtype, layers=6), texts(16, 65, supervised_from)
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
    base = medium(torch.float32, layers=6)
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
