"""Which questions an evaluation asks. All of them today; a share of them would be another class here.

What is asked decides what is recorded, so every way but asking all has a part in the fingerprint: partial evaluations
are never taken for whole ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from registry.benchmarks.items import Item
from registry.cells import Cell

__all__ = ["ALL_QUESTIONS", "AllQuestions", "Asking"]


class Asking(Protocol):
    """A choice of questions."""

    @property
    def deciding(self) -> dict[str, Any]:
        """What of it decides scores: a part of the fingerprint of every evaluation that it is used for."""

    def choose(self, target: Cell, items: Sequence[Item]) -> Sequence[Item]:
        """Return the test items of a target that are asked, in their order."""


class AllQuestions:
    """Every test item; results recorded before there was a choice are found again."""

    deciding: dict[str, Any] = {}  # noqa: RUF012  # the protocol's attribute, never changed

    def choose(self, target: Cell, items: Sequence[Item]) -> Sequence[Item]:
        """Return all of them."""
        return items


ALL_QUESTIONS = AllQuestions()
