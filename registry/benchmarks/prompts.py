"""How an item is put to a model, in training and in evaluation.

Scoring follows EleutherAI's lm-evaluation-harness: the query is the context, each option a continuation behind one
space. Training texts follow "Donors and Recipients" (arXiv 2511.13368), appendix A.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from typing import Literal

from registry.benchmarks.items import Item

__all__ = ["PROMPTS", "Prompt", "Query", "TrainingText", "clean_hellaswag"]


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
    """One training example. The loss stands on the tokens of ``target``; the prompt carries none.

    An empty prompt puts the loss on the whole text, its first token too if the tokenizer begins texts with a special
    token that it is predicted from.
    """

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
        Which accuracy is the cell's score. It decides no text, and a study may choose the other one.
    cue : str
        The last line, which the answer follows; empty for none: the answer then continues the question.
    primer : str
        What stands before every scored question, a blank line between them; training texts go without it.
    trained_question, trained_cue : str
        The same as ``question`` and ``cue`` for training; empty where they are the same.
    supervised : {"target", "text"}
        Whether the loss of training stands on the target alone or on the whole text.
    """

    scored: Literal["text", "letter"] = "text"
    trained: Literal["text", "letter"] = "text"
    question: str = "Question: {question}"
    bullet: str = "{letter}) {option}"
    headline: Literal["acc", "acc_norm"] = "acc_norm"
    cue: str = "Answer:"
    primer: str = ""
    trained_question: str = ""
    trained_cue: str = ""
    supervised: Literal["target", "text"] = "target"

    def query(self, item: Item) -> Query:
        """Return the context and continuations whose log-likelihoods decide the item."""
        listed = self.scored == "letter"
        options = _letters(item) if listed else item.options
        asked = self._asked(item, self.question, self.cue, listed=listed)
        return Query(
            context=f"{self.primer}\n\n{asked}" if self.primer else asked,
            continuations=tuple(f" {option}" for option in options),
            lengths=tuple(len(option) for option in options),
            answer=item.answer,
        )

    def training(self, item: Item) -> TrainingText:
        """Return the text an adapter is fine-tuned on for this item."""
        listed = self.trained == "letter"
        options = _letters(item) if listed else item.options
        question, cue = self.trained_question or self.question, self.trained_cue or self.cue
        prompt, target = self._asked(item, question, cue, listed=listed), f" {options[item.answer]}"
        return TrainingText("", prompt + target) if self.supervised == "text" else TrainingText(prompt, target)

    def _asked(self, item: Item, question: str, cue: str, *, listed: bool) -> str:
        lines = [question.format(question=item.question)]
        if listed:
            pairs = zip(_letters(item), item.options, strict=True)
            lines += [self.bullet.format(letter=letter, option=option) for letter, option in pairs]
        return "\n".join([*lines, cue] if cue else lines)


def clean_hellaswag(text: str) -> str:
    """Return a text of HellaSwag without the marks of the pages it was taken from.

    As lm-evaluation-harness does it, in its order, for a HellaSwag context (``{activity_label}: {ctx_a} {ctx_b}``, put
    together first, ``ctx_b`` by ``str.capitalize``) and for each ending, and in its multilingual tasks also for ARC's
    questions and options and for TruthfulQA's questions, though not for TruthfulQA's choices. What is left may begin
    with a blank; it stays, since it is part of what is scored.
    """
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _letters(item: Item) -> tuple[str, ...]:
    return tuple(string.ascii_uppercase[: len(item.options)])


#: Prompt styles by the name a study file gives them. In ``continuation`` each option continues the question's text,
#: behind one space, in training and in scoring.
PROMPTS: dict[str, Prompt] = {
    "text": Prompt(),
    "continuation": Prompt(question="{question}", cue=""),
    "letter": Prompt(scored="letter", trained="letter", headline="acc"),
    "arc": Prompt(scored="text", trained="letter"),
    "hellaswag": Prompt(trained="letter", question="{question}", cue="", trained_cue="Answer:"),
    "mmlu": Prompt(
        scored="letter", trained="letter", question="{question}", bullet="{letter}. {option}", headline="acc"
    ),
    "truthfulqa": Prompt(
        question="Q: {question}",
        cue="A:",
        trained_question="Question: {question}",
        trained_cue="Answer:",
        supervised="text",
        headline="acc",
    ),
}
