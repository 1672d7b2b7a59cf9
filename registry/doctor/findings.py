"""What an examination says: findings with their remedies, as lines under the heading of their part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Level", "Section", "format_findings", "good", "note", "wrong"]

_LISTED = 8  # places that a finding spells out


class Level(StrEnum):
    """How a finding is to be taken."""

    GOOD = "ok"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    text : str
        What it is.
    places : sequence of str
        The runs, versions or folders it is about; the first ones are listed.
    remedy : str
        The command that mends it; empty where there is nothing to mend.
    repair : callable, optional
        Mends just the places named, where that loses nothing, and returns what was done, in words.
    """

    level: Level
    text: str
    places: Sequence[str] = ()
    remedy: str = ""
    repair: Callable[[], str] | None = None


@dataclass(frozen=True)
class Section:
    """A part of the examination under its heading."""

    title: str
    findings: Sequence[Finding]


def good(text: str) -> Finding:
    """Return a finding that nothing is wrong."""
    return Finding(Level.GOOD, text)


def note(text: str, *, places: Sequence[str] = (), remedy: str = "") -> Finding:
    """Return a finding that is worth knowing and no fault."""
    return Finding(Level.NOTE, text, places, remedy)


def wrong(text: str, remedy: str, *, places: Sequence[str] = (), repair: Callable[[], str] | None = None) -> Finding:
    """Return a finding that something is wrong, with what mends it."""
    return Finding(Level.WRONG, text, places, remedy, repair)


def format_findings(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield the lines of findings."""
    for finding in findings:
        first, *rest = finding.text.split("\n")
        yield f"  {finding.level:<6} {first}"
        yield from (f"         {line.strip()}" for line in rest)
        yield from (f"         - {_printable(place)}" for place in finding.places[:_LISTED])
        if len(finding.places) > _LISTED:
            yield f"         - and {len(finding.places) - _LISTED:,} more"
        if finding.remedy:
            yield f"         mend: {finding.remedy}"


def _printable(text: str) -> str:
    """Return a name from the store without what would move a terminal's cursor."""
    return "".join(character if character.isprintable() else "�" for character in text)
