"""How token sequences are laid out for a model: questions with their options as siblings, and training texts.

Flat batches hold tokens one behind another with a :class:`~registry.lora.attention.Layout` that keeps sequences apart.
Row batches hold one sequence a row, padded on the right: for architectures whose attention cannot take a layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from registry.lora.attention import Block, Layout, Prefix
from registry.lora.encoding import Example
from registry.lora.shared_prefixes import Row

__all__ = ["Batch", "ScoringBatch", "examples_batch", "prefix_batch", "scoring_batch"]

_SHORTEST_IN_BLOCK = 0.75  # attention grows with the square of a block's longest sequence


@dataclass(frozen=True, slots=True)
class Batch:
    """What a model reads at once.

    Attributes
    ----------
    tokens, positions : int64 tensors, (1, tokens) where flat, (rows, longest) where in rows
    head : int64 tensor, (heads,)
        Positions, counted through the flattened tokens, at which logits are needed.
    layout : Layout, optional
        Keeps the sequences of a flat batch apart.
    padding : int64 tensor, (rows, longest), optional
        1 where a row has a token, 0 behind its end; of a batch in rows.
    """

    tokens: Tensor
    positions: Tensor
    head: Tensor
    layout: Layout | None = None
    padding: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device."""
        layout = None if self.layout is None else self.layout.to(device)
        padding = None if self.padding is None else self.padding.to(device)
        return Batch(self.tokens.to(device), self.positions.to(device), self.head.to(device), layout, padding)


@dataclass(frozen=True, slots=True)
class ScoringBatch:
    """A batch of questions, and where each option's tokens are predicted.

    Attributes
    ----------
    predictor, predicted : int64 tensors, (option tokens,)
        For each option token, the index into ``batch.head`` that predicts it, and its token id.
    starts : int64 array, (sequences,)
        Where each option's tokens begin among them.
    sequences : tuple of (question, option)
    """

    batch: Batch
    predictor: Tensor
    predicted: Tensor
    starts: np.ndarray
    sequences: tuple[tuple[int, int], ...]

    def to(self, device: torch.device | str) -> ScoringBatch:
        """Return the batch on a device."""
        return ScoringBatch(
            self.batch.to(device), self.predictor.to(device), self.predicted.to(device), self.starts, self.sequences
        )


def prefix_batch(prefix: Sequence[int]) -> Batch:
    """Lay a shared beginning out alone; run once, it fills ``layout.prefix``."""
    sequence = torch.arange(len(prefix))[None]
    layout = Layout([Block(sequence, sequence)], sequence[0], Prefix(len(prefix)))
    return Batch(torch.tensor([prefix]), sequence, sequence[0, -1:], layout)


def scoring_batch(rows: Sequence[Row], *, flat: bool = True) -> ScoringBatch:
    """Lay questions out, flat with their options as siblings, or one sequence per row of a padded tensor."""
    head: list[int] = []
    predictor: list[int] = []
    predicted: list[int] = []
    starts: list[int] = []
    sequences: list[tuple[int, int]] = []
    inputs: list[list[int]] = []
    places: list[list[int]] = []
    segments: list[list[int]] = []
    longest, base = max(map(len, rows)), 0
    for row in rows:
        first = len(row.prefix) + len(row.context)
        inputs.append(list(row.context))
        places.append(list(range(len(row.prefix), first)))
        segments.append([0] * len(row.context))
        context_head = len(head)
        head.append(base + len(row.context) - 1)
        for part, (option, ids) in enumerate(row.options, start=1):
            inner = len(ids) - 1
            starts.append(len(predicted))
            predictor += [context_head, *range(len(head), len(head) + inner)]
            predicted += ids
            sequences.append((row.question, option))
            head += range(base + len(inputs[-1]), base + len(inputs[-1]) + inner)
            inputs[-1] += ids[:-1]
            places[-1] += range(first, first + inner)
            segments[-1] += [part] * inner
        base += len(row) if flat else longest
    heads = torch.tensor(head)
    batch = _flat(inputs, places, segments, heads) if flat else _in_rows(inputs, heads)
    return ScoringBatch(
        batch, torch.tensor(predictor), torch.tensor(predicted), np.array(starts, dtype=np.int64), tuple(sequences)
    )


