"""Log-likelihoods of options behind their contexts, as lm-evaluation-harness defines them.

A question's context is computed once and its options follow it as siblings; a beginning that many questions share
is computed once for all of them. The log-softmax is taken in float32 whatever the model's dtype.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from registry.lora.attention import Prefix
from registry.lora.batches import ScoringBatch, scoring_batch
from registry.lora.encoding import Continuations
from registry.lora.forward import Batching, Forward, compute_prefix, input_device, reading
from registry.lora.shared_prefixes import Row, question_rows, split
from registry.lora.trial import batching_of
from registry.models.memory import is_out_of_memory, release_freed

__all__ = ["ScoringSet", "loglikelihoods"]

_log = logging.getLogger(__name__)
# Float32 copies of logits are made in parts of so many numbers: on a CPU few enough to stay in its cache.
_LOGITS_AT_ONCE = {"cpu": 2**18, "cuda": 2**26}


class ScoringSet:
    """Questions laid out once, to be scored under any number of adapters.

    Parameters
    ----------
    queries : sequence of Continuations
    tokens_per_batch : int
        Tokens that a model is given at once, to begin with; halved where memory does not suffice.
    max_length : int
        Longest input in tokens.
    worth : int, optional
        Tokens that a shared beginning must save to be computed apart; see
        :func:`registry.lora.shared_prefixes.question_rows`.

    Attributes
    ----------
    options : tuple of int
        Number of options of each question, in the questions' order.
    indistinct : bool array, (questions,)
        Where no model can tell all options of a question apart, see :class:`registry.lora.encoding.Continuations`.
    tokens_per_batch : int
        What it is now.
    seconds : float
        In which the last scoring's tokens went through the model; what was laid out and tried before does not count.
    """

    def __init__(
        self, queries: Sequence[Continuations], *, tokens_per_batch: int, max_length: int, worth: int | None = None
    ) -> None:
        self.options = tuple(len(query.options) for query in queries)
        self.indistinct = np.array([query.indistinct for query in queries], dtype=bool)
        self.tokens_per_batch = tokens_per_batch
        self.seconds = 0.0
        self._queries = queries
        self._max_length = max_length
        self._worth = worth
        self._batching = Batching(flat=True, shared=True, padded=True)
        self._rows: list[list[Row]] = []
        self._laid_out: list[ScoringBatch | None] = []
        self.lay_out(self._batching)

    def unscored(self) -> list[np.ndarray]:
        """Return a place for each option's log-likelihood: not a number until it is scored, 0 where it cannot be."""
        return [np.full(len(query.options), np.nan if query.scorable else 0.0) for query in self._queries]

    @property
    def batches(self) -> int:
        """Number of batches."""
        return len(self._rows)

    @property
    def tokens(self) -> int:
        """Tokens that one pass runs through the model, shared beginnings once, padding left out."""
        prefixes = {rows[0].prefix for rows in self._rows}
        return sum(map(len, prefixes)) + sum(len(row) for rows in self._rows for row in rows)

    @property
    def predictions(self) -> int:
        """Positions at which one pass computes logits."""
        return sum(1 + len(row) - len(row.context) for rows in self._rows for row in rows)

    @property
    def cut(self) -> dict[int, int]:
        """Tokens that a question's context loses on its left to fit the model, the most of its options, if any."""
        lost: dict[int, int] = {}
        for row in chain.from_iterable(self._rows):
            if row.cut:
                lost[row.question] = max(row.cut, lost.get(row.question, 0))
        return lost

    def lay_out(self, batching: Batching) -> None:
        """Lay the questions out as a model takes them."""
        if self._rows and batching == self._batching:
            return
        self._batching = batching
        rows = question_rows(
            self._queries,
            max_length=self._max_length,
            siblings=batching.flat,
            worth=self._worth if batching.shared else float("inf"),
            switches=batching.switches,
        )
        self._set(0, rows)

    def halve(self, number: int) -> None:
        """Lay the questions from batch ``number`` on out in batches of half the tokens."""
        self.tokens_per_batch = max(1, min(self.tokens_per_batch, sum(map(len, self._rows[number]))) // 2)
        self._set(number, chain.from_iterable(self._rows[number:]))

    def prefix(self, number: int) -> tuple[int, ...]:
        """Return the beginning that a batch's questions share."""
        return self._rows[number][0].prefix

    def rows(self, number: int) -> int:
        """Return how many rows a batch has."""
        return len(self._rows[number])

    def batch(self, number: int) -> ScoringBatch:
        """Return a batch, in this machine's memory."""
        batch = self._laid_out[number]
        if batch is None:
            batch = self._laid_out[number] = scoring_batch(self._rows[number], flat=self._batching.flat)
        return batch

    def _set(self, number: int, rows: Sequence[Row] | chain[Row]) -> None:
        listed = list(rows)
        self._rows[number:] = (
            split(listed, self.tokens_per_batch) if self._batching.padded else [[row] for row in listed]
        )
        self._laid_out[number:] = [None] * (len(self._rows) - number)


def loglikelihoods(
    model: PreTrainedModel, questions: ScoringSet, *, progress: Callable[[float], None] | None = None
) -> list[np.ndarray]:
    """Score every option of every question.

    Parameters
    ----------
    model : causal language model of transformers, adapters merged or absent
    progress : callable, optional
        Called with the share of work done, in [0, 1], after each batch.

    Returns
    -------
    list of float64 arrays, (options,)
        Summed log-probability of each option's tokens given its context, in nats, question by question; 0 for all
        options of a question where one has no token: a tie.

    Raises
    ------
    torch.OutOfMemoryError
        If not even one question fits into memory.
    FloatingPointError
        If a log-likelihood is not a number: something overflowed on the way, as it does in fp16 above 65,504.
    """
    scores = questions.unscored()
    batching, device = batching_of(model), input_device(model)
    questions.lay_out(batching)
    number, prefix = 0, None
    questions.seconds = 0.0
    with torch.inference_mode(), reading(model, batching) as forward:
        while number < questions.batches:
            try:
                batch = questions.batch(number)
                started = time.perf_counter()
                if prefix is None or prefix[0] != questions.prefix(number):
                    prefix = (questions.prefix(number), compute_prefix(forward, questions.prefix(number), device))
                values = _batch(forward, batch, prefix[1], device)  # the numbers are here, so a GPU is done
                questions.seconds += time.perf_counter() - started
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or questions.rows(number) == 1:
                    raise
                error.__traceback__ = None  # its frames hold what did not fit
                questions.halve(number)
                _log.warning("out of memory: scoring goes on with %d tokens at once", questions.tokens_per_batch)
            else:
                for (question, option), value in zip(batch.sequences, values, strict=True):
                    scores[question][option] = value
                number += 1
                if progress is not None:
                    progress(number / questions.batches)
                continue
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    release_freed()
    broken = sum(bool(np.isnan(row).any()) for row in scores)
    if broken:
        remedy = "; fp16 overflows above 65,504, bf16 does not" if model.dtype == torch.float16 else ""
        raise FloatingPointError(f"log-likelihoods of {broken} of {len(scores)} questions are not a number{remedy}")
    return scores


def _batch(forward: Forward, batch: ScoringBatch, prefix: Prefix | None, device: torch.device) -> np.ndarray:
    batch = batch.to(device)
    if prefix is not None:
        assert batch.batch.layout is not None
        batch.batch.layout.prefix = prefix
    logprobs = _logprobs(forward(batch.batch), batch.predictor, batch.predicted)
    found: np.ndarray = np.add.reduceat(logprobs.double().cpu().numpy(), batch.starts)
    return found


def _logprobs(logits: Tensor, predictor: Tensor, predicted: Tensor) -> Tensor:
    """Log-probability in float32 of each predicted token, at its row of ``logits``."""
    at_once = max(1, _LOGITS_AT_ONCE.get(logits.device.type, 2**24) // logits.shape[1])
    normaliser = torch.cat([part.float().logsumexp(dim=1) for part in logits.split(at_once)])
    return logits[predictor, predicted].float() - normaliser[predictor]
