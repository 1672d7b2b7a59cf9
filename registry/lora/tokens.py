"""Texts to token ids, by the conventions of lm-evaluation-harness.

The context is encoded alone, the continuation is what encoding both together adds; trailing spaces of the context move
to the continuation; special tokens are the tokenizer's default, but a text that spells out the token that texts begin
with gets no second one; over-long inputs lose their left side. With a chat template the context is the user's turn and
the options stand at the start of the model's, without the space that divides them from a plain context.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from registry.refusal import Refused

__all__ = [
    "Continuations",
    "Example",
    "encode_examples",
    "encode_queries",
    "input_tokens",
    "require_chat_template",
    "supervised_tokens",
]


@dataclass(frozen=True, slots=True)
class Continuations:
    """A context and the continuations to be scored behind it, as token ids."""

    context: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A training text as token ids; the tokens from ``supervised_from`` on carry the loss, ``cut`` were left out."""

    tokens: tuple[int, ...]
    supervised_from: int
    cut: int = 0


def encode_queries(
    tokenizer: PreTrainedTokenizerBase, queries: Iterable[tuple[str, tuple[str, ...]]], *, chat: bool = False
) -> list[Continuations]:
    """Encode (context, continuations) pairs, in order.

    Parameters
    ----------
    chat : bool
        Whether to put the contexts into the tokenizer's chat template.

    Raises
    ------
    Refused
        If there is no chat template to put them into.
    ValueError
        If a continuation adds no token to its context, or the context has none: it could not be scored.
    """
    asked = _as_chat(tokenizer, queries) if chat else queries
    moved = [_move_trailing_space(context, options) for context, options in asked]
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


def require_chat_template(tokenizer: PreTrainedTokenizerBase, base: str) -> None:
    """Refuse a base whose tokenizer has no chat template."""
    if not tokenizer.chat_template:
        raise Refused(f"the base {base!r} has no chat template to score with; set chat_template: false")


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
        examples.append(Example(tuple(whole[cut:]), start, cut))
    return examples


def _as_chat(
    tokenizer: PreTrainedTokenizerBase, queries: Iterable[tuple[str, tuple[str, ...]]]
) -> list[tuple[str, tuple[str, ...]]]:
    """Put contexts into the chat template and take the delimiting space off the options."""
    require_chat_template(tokenizer, tokenizer.name_or_path)
    pairs = list(queries)
    turns = [[{"role": "user", "content": context}] for context, _ in pairs]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) if turns else []
    return [
        (str(context), tuple(option.removeprefix(" ") for option in options))
        for context, (_, options) in zip(rendered, pairs, strict=True)
    ]


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    beginning = _beginning(tokenizer)
    begun = [beginning is not None and text.startswith(beginning) for text in texts]
    encoded: dict[bool, Iterator[list[int]]] = {}
    for has in set(begun):
        chosen = [text for text, there in zip(texts, begun, strict=True) if there is has]
        encoded[has] = iter(tokenizer(chosen, add_special_tokens=not has, return_attention_mask=False)["input_ids"])
    return [next(encoded[has]) for has in begun]


def _beginning(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the token that texts begin with, spelled out: the end-of-text token where there is none for beginnings."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return str(tokenizer.decode(token))
    return None


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