def examples_batch(groups: Sequence[Sequence[Example]], *, flat: bool = True) -> tuple[Batch, Tensor, list[int]]:
    """Lay training texts out, those of each adapter in a slice of its own of equal length.

    Each text's last token is only a label, never an input. Slices are filled up to the longest with tokens that
    nothing sees. In rows there is one adapter.

    Returns
    -------
    batch : Batch
    labels : int64 tensor, (supervised tokens,)
        The token to be predicted at each of ``batch.head``, adapter by adapter.
    counts : list of int
        Supervised tokens of each adapter.
    """
    texts = [example for group in groups for example in group]
    inputs = [example.tokens[:-1] for example in texts]
    if flat:
        lengths = [[len(example.tokens) - 1 for example in group] for group in groups]
        slice_length = max(map(sum, lengths))
        offsets = [
            number * slice_length + before
            for number, group in enumerate(lengths)
            for before in accumulate([0, *group[:-1]])
        ]
    else:
        longest = max(map(len, inputs))
        offsets = [number * longest for number in range(len(inputs))]
    head = [
        start + place
        for start, example in zip(offsets, texts, strict=True)
        for place in range(example.supervised_from - 1, len(example.tokens) - 1)
    ]
    labels = torch.tensor([token for example in texts for token in example.tokens[example.supervised_from :]])
    counts = [sum(len(example.tokens) - example.supervised_from for example in group) for group in groups]
    heads = torch.tensor(head)
    if not flat:
        return _in_rows(inputs, heads), labels, counts
    places = [range(len(part)) for part in inputs]
    batch = _flat(inputs, places, None, heads, offsets=offsets, length=len(groups) * slice_length)
    return batch, labels, counts


def _flat(
    inputs: Sequence[Sequence[int]],
    places: Sequence[Sequence[int]],
    segments: Sequence[Sequence[int]] | None,
    head: Tensor,
    *,
    offsets: Sequence[int] | None = None,
    length: int | None = None,
) -> Batch:
    """Lay sequences out one behind another, or from ``offsets`` on in a row of ``length`` tokens."""
    lengths = np.array([len(part) for part in inputs])
    if offsets is None:
        offsets = (np.cumsum(lengths) - lengths).tolist()
    total = length or int(lengths.sum())
    tokens, positions = np.zeros(total, dtype=np.int64), np.zeros(total, dtype=np.int64)
    back = np.zeros(total, dtype=np.int64)
    blocks: list[Block] = []
    base = 0
    for members in _by_length(lengths):
        longest = int(lengths[members[0]])
        rows, places_in = np.zeros((2, len(members), longest), dtype=np.int64)
        parts = np.full((len(members), longest), np.iinfo(np.int64).max)
        for row, number in enumerate(members):
            start, count = offsets[number], int(lengths[number])
            here = slice(start, start + count)
            tokens[here], positions[here] = inputs[number], places[number]
            end = offsets[number + 1] if number + 1 < len(offsets) else total
            # What fills up comes from the sequence itself: a broken neighbour's not-a-number would spread.
            rows[row], rows[row, :count] = start, np.arange(start, start + count)
            places_in[row, :count] = places[number]
            back[start:end], back[here] = base + row * longest, np.arange(count) + base + row * longest
            if segments is not None:
                parts[row, :count] = segments[number]
        base += len(members) * longest
        own = torch.from_numpy(parts) if segments is not None else None
        blocks.append(Block(torch.from_numpy(rows), torch.from_numpy(places_in), own))
    layout = Layout(blocks, torch.from_numpy(back))
    return Batch(torch.from_numpy(tokens)[None], torch.from_numpy(positions)[None], head, layout)


def _by_length(lengths: np.ndarray) -> list[list[int]]:
    """Divide sequences into blocks that are not padded much, the longest first."""
    blocks: list[list[int]] = []
    for number in np.argsort(-lengths, kind="stable").tolist():
        if not blocks or lengths[number] < _SHORTEST_IN_BLOCK * lengths[blocks[-1][0]]:
            blocks.append([])
        blocks[-1].append(number)
    return blocks


def _in_rows(inputs: Iterable[Sequence[int]], head: Tensor) -> Batch:
    rows = [torch.tensor(ids, dtype=torch.long) for ids in inputs]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    padding = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    positions = torch.arange(tokens.shape[1]).expand(len(rows), -1)
    return Batch(tokens, positions, head, padding=padding)
