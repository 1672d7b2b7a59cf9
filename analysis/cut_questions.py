"""What a reader must know of questions that were longer than their base model reads."""

from __future__ import annotations

from collections.abc import Iterable

from analysis.numerals import counted
from analysis.recorded import Record
from registry.tracking.evaluations import parse_cells
from registry.tracking.names import Tag

__all__ = ["cut_cautions", "cut_notes"]

_PREFIX = "Cut questions: "
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
                f"{_PREFIX}questions longer than {model} reads were scored without their left side: {cells}{more}."
            )
    return notes


def cut_cautions(notes: Iterable[str]) -> list[tuple[str, str]]:
    """Return these notes as cautions of the report: a title and a sentence each."""
    found = [note.removeprefix(_PREFIX) for note in notes if note.startswith(_PREFIX)]
    return [("Questions that were cut", note[0].upper() + note[1:]) for note in found]
