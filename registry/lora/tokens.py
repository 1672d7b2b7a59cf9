"""Texts to token ids, by the conventions of lm-evaluation-harness.

The context is encoded alone, the continuation is what encoding both together adds; trailing spaces of the context move
to the continuation; special tokens are the tokenizer's default; over-long inputs lose their left side.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

__all__ = ["Continuations", "Example", "encode_examples", "encode_queries"]


@dataclass(frozen=True, slots=True)
class Continuations:
    """A context and the continuations to be scored behind it, as token ids."""

    context: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A training text as token ids; the tokens from ``supervised_from`` on carry the loss."""

    tokens: tuple[int, ...]
    supervised_from: int


def encode_queries(
    tokenizer: PreTrainedTokenizerBase, queries: Iterable[tuple[str, tuple[str, ...]]]
) -> list[Continuations]:
    """Encode (context, continuations) pairs, in order.

    Raises
    ------
    ValueError
        If a continuation adds no token to its context, or the context has none: it could not be scored.
    """
    moved = [_move_trailing_space(context, options) for context, options in queries]
    contexts = _encode(tokenizer, [context for context, _ in moved])
    wholes = iter(_encode(tokenizer, [context + option for context, options in moved for option in options]))
    encoded = []
    for ids, (context, options) in zip(contexts, moved, strict=True):
        if not ids:
            raise ValueError(f"a context without a token predicts nothing, so nothing is scored behind it: {options}")
        continuations = tuple(tuple(next(wholes)[len(ids) :]) for _ in options)
        if not all(continuations):
            raise ValueError(f"an option adds no token behind {context[-60:]!r}: {options}")
        encoded.append(Continuations(tuple(ids), continuations))
    return encoded


def encode_examples(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[tuple[str, str]], *, max_length: int
) -> list[Example]:
    """Encode (prompt, target) pairs; texts longer than ``max_length`` tokens lose their left side."""
    pairs = list(texts)
    prompts = _encode(tokenizer, [prompt for prompt, _ in pairs])
    wholes = _encode(tokenizer, [prompt + target for prompt, target in pairs])
    examples = []
    for prompt, whole, (_, target) in zip(prompts, wholes, pairs, strict=True):
        cut = max(0, len(whole) - max_length)
        start = max(1, len(prompt) - cut)  # the first token has nothing before it to be predicted from
        if start >= len(whole) - cut:
            raise ValueError(f"the training target {target!r} adds no token to its prompt")
        examples.append(Example(tuple(whole[cut:]), start))
    return examples


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(texts, return_attention_mask=False)["input_ids"] if texts else []
    return ids


def _move_trailing_space(context: str, options: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    kept = context.rstrip()
    spaces = context[len(kept) :]
    return kept, tuple(spaces + option for option in options)
