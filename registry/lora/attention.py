"""Attention over many short sequences flat in one row, without padding and without one seeing another.

Everything but attention in a decoder works token by token, so the tokens of a batch follow one another and no work
is spent on padding. Only here are they gathered into rows. transformers takes the function under the name
:data:`NAME`; it makes no masks of its own for a name it has no mask function for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

__all__ = ["NAME", "Block", "Layout", "Prefix", "Unsupported"]

#: The implementation's name for ``set_attn_implementation``.
NAME = "donors_flat"

_PASSED = frozenset({"sliding_window", "softcap", "is_causal"})  # what it understands beyond the common arguments
_HARMLESS = frozenset({"position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states"})


class Unsupported(Exception):
    """An architecture's attention asks for something that this one does not do."""


class Prefix:
    """Keys and values of a shared beginning, layer by layer, computed once and seen by every sequence of a batch.

    Parameters
    ----------
    length : int
        Tokens.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.filled = False
        self._states: dict[tuple[nn.Module, int], tuple[Tensor, Tensor]] = {}

    def store(self, call: tuple[nn.Module, int], key: Tensor, value: Tensor) -> None:
        """Keep the keys and values, (length, heads, width) each, of a layer's n-th call in a pass."""
        self._states[call] = (key, value)

    def before(self, call: tuple[nn.Module, int], key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return a call's keys and values with those of the prefix before them."""
        first_key, first_value = self._states[call]
        return torch.cat([first_key, key]), torch.cat([first_value, value])


@dataclass(slots=True)
class Block:
    """Sequences of about one length, gathered into the rows of one tensor for attention.

    Attributes
    ----------
    rows : int64 tensor, (sequences, longest)
        Flat positions of each sequence's tokens; behind its end any position.
    positions : int64 tensor, (sequences, longest)
        Positions of these tokens in their sequences.
    segments : int64 tensor, (sequences, longest), optional
        A token sees segment 0 and its own, up to itself. None: every token sees all before it.
    """

    rows: Tensor
    positions: Tensor
    segments: Tensor | None = None
    _masks: dict[int | None, Tensor | None] = field(default_factory=dict)

    def mask(self, prefix: int, window: int | None) -> Tensor | None:
        """Return what each token sees, (sequences, 1, longest, prefix + longest); None where that is plainly causal.

        Parameters
        ----------
        prefix : int
            Tokens before every sequence, seen by all of its own.
        window : int, optional
            A token sees no other that is so many positions or more before it.
        """
        if window is not None and window >= self.rows.shape[1] + prefix:
            window = None
        if window not in self._masks:
            self._masks[window] = self._mask(prefix, window)
        return self._masks[window]

    def to(self, device: torch.device | str) -> Block:
        """Return the block on a device."""
        segments = None if self.segments is None else self.segments.to(device)
        return Block(self.rows.to(device), self.positions.to(device), segments)

    def _mask(self, prefix: int, window: int | None) -> Tensor | None:
        if window is None and self.segments is None and not prefix:
            return None
        count, longest = self.rows.shape
        own = torch.ones(longest, longest, dtype=torch.bool, device=self.rows.device).tril().expand(count, -1, -1)
        if self.segments is not None:
            # Padding carries a segment of its own: a query that sees no key at all would be not-a-number.
            key, query = self.segments[:, None, :], self.segments[:, :, None]
            own = own & ((key == query) | (key == 0))
        seen = torch.cat([own.new_ones(count, longest, prefix), own], dim=2)
        if window is not None:
            before = torch.arange(prefix, device=self.rows.device).expand(count, -1)
            places = torch.cat([before, self.positions], dim=1)
            seen = seen & (self.positions[:, :, None] - places[:, None, :] < window)
        return seen[:, None]


@dataclass(slots=True)
class Layout:
    """Where the sequences are in a flat row of tokens.

    Attributes
    ----------
    blocks : sequence of Block
        Every sequence is in one of them.
    back : int64 tensor, (tokens,)
        Where each flat token is in the blocks' rows, flattened and one block behind another.
    prefix : Prefix, optional
        What every sequence begins with. Empty, it is filled from the (single) sequence.
    windowed : bool
        Whether any attention of the passes so far was given a sliding window.
    """

    blocks: Sequence[Block]
    back: Tensor
    prefix: Prefix | None = None
    windowed: bool = False
    _calls: Counter[nn.Module] = field(default_factory=Counter)

    def begin(self) -> None:
        """Start a pass: layers are counted from their first call again."""
        self._calls.clear()

    def call(self, module: nn.Module) -> tuple[nn.Module, int]:
        """Name a layer's next call of this pass: some architectures attend more than once in a layer."""
        self._calls[module] += 1
        return module, self._calls[module]

    def to(self, device: torch.device | str) -> Layout:
        """Return the layout on a device."""
        return Layout([block.to(device) for block in self.blocks], self.back.to(device), self.prefix)


def flat_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object,
    *,
    layout: Layout | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend within each sequence of ``layout``; called by transformers' attention modules.

    Parameters
    ----------
    query : Tensor, (1, heads, tokens, width)
    key, value : Tensor, (1, key-value heads, tokens, width)

    Returns
    -------
    Tensor, (1, tokens, heads, width)

    Raises
    ------
    Unsupported
        If the module asks for something unknown (attention sinks, position biases, …), or was not given the layout.
    """
    unknown = {name for name, given in others.items() if given is not None and given is not False}
    unknown -= _PASSED | _HARMLESS
    if layout is None or unknown:
        raise Unsupported(
            f"{type(module).__name__} passes {', '.join(sorted(unknown)) or 'no layout'} to its attention"
        )
    queries, keys, values = (states[0].transpose(0, 1) for states in (query, key, value))  # (tokens, heads, width)
    before, prefix = 0, layout.prefix
    layout.windowed |= bool(others.get("sliding_window"))
    if prefix is not None:
        call = layout.call(module)
        if prefix.filled:
            before = prefix.length
            keys, values = prefix.before(call, keys, values)
        else:
            prefix.store(call, keys, values)
    found = []
    for block in layout.blocks:
        key_rows = block.rows
        if before:
            first = torch.arange(before, device=key_rows.device).expand(len(key_rows), -1)
            key_rows = torch.cat([first, key_rows + before], dim=1)
        attended = _attend(
            _gathered(queries, block.rows),
            _gathered(keys, key_rows),
            _gathered(values, key_rows),
            block.mask(before, others.get("sliding_window")),
            dropout=dropout,
            scale=scaling,
            cap=others.get("softcap"),
        )
        found.append(attended.transpose(1, 2).flatten(0, 1))
    whole = found[0] if len(found) == 1 else torch.cat(found)
    return whole.index_select(0, layout.back)[None], None


def _gathered(states: Tensor, rows: Tensor) -> Tensor:
    """Gather (tokens, heads, width) into (sequences, heads, longest, width)."""
    return states.index_select(0, rows.flatten()).view(*rows.shape, *states.shape[1:]).transpose(1, 2)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    dropout: float,
    scale: float | None,
    cap: float | None,
) -> Tensor:
    copies = query.shape[1] // key.shape[1]
    # With a mask, torch's fast kernels take grouped heads on a CPU only.
    grouped = copies > 1 and cap is None and (mask is None or query.device.type == "cpu")
    if copies > 1 and not grouped:
        key, value = key.repeat_interleave(copies, dim=1), value.repeat_interleave(copies, dim=1)
    if cap is None:
        return nn.functional.scaled_dot_product_attention(
            query, key, value, mask, dropout, is_causal=mask is None, scale=scale, enable_gqa=grouped
        )
    scores = query @ key.transpose(-1, -2) * (scale if scale is not None else query.shape[-1] ** -0.5)
    scores = torch.tanh(scores / cap) * cap  # Gemma-2's soft-capping, which torch's function does not do
    seen = mask if mask is not None else scores.new_ones(scores.shape[-2:], dtype=torch.bool).tril()
    weights = torch.softmax(scores.float().masked_fill(~seen, float("-inf")), dim=-1).to(query.dtype)
    return nn.functional.dropout(weights, dropout) @ value


AttentionInterface.register(NAME, flat_attention)
