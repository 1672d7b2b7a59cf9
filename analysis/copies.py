"""What a reader must know of cells that were copies of one another when they were run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from registry.tracking.names import Tag

__all__ = ["copy_cautions", "copy_notes"]

_PREFIX = "Copies: "

_MEANING = {
    Tag.COPIED_SOURCES: "have the same training items, so adapters of one are adapters of the other",
    Tag.COPIED_TARGETS: "have the same test items, so every result on them counts once for each",
}


def copy_notes(tags: Iterable[Mapping[str, str]]) -> list[str]:
    """Return a sentence for every group of cells that the tags of runs name as copies."""
    groups = {(tag, group): None for of_run in tags for tag in _MEANING for group in of_run.get(tag, "").split()}
    return [f"{_PREFIX}{', '.join(group.split('='))} {_MEANING[tag]}." for tag, group in groups]


def copy_cautions(notes: Iterable[str]) -> list[tuple[str, str]]:
    """Return the notes on copies as cautions of the report: a title and a sentence each."""
    return [("Cells that are copies", note.removeprefix(_PREFIX)) for note in notes if note.startswith(_PREFIX)]
