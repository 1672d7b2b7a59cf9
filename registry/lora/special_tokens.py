"""Texts to token ids with the special tokens that a tokenizer puts before them, without those that it appends.

A model is asked what follows a text, so a token that ends the text must not follow it: a continuation behind it
would lose its first token to it, and an option of one token would be the end token alone, the same for every option.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

__all__ = ["appended_tokens", "encode_texts"]

#: Something in several scripts: whatever a tokenizer has no token for, and drops, the rest is encoded.
_PROBE = "a 1 я α अ ا 字"


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Encode texts, in order; one that spells out the token that texts begin with gets no second one."""
    beginning = _beginning(tokenizer)
    encoded: list[list[int]] = [[] for _ in texts]
    for begun in (False, True):
        places = [
            place for place, text in enumerate(texts) if begun is (beginning is not None and text.startswith(beginning))
        ]
        if not places:
            continue
        found = tokenizer([texts[place] for place in places], add_special_tokens=not begun, return_attention_mask=False)
        end = _appended(tokenizer, special=not begun)
        for place, ids in zip(places, found["input_ids"], strict=True):
            encoded[place] = ids[: len(ids) - len(end)] if end and tuple(ids[-len(end) :]) == end else ids
    return encoded


def appended_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the tokens that a tokenizer appends to every text, such as ``</s>``; most append none."""
    return _appended(tokenizer, special=True)


def _appended(tokenizer: PreTrainedTokenizerBase, *, special: bool) -> tuple[int, ...]:
    whole = _ids(tokenizer, special=special)
    # Some append their tokens whatever they are asked. No special token is spelled out in the probe.
    kinds = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    start = len(whole)
    while start and whole[start - 1] in kinds:
        start -= 1
    if special:
        start = min(start, _end_of(_ids(tokenizer, special=False), whole))
    return tuple(whole[start:])


def _ids(tokenizer: PreTrainedTokenizerBase, *, special: bool) -> list[int]:
    ids: list[int] = tokenizer(_PROBE, add_special_tokens=special, return_attention_mask=False)["input_ids"]
    return ids


def _end_of(part: Sequence[int], whole: Sequence[int]) -> int:
    """Return where a part of a sequence ends in it; the sequence's own end where it is no part of it, or empty."""
    for start in range(len(whole) - len(part) + 1) if part else ():
        if list(whole[start : start + len(part)]) == list(part):
            return start + len(part)
    return len(whole)


def _beginning(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the token that texts begin with, spelled out: the end-of-text token where there is none for beginnings."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return str(tokenizer.decode(token))
    return None
