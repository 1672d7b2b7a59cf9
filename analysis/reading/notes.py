"""What a reader must know of cells that were copies of one another when they were run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from analysis.measures.numerals import counted
from analysis.reading.run_record import Record
from registry.cells import parse_cells
from registry.tracking.names import Tag

__all__ = ["copy_cautions", "copy_notes", "cut_cautions", "cut_notes"]

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


# --- what a reader must know of questions that were longer than their base model reads


_CUT_PREFIX = "Cut questions: "
_NAMED = 5


def cut_notes(baselines: Iterable[Record]) -> list[str]:
    """Return a sentence for every base model of which questions were scored without their left side."""
    by_model = {record.tags.get(Tag.BASE_MODEL, ""): parse_cells(record.tags.get(Tag.CUT, "")) for record in baselines}
    notes = []
    for model, cut in sorted(by_model.items()):
        if cut:
            cells = ", ".join(f"{count:.0f} of {cell}" for cell, count in list(cut.items())[:_NAMED])
            more = f", and of {counted(len(cut) - _NAMED, 'other target')}" if len(cut) > _NAMED else ""
            notes.append(
                f"{_CUT_PREFIX}questions longer than {model} reads were scored without their left side: {cells}{more}."
            )
    return notes


def cut_cautions(notes: Iterable[str]) -> list[tuple[str, str]]:
    """Return these notes as cautions of the report: a title and a sentence each."""
    found = [note.removeprefix(_CUT_PREFIX) for note in notes if note.startswith(_CUT_PREFIX)]
    return [("Questions that were cut", note[0].upper() + note[1:]) for note in found]
