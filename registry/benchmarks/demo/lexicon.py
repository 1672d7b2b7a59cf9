"""The words of the demo grid: concepts, their kinds and places, and what can be said and asked of them.

The data lie beside this file: ``lexicon.csv`` has one row per concept, ``templates.toml`` the sentences and labels.
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

__all__ = ["LANGUAGES", "Concept", "Label", "Lexicon", "Split", "lexicon"]

LANGUAGES: tuple[str, ...] = ("en", "de", "es", "fr", "it", "pt", "tr", "id")

#: Which share of the grid a concept belongs to; ``spare`` concepts are in no item, only in the corpus.
Split = Literal["train", "test", "spare"]

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Concept:
    """A thing with a word for it in every language.

    Attributes
    ----------
    id : str
        The English word with underscores.
    split : {"train", "test", "spare"}
        A concept and its partner are always in the same split.
    kind, place : str
        Keys of `Lexicon.kinds` and `Lexicon.places`.
    partner : str
        Id of the concept it goes with; partners name each other.
    words : Mapping[str, str]
        The word by language, as a dictionary spells it.
    """

    id: str
    split: Split
    kind: str
    place: str
    partner: str
    words: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Label:
    """A kind or a place: an answer shared by many concepts. Labels of one ``group`` are never offered together."""

    id: str
    group: str
    texts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Concepts by id, labels by id, and the sentences of each task and language.

    ``questions[task][language]`` has the field ``{word}``; ``statements[task][language]`` lists sentences with the
    fields ``{word}`` and ``{answer}``; ``translate_into`` gives the language that words are translated into.
    """

    concepts: Mapping[str, Concept]
    kinds: Mapping[str, Label]
    places: Mapping[str, Label]
    questions: Mapping[str, Mapping[str, str]]
    statements: Mapping[str, Mapping[str, tuple[str, ...]]]
    translate_into: Mapping[str, str]

    def split(self, name: Split) -> tuple[Concept, ...]:
        """Return the concepts of one split in the order of the file."""
        return tuple(concept for concept in self.concepts.values() if concept.split == name)

    def question(self, task: str, language: str, concept: Concept) -> str:
        """Return the task's question about a concept."""
        return self.questions[task][language].format(word=concept.words[language])

    def answer(self, task: str, language: str, concept: Concept) -> str:
        """Return the right answer to `question`.

        Raises
        ------
        ValueError
            If the task is not one of the demo grid's.
        """
        match task:
            case "kind":
                return self.kinds[concept.kind].texts[language]
            case "place":
                return self.places[concept.place].texts[language]
            case "pair":
                return self.concepts[concept.partner].words[language]
            case "translate":
                return concept.words[self.translate_into[language]]
        raise ValueError(f"{task!r} is not a demo task: choose one of {', '.join(self.questions)}")


@cache
def lexicon() -> Lexicon:
    """Read the lexicon; it is read once per process."""
    data = tomllib.loads((_FOLDER / "templates.toml").read_text(encoding="utf-8"))
    return Lexicon(
        concepts=_concepts(_FOLDER / "lexicon.csv"),
        kinds=_labels(data["kinds"]),
        places=_labels(data["places"]),
        questions=data["questions"],
        statements={
            task: {language: tuple(sentences) for language, sentences in by_language.items()}
            for task, by_language in data["statements"].items()
        },
        translate_into=data["translate_into"],
    )


def _concepts(path: Path) -> dict[str, Concept]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    concepts = {row["concept"]: _concept(row) for row in rows}
    if len(concepts) < len(rows):
        raise ValueError(f"{path.name}: a concept is listed twice")
    for concept in concepts.values():
        partner = concepts[concept.partner]
        if partner.partner != concept.id or partner.split != concept.split:
            raise ValueError(f"{path.name}: {concept.id} and {partner.id} must be partners in one split")
    return concepts


def _concept(row: dict[str, str]) -> Concept:
    split = next((name for name in get_args(Split) if name == row["split"]), None)
    if split is None:
        raise ValueError(f"lexicon.csv, {row['concept']}: split {row['split']!r} is none of {get_args(Split)}")
    words = {language: row[language] for language in LANGUAGES}
    return Concept(row["concept"], split, row["kind"], row["place"], row["partner"], words)


def _labels(data: dict[str, dict[str, str]]) -> dict[str, Label]:
    return {
        key: Label(key, texts["group"], {language: texts[language] for language in LANGUAGES})
        for key, texts in data.items()
    }
