"""How token sequences are laid out in tensors: siblings behind a shared context, and flat training batches.

Both layouts put several sequences into one row, so both carry explicit positions and an explicit 4-D mask: without
one, transformers reads restarting positions as packed sequences and options would lose their context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from registry.lora.tokens import Continuations, Example

__all__ = ["FlatBatch", "SiblingBatch", "flat_batch", "sibling_batches", "windowed"]

_CONTEXT = 0  # segment of the shared context; options are 1, 2, …; padding shares the last value


@dataclass(frozen=True, slots=True)
class SiblingBatch:
    """Rows of context + option 1 + option 2 + …, and where each option's tokens are predicted.

    Attributes
    ----------
    tokens, positions, segments : int64, int64, int32 tensors, (rows, length)
    head : int64 tensor, (heads,)
        Flattened positions at which logits are needed.
    predictor, predicted : int64 tensors, (option tokens,)
        For each option token, the index into ``head`` that predicts it, and its token id.
    owner : int64 tensor, (option tokens,)
        Which sequence of ``sequences`` the token belongs to.
    sequences : tuple of (question, option)
    """

    tokens: Tensor
    positions: Tensor
    segments: Tensor
    head: Tensor
    predictor: Tensor
    predicted: Tensor
    owner: Tensor
    sequences: tuple[tuple[int, int], ...]

    def mask(self) -> Tensor:
        """Return what each token sees, (rows, 1, length, length): its context and its own segment up to itself."""
        key, query = self.segments[:, None, None, :], self.segments[:, None, :, None]
        return ((key == query) | (key == _CONTEXT)) & _causal(self.tokens.shape[1], self.tokens.device)

    def to(self, device: torch.device | str) -> SiblingBatch:
        """Return the batch on a device."""
        parts: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        parts |= {name: part.to(device) for name, part in parts.items() if isinstance(part, Tensor)}
        return SiblingBatch(**parts)


@dataclass(frozen=True, slots=True)
class FlatBatch:
    """Training examples one behind another in a single row, none seeing another.

    Attributes
    ----------
    tokens, positions : int64 tensors, (1, length)
    mask : bool tensor, (1, 1, length, length)
    head, labels : int64 tensors, (supervised tokens,)
        Positions that predict a supervised token, and that token.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    head: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True)
class _Row:
    """One row before padding: a context and some of its question's options."""

    question: int
    context: tuple[int, ...]
    options: tuple[tuple[int, tuple[int, ...]], ...]

    def __len__(self) -> int:
        # An option's last token is only predicted, never an input.
        return len(self.context) + sum(len(tokens) - 1 for _, tokens in self.options)


def sibling_batches(
    queries: Sequence[Continuations], *, tokens_per_batch: int, max_length: int
) -> Iterator[SiblingBatch]:
    """Lay questions out in padded batches of at most ``tokens_per_batch`` tokens, longest first.

    Parameters
    ----------
    max_length : int
        Longest input in tokens. A question with a longer option is split into a row per option, each cut from the
        left as lm-evaluation-harness does.
    """
    rows = sorted((row for index, query in enumerate(queries) for row in _rows(index, query, max_length)), key=len)
    rows.reverse()  # the largest batch comes first, so that too little memory shows at once
    start = 0
    while start < len(rows):
        count = max(1, tokens_per_batch // len(rows[start]))
        yield _sibling_batch(rows[start : start + count])
        start += count


def _rows(index: int, query: Continuations, max_length: int) -> list[_Row]:
    longest = len(query.context) + max(len(option) for option in query.options) - 1
    if longest <= max_length:
        return [_Row(index, query.context, tuple(enumerate(query.options)))]
    rows = []
    for number, option in enumerate(query.options):
        keep = max_length + 1 - len(option)
        if keep < 1:
            raise ValueError(f"an option of {len(option)} tokens does not fit a model of {max_length} positions")
        rows.append(_Row(index, query.context[-keep:], ((number, option),)))
    return rows


def _sibling_batch(rows: Sequence[_Row]) -> SiblingBatch:
    length = len(rows[0])
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    positions = torch.zeros(len(rows), length, dtype=torch.long)
    segments = torch.full((len(rows), length), torch.iinfo(torch.int32).max, dtype=torch.int32)
    head: list[int] = []
    predictor: list[int] = []
    predicted: list[int] = []
    owner: list[int] = []
    sequences: list[tuple[int, int]] = []
    for number, row in enumerate(rows):
        inputs, places, parts = list(row.context), list(range(len(row.context))), [_CONTEXT] * len(row.context)
        head.append(number * length + len(row.context) - 1)
        context_head = len(head) - 1
        for part, (option, ids) in enumerate(row.options, start=1):
            inner = range(len(head), len(head) + len(ids) - 1)
            head += range(number * length + len(inputs), number * length + len(inputs) + len(ids) - 1)
            predictor += [context_head, *inner]
            predicted += ids
            owner += [len(sequences)] * len(ids)
            sequences.append((row.question, option))
            inputs += ids[:-1]
            places += range(len(row.context), len(row.context) + len(ids) - 1)
            parts += [part] * (len(ids) - 1)
        tokens[number, : len(inputs)] = torch.tensor(inputs)
        positions[number, : len(inputs)] = torch.tensor(places)
        segments[number, : len(inputs)] = torch.tensor(parts, dtype=torch.int32)
    return SiblingBatch(
        tokens,
        positions,
        segments,
        head=torch.tensor(head),
        predictor=torch.tensor(predictor),
        predicted=torch.tensor(predicted),
        owner=torch.tensor(owner),
        sequences=tuple(sequences),
    )


def windowed(mask: Tensor, positions: Tensor, config: PreTrainedConfig) -> Tensor | dict[str, Tensor]:
    """Put a model's sliding window back, which an explicit mask replaces.

    Parameters
    ----------
    mask : bool tensor, (rows, 1, length, length)
    positions : int64 tensor, (rows, length)

    Returns
    -------
    Tensor, or dict of Tensor
        A mask by kind of layer, where a model has both full and sliding ones.
    """
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    layers = set(getattr(text, "layer_types", None) or ["sliding_attention"])
    if window is None or "sliding_attention" not in layers:
        return mask
    near = mask & (positions[:, None, :, None] - positions[:, None, None, :] < window)
    return {"full_attention": mask, "sliding_attention": near} if "full_attention" in layers else near


def flat_batch(examples: Sequence[Example], device: torch.device | str = "cpu") -> FlatBatch:
    """Lay examples out one behind another. Each one's last token is only a label, never an input."""
    lengths = torch.tensor([len(example.tokens) - 1 for example in examples])
    tokens = torch.tensor([token for example in examples for token in example.tokens[:-1]])
    positions = torch.cat([torch.arange(int(length)) for length in lengths])
    sequence = torch.repeat_interleave(torch.arange(len(examples)), lengths)
    starts = torch.cumsum(lengths, 0) - lengths
    head = torch.cat(
        [
            torch.arange(start + example.supervised_from - 1, start + length)
            for start, length, example in zip(starts.tolist(), lengths.tolist(), examples, strict=True)
        ]
    )
    labels = torch.tensor([token for example in examples for token in example.tokens[example.supervised_from :]])
    mask = (sequence[:, None] == sequence[None, :]) & _causal(len(tokens), "cpu")
    return FlatBatch(
        tokens[None].to(device),
        positions[None].to(device),
        mask[None, None].to(device),
        head.to(device),
        labels.to(device),
    )


def _causal(length: int, device: torch.device | str) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()
