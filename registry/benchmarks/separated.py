"""Separated fields: the records of a CSV or TSV file, and for which reading of its quotes a TSV file was written.

Some programs write a field as it is (``none``). Others, pandas and spreadsheets among them, put quotes around a field
that holds a separator, a quote or a line break, and double the quotes inside (``minimal``). No file says which; its
fields decide, and where they leave it open, the study has to.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from registry.config.types import Quoting

__all__ = ["RecordError", "quoting_of", "records"]

#: Characters of a field, which `csv` would otherwise limit to 131,072; its limit has to fit a C long of 32 bits.
_LONGEST = 2**31 - 1

_MODES: dict[Quoting, Literal[0, 3]] = {"minimal": csv.QUOTE_MINIMAL, "none": csv.QUOTE_NONE}

#: A field within quotes, those inside doubled; and any field of a TSV file with what ends it.
_QUOTED = re.compile(r'"[^"]*+(?:""[^"]*+)*+"')
_FIELD = re.compile(rf"({_QUOTED.pattern}(?=[\t\r\n]|\Z)|[^\t\r\n]*)(\t|\r?\n|\r|\Z)")
_NUMBER = re.compile(r"[-+]?\d*\.?\d*(?:[eE][-+]?\d+)?")


class RecordError(ValueError):
    """A record that cannot be read, from ``line`` on; where the next one starts is unknown."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


def records(text: str, *, separator: str, quoting: Quoting) -> Iterator[tuple[int, list[str]]]:
    """Yield the records that are not blank, each with its first line: a quoted field may run over several.

    Raises
    ------
    RecordError
        If quotes or line breaks are not as they must be.
    """
    csv.field_size_limit(_LONGEST)
    reader = csv.reader(io.StringIO(text), delimiter=separator, quoting=_MODES[quoting], strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise RecordError(line, f"{error}; correct the quotes or line breaks of this row") from None
        if fields is None:
            return
        spaced = next((one for one in fields if one[:1] == " " and _QUOTED.fullmatch(one.strip())), None)
        if spaced is not None and quoting == "minimal":
            raise RecordError(line, f"the space before {spaced.strip()[:40]} makes its quotes text; remove such spaces")
        if fields:
            yield line, fields


@dataclass(frozen=True, slots=True)
class _Field:
    """A field as the file has it, quotes and all, and the line on which it starts."""

    text: str
    line: int

    @property
    def quoted(self) -> bool:
        """Whether quotes mark its ends, and those inside are doubled."""
        return _QUOTED.fullmatch(self.text) is not None

    @property
    def doubled(self) -> bool:
        """Whether only a program that quotes would have written it: quotes inside are doubled, or escaped."""
        inside = self.text[1:-1]
        return (self.quoted and '""' in inside) or ('\\"' in inside and self.text[0] == self.text[-1] == '"')

    @property
    def stray(self) -> bool:
        """Whether it holds a quote that would be doubled, within quotes, if the file's program quoted at all."""
        return '"' in self.text and not self.quoted


def quoting_of(text: str) -> Quoting:
    """Tell from a TSV file's fields how it was written.

    Raises
    ------
    RecordError
        If both readings are possible and differ.
    """
    if '"' not in text:
        return "none"
    rows = list(_rows(text))
    marked = [field for row in rows for field in row if '"' in field.text]
    stray = _first(field for field in marked if field.stray)
    doubled = _first(field for field in marked if field.doubled)
    lines = [line.count("\t") for line in text.split("\n") if line.strip("\r")]
    plain_table, quoted_table = len(set(lines)) == 1, len(set(map(len, rows))) == 1
    if not plain_table:
        if quoted_table and stray:
            raise _ambiguous(stray)
        return "none" if stray or not (quoted_table or doubled) else "minimal"
    if stray or not quoted_table:
        if doubled:
            raise _ambiguous(doubled)
        return "none"
    if len(rows) != len(lines) or not (doubled or _by_column(rows)):
        raise _ambiguous(marked[0])
    return "minimal"


def _rows(text: str) -> Iterator[list[_Field]]:
    """Yield the fields of every record, as they are if quotes mark the ends of fields."""
    row: list[_Field] = []
    line = 1
    for found in _FIELD.finditer(text):
        field, end = found.groups()
        row.append(_Field(field, line))
        line += field.count("\n") + end.count("\n")
        if end == "\t":
            continue
        if len(row) > 1 or row[0].text:
            yield row
        row = []
        if found.end() == len(text):
            return


def _by_column(rows: Sequence[Sequence[_Field]]) -> bool:
    """Whether the header is within quotes, and of every column all fields but numbers are, as pandas and R do it."""
    head, *body = rows
    return all(field.quoted for field in head) and all(
        field.quoted or _NUMBER.fullmatch(field.text) for row in body for field in row
    )


def _first(fields: Iterable[_Field]) -> _Field | None:
    return next(iter(fields), None)


def _ambiguous(field: _Field) -> RecordError:
    return RecordError(
        field.line,
        f"the quotes in {field.text[:40]!r} may be text or mark a field's ends; say which in the study's task: "
        "quoting: none (they are text) or quoting: minimal (as pandas writes TSV)",
    )
