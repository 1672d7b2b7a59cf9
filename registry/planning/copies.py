"""What is twice in a study: one base under two names, and cells that are copies of one another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from registry.benchmarks.aligned import AlignedItems
from registry.benchmarks.copies import Copies
from registry.benchmarks.splits import warn
from registry.cells import Cell
from registry.errors import Refused
from registry.models.base import Base
from registry.tracking.names import Tag

__all__ = ["check_copies", "copies_note", "copies_tags", "require_different_bases"]

_LONGEST = 4000  # characters of a tag, of which servers take 5,000 and more


def require_different_bases(bases: Iterable[Base]) -> None:
    """Refuse two names for one base: their runs would be the same.

    Raises
    ------
    Refused
        With both names.
    """
    known: dict[str, Base] = {}
    for base in bases:
        other = known.setdefault(base.revision, base)
        if other is not base:
            raise Refused(
                f"models {other.name!r} ({other.location}) and {base.name!r} ({base.location}) are the same files, so "
                "that every result of one would count as the other's; name one of them"
            )


def check_copies(items: AlignedItems, sources: Sequence[Cell], *, allowed: bool) -> None:
    """Refuse sources that are copies of one another, and warn about other cells that are.

    Parameters
    ----------
    allowed
        Whether copies may be trained on, each for itself.

    Raises
    ------
    Refused
        If two sources have the same training items and that is not allowed.
    """
    for group in items.copies["train"]:
        trained = [cell for cell in sources if cell in group]
        if len(trained) > 1 and not allowed:
            raise Refused(
                f"{_listed(trained)} have the same training items, and a copy is no second {_what(trained)}; give each "
                f"its own file or leave one out of {_what(trained)}s, or train on each by split.copies: allow"
            )
        if trained:
            warn(f"{_listed(group)} have the same training items: an adapter of one is an adapter of the other")
    for group in items.copies["test"]:
        warn(f"{_listed(group)} have the same test items: each result on them counts {len(group)} times")
    for overlap in items.overlaps:
        warn(f"{overlap}: check whether the data were translated")


def copies_tags(items: AlignedItems) -> dict[str, str]:
    """Return the tags that say which cells are copies; none where none is."""
    found = {Tag.COPIED_SOURCES: items.copies["train"], Tag.COPIED_TARGETS: items.copies["test"]}
    return {tag: _written(copies) for tag, copies in found.items() if copies}


def copies_note(items: AlignedItems) -> str:
    """Say in a run's description which cells are copies, behind a blank; nothing where none is."""
    kinds = (("training", items.copies["train"]), ("test", items.copies["test"]))
    sentences = [f" {_listed(group)} have the same {kind} items." for kind, groups in kinds for group in groups]
    return "".join(sentences)


def _written(copies: Copies) -> str:
    text = " ".join("=".join(map(str, group)) for group in copies)
    return text if len(text) <= _LONGEST else text[:_LONGEST].rpartition(" ")[0]


def _listed(cells: Sequence[Cell]) -> str:
    return f"{', '.join(map(str, cells[:-1]))} and {cells[-1]}"


def _what(cells: Iterable[Cell]) -> str:
    return "task" if len({cell.language for cell in cells}) == 1 else "language"
