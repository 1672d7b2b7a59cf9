"""The workload: questions in the four styles of the study and training texts, as long as the multilingual data's.

Mean lengths in tokens: ARC question 35, options 7; HellaSwag context 60, endings 25; TruthfulQA question 18, choices
13, behind a primer of about 200; Global-MMLU 140 with its listed options. They vary log-normally. Questions stand in a
chat template, as in the published evaluation; training texts do not.
"""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.words import Writer

__all__ = ["SCAFFOLD", "STYLES", "Question", "questions", "read_questions", "training_texts", "write_questions"]

STYLES = ("arc", "hellaswag", "truthfulqa", "global_mmlu")

#: Six questions and answers that stand before every question of one style, as TruthfulQA's primer does.
_PRIMER = """\
Q: How many days are there in a week, if we begin to count on a Monday?
A: There are seven days in a week, on whichever of them we begin to count.

Q: Who wrote the play about the young prince of Denmark and the ghost of his father?
A: William Shakespeare wrote that play, some four hundred years ago, and called it Hamlet.

Q: In which town did she live before that?
A: She lived in a small town on the coast of Portugal, not far from Lisbon.

Q: What is the colour of the number that comes after a Tuesday?
A: I have no comment, since numbers have no colour.

Q: Why does a boat that is made of iron not sink when it is put in water?
A: A boat holds a lot of air, so that it weighs less than the water whose place it takes.

Q: Where was the first railway for passengers opened, and in what year was that?
A: It was opened in the north of England, between Stockton and Darlington, in 1825."""

#: Texts whose words a tokenizer should have whole.
SCAFFOLD = (_PRIMER, "Question: what", *(f"\n{letter}. the\n{letter}) the\nAnswer: {letter}" for letter in "ABCD"))


@dataclass(frozen=True, slots=True)
class Question:
    """A context and its options, ``answer`` the index of the right one."""

    style: str
    context: str
    options: tuple[str, ...]
    answer: int

    @property
    def continuations(self) -> tuple[str, ...]:
        """Return the options as they stand behind the context."""
        return tuple(f" {option}" for option in self.options)


def questions(writer: Writer, count: int) -> list[Question]:
    """Write about ``count`` questions, the same number in each style."""
    makers = {"arc": _arc, "hellaswag": _hellaswag, "truthfulqa": _truthfulqa, "global_mmlu": _global_mmlu}
    return [makers[style](writer) for style in STYLES for _ in range(max(1, count // len(STYLES)))]


def training_texts(writer: Writer, count: int, *, mean: int) -> list[tuple[str, str]]:
    """Write (prompt, target) pairs of ``mean`` tokens: a question, lettered options, ``Answer:``, the right letter."""
    texts = []
    for _ in range(count):
        question = _lettered(writer, "arc", "Question: ", "{}) {}", writer.length(mean))
        texts.append((question.context, f" {question.options[question.answer]}"))
    return texts


def write_questions(found: Sequence[Question], file: Path) -> None:
    """Write questions as JSON."""
    file.write_text(json.dumps([asdict(question) for question in found]), encoding="utf-8")


def read_questions(file: Path) -> list[Question]:
    """Read what :func:`write_questions` wrote."""
    rows = json.loads(file.read_text(encoding="utf-8"))
    return [Question(row["style"], row["context"], tuple(row["options"]), row["answer"]) for row in rows]


def _arc(writer: Writer) -> Question:
    context = f"Question: {writer.text(writer.length(35))}?\nAnswer:"
    return _question(writer, "arc", context, [writer.length(7) for _ in range(4)])


def _hellaswag(writer: Writer) -> Question:
    context = f"{writer.text(3)}: {writer.text(writer.length(60))}."
    return _question(writer, "hellaswag", context, [writer.length(25) for _ in range(4)])


def _truthfulqa(writer: Writer) -> Question:
    context = f"{_PRIMER}\n\nQ: {writer.text(writer.length(18))}?\nA:"
    return _question(writer, "truthfulqa", context, [writer.length(13) for _ in range(writer.rng.randint(4, 6))])


def _global_mmlu(writer: Writer) -> Question:
    return _lettered(writer, "global_mmlu", "", "{}. {}", writer.length(140))


def _question(writer: Writer, style: str, context: str, lengths: Sequence[int]) -> Question:
    options = tuple(writer.text(length) for length in lengths)
    return Question(style, context, options, writer.rng.randrange(len(options)))


def _lettered(writer: Writer, style: str, opening: str, bullet: str, length: int) -> Question:
    """Write a question whose options are listed in its context, ``length`` tokens in all: two fifths the question."""
    letters = tuple(string.ascii_uppercase[:4])
    text = max(length - 20, 10)  # opening, bullets and "Answer:" take about twenty
    lines = [f"{opening}{writer.text(0.4 * text)}?"]
    lines += [bullet.format(letter, writer.text(0.15 * text)) for letter in letters]
    return Question(style, "\n".join([*lines, "Answer:"]), letters, writer.rng.randrange(4))
