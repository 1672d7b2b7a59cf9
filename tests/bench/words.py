"""Texts of made-up words, with as many tokens as wanted, and the tokenizer learned from them."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Sequence
from importlib.resources import files
from itertools import accumulate, islice

from transformers import PreTrainedTokenizerFast

from registry.benchmarks.demo.tokenizer import train_tokenizer

__all__ = ["Writer", "learn_tokenizer"]

#: A system turn before the user's, as the templates of Llama-3 and Qwen2.5 have it when none is given.
_CHAT = (
    "{% for message in messages %}{% if loop.first %}<|system|>\n"
    "You are an assistant who answers every question briefly and in the language in which it is asked.<|end|>\n"
    "{% endif %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_FORMS = 40_000
_CORPUS = 400_000  # words
_ONSETS = ("b", "br", "c", "ch", "d", "dr", "f", "g", "gl", "h", "j", "k", "kl", "l", "m", "n", "p", "pr", "r", "s")
_NUCLEI = ("a", "e", "i", "o", "u", "ai", "ei", "ou", "ä", "ö", "é", "á", "ı")
_CODAS = ("", "", "", "n", "r", "s", "l", "t", "nd", "st")


def learn_tokenizer(scaffold: Sequence[str], *, vocabulary: int) -> PreTrainedTokenizerFast:
    """Learn byte-level BPE from a corpus of the writer's words.

    Parameters
    ----------
    scaffold
        Texts that every prompt has, put in often enough for their words to be whole tokens, as in a real tokenizer.
    """
    forms, weights = _lexicon()
    drawn = iter(random.Random(1).choices(forms, cum_weights=weights, k=_CORPUS))
    lines = [" ".join(islice(drawn, 40)) for _ in range(_CORPUS // 40)]
    tokenizer = train_tokenizer([*lines, *([*scaffold, _CHAT] * 500)], vocabulary=vocabulary)
    if len(tokenizer) != vocabulary:
        raise RuntimeError(f"the corpus gave {len(tokenizer)} tokens, not {vocabulary}")
    tokenizer.chat_template = _CHAT
    return tokenizer


class Writer:
    """Draws texts of a wanted number of tokens; words come as often as in a natural text (Zipf)."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self._forms, self._weights = _lexicon()
        # Byte-level BPE never merges across a space: a text has the tokens of its words.
        encoded = tokenizer([f" {form}" for form in self._forms])["input_ids"]
        self._sizes = dict(zip(self._forms, map(len, encoded), strict=True))
        self.rng = random.Random(seed)

    def length(self, mean: float) -> int:
        """Draw a length in tokens: log-normal, sigma 0.5, at least 2 and at most four times the mean."""
        sigma = 0.5
        value = self.rng.lognormvariate(math.log(mean) - sigma**2 / 2, sigma)
        return int(min(max(value, 2), 4 * mean) + 0.5)

    def text(self, tokens: float) -> str:
        """Write a text of ``tokens`` tokens, give or take the last word's."""
        words: list[str] = []
        size = 0
        while size < tokens:
            (word,) = self.rng.choices(self._forms, cum_weights=self._weights)
            words.append(word)
            size += self._sizes[word]
        return " ".join(words)


def _lexicon() -> tuple[list[str], list[float]]:
    """Return word forms, the demo's own first, and cumulated weights: 1 / (rank + 10)."""
    text = (files("registry.benchmarks.demo") / "lexicon.csv").read_text(encoding="utf-8")
    rows = list(csv.reader(text.splitlines()))
    first = rows[0].index("en")
    forms = dict.fromkeys(word for row in rows[1:] for cell in row[first:] for word in cell.split())
    rng = random.Random(0)
    while len(forms) < _FORMS:
        syllables = rng.choices((1, 2, 3, 4), weights=(1, 5, 6, 2))[0]
        parts = (rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS) for _ in range(syllables))
        forms["".join(parts)] = None
    return list(forms), list(accumulate(1 / (rank + 10) for rank in range(len(forms))))
