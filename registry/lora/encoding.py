"""Texts to token ids, by the conventions of lm-evaluation-harness.

The context is encoded alone, the continuation is what encoding both together adds; trailing spaces of the context move
to the continuation; special tokens before a text are the tokenizer's default, see
:mod:`registry.lora.special_tokens`; over-long inputs lose their left side. With a chat template the context is the
user's turn and the options stand at the start of the model's, without the space that divides them from a plain context.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from transformers import PreTrainedTokenizerBase

from registry.config.study import CHAT_DATE
from registry.lora.chat import render_chat
from registry.lora.special_tokens import appended_tokens, encode_texts

__all__ = [
    "Continuations",
    "Example",
    "encode_examples",
    "encode_queries",
    "indistinct_targets",
    "input_tokens",
    "supervised_tokens",
]


@dataclass(frozen=True, slots=True)
class Continuations:
    """A context and the continuations to be scored behind it, as token ids."""

    context: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]

    @property
    def scorable(self) -> bool:
        """Whether every option has a token; one without could only be given the certainty of saying nothing."""
        return all(self.options)

    @property
    def indistinct(self) -> bool:
        """Whether no model can tell all options apart: two are the same tokens, or one has none."""
        return not self.scorable or len(set(self.options)) < len(self.options)


@dataclass(frozen=True, slots=True)
class Example:
    """A training text as token ids; the tokens from ``supervised_from`` on carry the loss, ``cut`` were left out."""

    tokens: tuple[int, ...]
    supervised_from: int
    cut: int = 0


def encode_queries(
    tokenizer: PreTrainedTokenizerBase,
    queries: Iterable[tuple[str, tuple[str, ...]]],
    *,
    chat: bool = False,
    day: date = CHAT_DATE,
    keep_empty: bool = False,
) -> list[Continuations]:
    """Encode (context, continuations) pairs, in order.

    Parameters
    ----------
    chat : bool
        Whether to put the contexts into the tokenizer's chat template.
    day : date
        What a chat template takes for today.
    keep_empty : bool
        Whether a continuation may add no token to its context, as one in a script that the tokenizer drops.

    Raises
    ------
    Refused
        If there is no chat template to put them into, or it cannot be rendered.
    ValueError
        If a continuation adds no token to its context, or the context has none: it could not be scored.
    """
    asked = _as_chat(tokenizer, queries, day) if chat else queries
    moved = [_move_trailing_space(context, options) for context, options in asked]
    contexts = encode_texts(tokenizer, [context for context, _ in moved])
    wholes = iter(encode_texts(tokenizer, [context + option for context, options in moved for option in options]))
    encoded = []
    for ids, (context, options) in zip(contexts, moved, strict=True):
        if not ids:
            raise ValueError(f"a context without a token predicts nothing, so nothing is scored behind it: {options}")
        continuations = tuple(tuple(next(wholes)[len(ids) :]) for _ in options)
        if not keep_empty and not all(continuations):
            raise ValueError(f"an option adds no token behind {context[-60:]!r}: {options}")
        encoded.append(Continuations(tuple(ids), continuations))
    return encoded


def encode_examples(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[tuple[str, str]], *, max_length: int
) -> list[Example]:
    """Encode (prompt, target) pairs; texts longer than ``max_length`` tokens lose their left side.

    Raises
    ------
    ValueError
        If nothing would be learned from a text: its target adds no token to the prompt, or nothing but tokens that end
        a text.
    """
    pairs = list(texts)
    prompts = encode_texts(tokenizer, [prompt for prompt, _ in pairs])
    wholes = encode_texts(tokenizer, [prompt + target for prompt, target in pairs])
    ends = {tokenizer.eos_token_id, *appended_tokens(tokenizer)}
    examples = []
    for prompt, whole, (_, target) in zip(prompts, wholes, pairs, strict=True):
        cut = max(0, len(whole) - max_length)
        start = max(1, len(prompt) - cut)  # the first token has nothing before it to be predicted from
        if start >= len(whole) - cut:
            raise ValueError(f"the training target {target!r} adds no token to its prompt")
        if ends.issuperset(whole[cut:][start:]):
            raise ValueError(f"the training target {target!r} is nothing but tokens that end a text")
        examples.append(Example(tuple(whole[cut:]), start, cut))
    return examples


def indistinct_targets(texts: Sequence[tuple[str, str]], examples: Sequence[Example]) -> int:
    """Count the texts whose target is another text than some other's, and the same tokens to the tokenizer."""
    targets: dict[tuple[int, ...], set[str]] = {}
    supervised = [example.tokens[example.supervised_from :] for example in examples]
    for tokens, (_, target) in zip(supervised, texts, strict=True):
        targets.setdefault(tokens, set()).add(target)
    return sum(len(targets[tokens]) > 1 for tokens in supervised)


def _as_chat(
    tokenizer: PreTrainedTokenizerBase, queries: Iterable[tuple[str, tuple[str, ...]]], day: date
) -> list[tuple[str, tuple[str, ...]]]:
    """Put contexts into the chat template and take the delimiting space off the options."""
    pairs = list(queries)
    rendered = render_chat(tokenizer, [context for context, _ in pairs], day=day)
    return [
        (context, tuple(option.removeprefix(" ") for option in options))
        for context, (_, options) in zip(rendered, pairs, strict=True)
    ]


def _move_trailing_space(context: str, options: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    kept = context.rstrip()
    spaces = context[len(kept) :]
    return kept, tuple(spaces + option for option in options)


def supervised_tokens(examples: Sequence[Example]) -> int:
    """Count the tokens of examples that carry a loss."""
    return sum(len(example.tokens) - example.supervised_from for example in examples)


def input_tokens(examples: Sequence[Example]) -> int:
    """Count the tokens that a model reads of examples: all but the last, which is only predicted."""
    return sum(len(example.tokens) - 1 for example in examples)
