"""Every call into this project's engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from registry.config.study import Recipe
from registry.evaluation.outcomes import choose
from registry.lora.adapter import fresh_adapter, read_adapter
from registry.lora.bank import merged
from registry.lora.encoding import Continuations, Example, encode_examples, encode_queries
from registry.lora.score import ScoringSet, loglikelihoods
from registry.lora.train import Assignment, Training, hold_out, train_adapter
from tests.bench.items import Question

__all__ = ["INITIAL", "choose", "chosen_order", "encode", "encode_texts", "hold_out", "score_adapter", "train"]

#: Decides the adapter's first weights; the reference draws its own from the same seed.
INITIAL = 7


def encode(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], *, tokens_per_batch: int, device: str
) -> tuple[ScoringSet, list[Continuations]]:
    """Lay questions out once for all adapters of a process; the scorer takes them to the device batch by batch."""
    queries = encode_queries(
        tokenizer, [(question.context, question.continuations) for question in questions], chat=True
    )
    return ScoringSet(queries, tokens_per_batch=tokens_per_batch, max_length=2048), queries


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, str]], *, max_length: int
) -> list[Example]:
    """Encode training texts; the reference pads the same tokens."""
    return encode_examples(tokenizer, texts, max_length=max_length)


def score_adapter(
    base: PreTrainedModel,
    adapter_folder: Path,
    scoring_set: ScoringSet,
    progress: Callable[[float], None] | None = None,
) -> list[np.ndarray]:
    """Read an adapter, merge it in memory, score, and leave the base as it was."""
    with merged(base, read_adapter(adapter_folder)) as model:
        return loglikelihoods(model, scoring_set, progress=progress)


def train(
    base: PreTrainedModel,
    examples: Sequence[Example],
    recipe: Recipe,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> Training:
    """Train a fresh adapter on a base."""
    assignment = Assignment(fresh_adapter(base, recipe.lora, seed=INITIAL), examples, seed)
    return train_adapter(base, assignment, recipe, progress=progress)


@contextmanager
def chosen_order(examples: Sequence[Example], recipe: Recipe) -> Iterator[list[list[int]]]:
    """Note the order of the training examples in each epoch, as indices into ``examples``, for the reference to follow.

    The engine draws one permutation of the training examples per epoch.
    """
    training, _ = hold_out(examples, recipe)
    place = {id(example): index for index, example in enumerate(examples)}
    epochs: list[list[int]] = []
    draw = torch.randperm

    def noted(count: int, *rest: Any, **named: Any) -> torch.Tensor:
        drawn = draw(count, *rest, **named)
        if count == len(training):  # that of all examples, which decides what is held out, is longer
            epochs.append([place[id(training[index])] for index in drawn.tolist()])
        return drawn

    torch.randperm = noted  # type: ignore[assignment]
    try:
        yield epochs
    finally:
        torch.randperm = draw
