"""Tables on disk: JSON lines, TSV and CSV read into rows that know their line.

Everything wrong with a file is reported with its line, several faults at once. No row is skipped; only blank lines are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from registry.benchmarks.separated import RecordError, quoting_of, records
from registry.benchmarks.texts import is_visible, normalize_text
from registry.config.types import Quoting
from registry.errors import Refused

__all__ = ["Problems", "Table", "TableRow", "read_table"]

#: Faults of one file that are spelled out; the rest is counted.
SHOWN = 10


class Problems:
    """The faults found in one file, collected so that a user sees more than the first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: list[str] = []

    def add(self, line: int, what: object) -> None:
        """Note what is wrong on a line, counted from 1."""
        self._found.append(f"{self.path}:{line}: {what}")

    def refuse(self) -> None:
        """Raise what was found, if anything was.

        Raises
        ------
        Refused
            With one line per fault, cut after the first ten.
        """
        more = len(self._found) - SHOWN
        if self._found:
            raise Refused("\n".join([*self._found[:SHOWN], *([f"and {more} more such lines"] if more > 0 else [])]))


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row: column → value, and the line of the file (from 1) on which it starts.

    Columns go by their names as :func:`registry.benchmarks.texts.normalize_text` makes them.
    """

    line: int
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a file, and every column that any of them has, in the order met."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]


def read_table(path: Path, *, quoting: Quoting | None = None) -> Table:
    """Read a ``.jsonl``, ``.tsv`` or ``.csv`` file in UTF-8, with or without a byte-order mark.

    Parameters
    ----------
    quoting
        How quotes in separated fields are read. By default CSV quotes as RFC 4180 says, and a TSV file's own fields
        decide; see :mod:`registry.benchmarks.separated`.

    Raises
    ------
    Refused
        If the file cannot be read, is not UTF-8, holds no rows, has lines that are no rows of one table, or quotes that
        may be text or not.
    """
    text, problems = _text(path), Problems(path)
    if path.suffix not in (".jsonl", ".tsv", ".csv"):
        raise Refused(f"{path}: a file of items ends in .jsonl, .tsv or .csv")
    if path.suffix == ".jsonl":
        rows = tuple(_json_rows(text, problems))
    else:
        rows = tuple(_separated_rows(text, "\t" if path.suffix == ".tsv" else ",", quoting, problems))
    problems.refuse()
    if not rows:
        raise Refused(f"{path} holds no rows; put the data there again, the file may have been cut on its way")
    return Table(path, tuple(dict.fromkeys(column for row in rows for column in row.values)), rows)


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        remedy = "save it as UTF-8, for example: iconv -f <its encoding> -t UTF-8"
        raise Refused(f"{path}:{line}: not UTF-8 (byte {raw[error.start]:#04x}); {remedy}") from None


def _json_rows(text: str, problems: Problems) -> Iterator[TableRow]:
    # Not str.splitlines: it also breaks at U+2028 and U+0085, which may stand inside a text.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            values = json.loads(content.lstrip("\ufeff"), object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            problems.add(line, f'not JSON ({error}); each line holds one object, such as {{"id": 1, …}}')
            continue
        if isinstance(values, dict):
            named = [normalize_text(column) for column in values]
            if len(set(named)) < len(named):
                problems.add(line, "two columns have names that look the same; name each once")
            yield TableRow(line, dict(zip(named, values.values(), strict=True)))
        else:
            problems.add(line, f"a JSON {type(values).__name__}, not an object; each line holds {{column: value, …}}")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return found


def _separated_rows(text: str, separator: str, quoting: Quoting | None, problems: Problems) -> Iterator[TableRow]:
    try:
        found = quoting or ("minimal" if separator == "," else quoting_of(text))
        yield from _rows(records(text, separator=separator, quoting=found), problems)
    except RecordError as error:
        problems.add(error.line, error)


def _rows(records: Iterator[tuple[int, list[str]]], problems: Problems) -> Iterator[TableRow]:
    head, columns = next(records, (1, []))
    columns = [normalize_text(column) for column in columns]
    for column in dict.fromkeys(columns):
        if not is_visible(column) or columns.count(column) > 1:
            problems.add(head, f"the header names column {column!r} {columns.count(column)} time(s); name each once")
    for line, fields in records:
        if len(fields) == len(columns):
            yield TableRow(line, dict(zip(columns, fields, strict=True)))
        else:
            remedy = "look for a separator too few or too many"
            problems.add(line, f"{len(fields)} column(s) where the header has {len(columns)}; {remedy}")
