"""One multiple-choice question, the same id in every language."""

from __future__ import annotations

from dataclasses import dataclass

from registry.benchmarks.texts import fold_text, is_visible, normalize_text

__all__ = ["Item"]


@dataclass(frozen=True, slots=True)
class Item:
    """A question with its options; items that translate each other share their ``id``.

    Raises
    ------
    ValueError
        If the question or an option has nothing to be seen, fewer than two options are given, two are equal or look it,
        or ``answer`` is no index of them.
    """

    id: str
    question: str
    options: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        if not is_visible(self.question):
            raise ValueError(f"item {self.id!r}: the question is empty")
        if len(self.options) < 2:
            raise ValueError(f"item {self.id!r}: {len(self.options)} option(s); a choice needs at least two")
        if not all(map(is_visible, self.options)):
            raise ValueError(f"item {self.id!r}: an option is empty")
        if len(set(map(normalize_text, self.options))) < len(self.options):
            same = "" if len(set(self.options)) < len(self.options) else " but for characters that look the same"
            raise ValueError(f"item {self.id!r}: two options are equal{same}")
        if not 0 <= self.answer < len(self.options):
            count = len(self.options)
            raise ValueError(f"item {self.id!r}: answer {self.answer} is not an index of its {count} options")

    @property
    def content(self) -> tuple[str, frozenset[str]]:
        """What makes items one question, whatever their ids, the order of their options and how Unicode spells them."""
        return fold_text(self.question), frozenset(map(fold_text, self.options))
