"""Log-likelihoods of options behind their contexts, as lm-evaluation-harness defines them.

One row per question: the context is computed once and the options stand behind it as siblings. Logits are computed only
where an option's token is predicted, and the log-softmax is taken in float32 whatever the model's dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from registry.lora.batches import SiblingBatch, sibling_batches, windowed
from registry.lora.tokens import Continuations

__all__ = ["ScoringSet", "choose", "loglikelihoods"]


@dataclass(frozen=True)
class ScoringSet:
    """Questions laid out once, to be scored under any number of adapters.

    Attributes
    ----------
    batches : list of SiblingBatch
    options : tuple of int
        Number of options of each question, in the questions' order.
    tokens : int
        Tokens that one pass runs through the model, padding left out.
    """

    batches: list[SiblingBatch]
    options: tuple[int, ...]
    tokens: int

    @classmethod
    def of(
        cls, queries: Sequence[Continuations], *, tokens_per_batch: int, max_length: int, device: str = "cpu"
    ) -> ScoringSet:
        """Lay questions out; see :func:`registry.lora.batches.sibling_batches`."""
        batches = [
            batch.to(device)
            for batch in sibling_batches(queries, tokens_per_batch=tokens_per_batch, max_length=max_length)
        ]
        tokens = sum(len(query.context) + sum(len(option) - 1 for option in query.options) for query in queries)
        return cls(batches, tuple(len(query.options) for query in queries), tokens)


def loglikelihoods(
    model: PreTrainedModel, questions: ScoringSet, *, progress: Callable[[float], None] | None = None
) -> list[np.ndarray]:
    """Score every option of every question.

    Parameters
    ----------
    model : causal language model of transformers, adapters merged or absent
    progress : callable, optional
        Told the share of work done, in [0, 1], after each batch.

    Returns
    -------
    list of float64 arrays, (options,)
        Summed log-probability of each option's tokens given its context, in nats, question by question.
    """
    scores = [np.full(options, np.nan) for options in questions.options]
    with torch.inference_mode(), _head_at(model) as place:
        for number, batch in enumerate(questions.batches, start=1):
            for (question, option), value in zip(batch.sequences, _batch(model, batch, place), strict=True):
                scores[question][option] = value
            if progress is not None:
                progress(number / len(questions.batches))
    return scores


def choose(scores: Sequence[np.ndarray], lengths: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """Return the index of each question's best option; with ``lengths`` (characters), the best after division by them.

    Ties go to the first option, as in lm-evaluation-harness.
    """
    if lengths is None:
        return np.array([int(np.argmax(row)) for row in scores], dtype=np.int64)
    pairs = zip(scores, lengths, strict=True)
    return np.array([int(np.argmax(row / np.asarray(length))) for row, length in pairs], dtype=np.int64)


def _batch(model: PreTrainedModel, batch: SiblingBatch, place: Callable[[Tensor], None]) -> list[float]:
    place(batch.head)
    mask = windowed(batch.mask(), batch.positions, model.config)
    logits = model(input_ids=batch.tokens, position_ids=batch.positions, attention_mask=mask, use_cache=False).logits[0]
    logprobs = torch.log_softmax(logits.float(), dim=-1)[batch.predictor, batch.predicted]
    sums = torch.zeros(len(batch.sequences), dtype=torch.float32, device=logprobs.device)
    values: list[float] = sums.index_add_(0, batch.owner, logprobs).tolist()
    return values


@contextmanager
def _head_at(model: PreTrainedModel) -> Iterator[Callable[[Tensor], None]]:
    """Have the LM head see only chosen (row, column) positions; the yielded function says which.

    ``logits_to_keep`` takes one set of columns for all rows. A hook on the head takes any set, and leaves whatever an
    architecture does to its logits afterwards (soft-capping, scaling) in place.
    """
    chosen: list[Tensor] = []

    def gather(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (arguments[0].flatten(0, 1)[chosen[0]][None], *arguments[1:])

    def place(index: Tensor) -> None:
        chosen[:] = [index]

    hook = model.get_output_embeddings().register_forward_pre_hook(gather)  # type: ignore[no-untyped-call]
    try:
        yield place
    finally:
        hook.remove()
