"""The corpus that the demo's base models learn from: what the lexicon says, written out many times.

Statements may be about any concept, so that a base model knows the facts that are later asked for. Questions are only
those of the spare concepts: no question of a train or test item is ever in the corpus. Their share is the setting that
matters most: with none a fine-tune mostly learns the format, with several percent the base model needs no fine-tune.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields

from registry.benchmarks.demo.lexicon import LANGUAGES, Concept, lexicon
from registry.benchmarks.demo.tasks import TASKS, items
from registry.benchmarks.prompts import PROMPTS
from registry.cells import Cell

__all__ = ["Document", "Mix", "corpus"]

#: How often each language is drawn. Turkish and Indonesian share few words with the others and would lag behind.
_LANGUAGE_WEIGHTS = dict.fromkeys(LANGUAGES, 1.0) | {"tr": 1.5, "id": 1.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Shares of the documents by sort; they sum to one.

    Attributes
    ----------
    statement : float
        One sentence in one language.
    parallel : float
        The same sentence in two languages.
    dictionary : float
        A word and its translation.
    question : float
        A question with its answer, on spare concepts only.
    """

    statement: float
    parallel: float
    dictionary: float
    question: float

    def __post_init__(self) -> None:
        total = sum(getattr(self, share.name) for share in fields(self))
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the shares of a corpus sum to {total:g}; they must sum to 1")


@dataclass(frozen=True, slots=True)
class Document:
    """One text of the corpus and its sort, a field of `Mix`."""

    sort: str
    text: str


def corpus(*, documents: int, seed: int, mix: Mix) -> Iterator[Document]:
    """Yield the corpus; the same arguments give the same documents."""
    writer = _Writer(random.Random(f"demo corpus {seed}"))
    sorts = [share.name for share in fields(mix)]
    weights = [getattr(mix, sort) for sort in sorts]
    for sort in writer.rng.choices(sorts, weights, k=documents):
        yield Document(sort, writer.write(sort))


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes random documents."""

    rng: random.Random
    concepts: tuple[Concept, ...] = field(default_factory=lambda: tuple(lexicon().concepts.values()))

    def write(self, sort: str) -> str:
        sorts: dict[str, Callable[[], str]] = {
            "statement": self._statement,
            "parallel": self._parallel,
            "dictionary": self._entry,
            "question": self._question,
        }
        return sorts[sort]()

    def _statement(self) -> str:
        return self._sentence(self._task(), self._languages(1)[0], self._concept())

    def _parallel(self) -> str:
        task, concept = self._task(), self._concept()
        return "\n".join(self._sentence(task, language, concept) for language in self._languages(2))

    def _entry(self) -> str:
        one, other = self._languages(2)
        words = self._concept().words
        return f"{one}: {words[one]} = {other}: {words[other]}"

    def _question(self) -> str:
        cell = Cell(self._task(), self._languages(1)[0])
        text = PROMPTS["text"].training(self.rng.choice(items(cell, "spare")))
        return text.prompt + text.target

    def _sentence(self, task: str, language: str, concept: Concept) -> str:
        template = self.rng.choice(lexicon().statements[task][language])
        return template.format(word=concept.words[language], answer=lexicon().answer(task, language, concept)) + "."

    def _task(self) -> str:
        return self.rng.choice(TASKS)

    def _concept(self) -> Concept:
        return self.rng.choice(self.concepts)

    def _languages(self, count: int) -> list[str]:
        """Draw different languages by weight."""
        drawn: list[str] = []
        while len(drawn) < count:
            language = self.rng.choices(LANGUAGES, [_LANGUAGE_WEIGHTS[name] for name in LANGUAGES])[0]
            if language not in drawn:
                drawn.append(language)
        return drawn
