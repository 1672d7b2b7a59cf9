"""How an item is put to a model, in training and in evaluation.

Scoring follows EleutherAI's lm-evaluation-harness: the query is the context, each option a continuation behind one
space. Training texts follow "Donors and Recipients" (arXiv 2511.13368), appendix A.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Literal

from registry.benchmarks.items import Item

__all__ = ["PROMPTS", "Prompt", "Query", "TrainingText"]


@dataclass(frozen=True, slots=True)
class Query:
    """What is scored for one item: log P(continuation | context) for each continuation.

    ``lengths`` are the options' lengths in characters without the delimiter, the divisor of ``acc_norm``.
    """

    context: str
    continuations: tuple[str, ...]
    lengths: tuple[int, ...]
    answer: int


@dataclass(frozen=True, slots=True)
class TrainingText:
    """One training example. The loss stands on the tokens of ``target``; the prompt carries none."""

    prompt: str
    target: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt style.

    Attributes
    ----------
    scored : {"text", "letter"}
        Whether an option is scored by its text or by its letter, the options then being listed in the context.
    trained : {"text", "letter"}
        The same for the target of training.
    question : str
        Template of the question line(s).
    bullet : str
        Template of one listed option.
    headline : {"acc", "acc_norm"}
        Which accuracy is the cell's score.
    """

    scored: Literal["text", "letter"] = "text"
    trained: Literal["text", "letter"] = "text"
    question: str = "Question: {question}"
    bullet: str = "{letter}) {option}"
    headline: Literal["acc", "acc_norm"] = "acc_norm"

    def query(self, item: Item) -> Query:
        """Return the context and continuations whose log-likelihoods decide the item."""
        options = _letters(item) if self.scored == "letter" else item.options
        return Query(
            context=self._context(item, listed=self.scored == "letter"),
            continuations=tuple(f" {option}" for option in options),
            lengths=tuple(len(option) for option in options),
            answer=item.answer,
        )

    def training(self, item: Item) -> TrainingText:
        """Return the text an adapter is fine-tuned on for this item."""
        options = _letters(item) if self.trained == "letter" else item.options
        return TrainingText(
            prompt=self._context(item, listed=self.trained == "letter"), target=f" {options[item.answer]}"
        )

    def _context(self, item: Item, *, listed: bool) -> str:
        lines = [self.question.format(question=item.question)]
        if listed:
            pairs = zip(_letters(item), item.options, strict=True)
            lines += [self.bullet.format(letter=letter, option=option) for letter, option in pairs]
        return "\n".join([*lines, "Answer:"])


def _letters(item: Item) -> tuple[str, ...]:
    return tuple(string.ascii_uppercase[: len(item.options)])


#: Prompt styles by the name a study file gives them.
PROMPTS: dict[str, Prompt] = {
    "text": Prompt(),
    "letter": Prompt(scored="letter", trained="letter", headline="acc"),
    "arc": Prompt(scored="text", trained="letter"),
    "mmlu": Prompt(
        scored="letter", trained="letter", question="{question}", bullet="{letter}. {option}", headline="acc"
    ),
}
