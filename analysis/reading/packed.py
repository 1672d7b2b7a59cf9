"""Which questions a run answered correctly, a bit each: made from its options, and kept on this machine."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from analysis.reading.cache import CachedTable
from analysis.reading.run_record import InconsistentRunError
from registry.tracking.columns import ANSWER_COLUMNS

__all__ = ["PackedAnswers", "PackedCache", "pack"]

_VERSION = "3"
_ASKED = ["task", "language", "question"]
_QUESTIONS = pa.schema([(name, pa.string()) for name in _ASKED])
_BITS = pa.schema(
    [
        ("run", pa.string()),
        ("stamp", pa.string()),
        ("headlines", pa.string()),
        ("checked", pa.int64()),
        ("test_set", pa.string()),
        ("bits", pa.binary()),
    ]
)


@dataclass(frozen=True, slots=True)
class PackedAnswers:
    """The correctness of one run's answers.

    Attributes
    ----------
    test_set
        Digest of the questions and their order.
    bits
        One bit per question, as `numpy.packbits` has them.
    """

    test_set: str
    bits: bytes

    def correct(self, count: int) -> NDArray[np.bool_]:
        """Return the correctness of each of so many questions."""
        return np.unpackbits(np.frombuffer(self.bits, np.uint8), count=count).astype(np.bool_)


def pack(run: str, options: pa.Table, headlines: Mapping[str, str]) -> tuple[PackedAnswers, pa.Table]:
    """Return whether a run's headline accuracy counts each question as correct, and the questions in their order.

    Parameters
    ----------
    run
        What to call it in errors.
    options
        One row per question and option, with `registry.tracking.columns.ANSWER_COLUMNS`.
    headlines
        By task, ``acc`` or ``acc_norm``.

    Raises
    ------
    InconsistentRunError
        If a column or a headline is missing, or a question has not exactly one right and one chosen option.
    """
    if lacking := [name for name in ANSWER_COLUMNS if name not in options.column_names]:
        raise InconsistentRunError(f"{run}: its outcomes have no column {', '.join(lacking)}")
    tasks = _texts(options["task"])
    if unknown := sorted(set(pc.unique(tasks).to_pylist()) - set(headlines)):
        raise InconsistentRunError(f"{run} has outcomes of {', '.join(unknown)}, of which no headline score is known")
    normalised = pa.array([task for task, headline in headlines.items() if headline == "acc_norm"], pa.string())
    chosen = pc.if_else(pc.is_in(tasks, normalised), options["chosen_norm"], options["chosen"])
    names = dict(zip(_ASKED, (tasks, _texts(options["language"]), _texts(options["question"])), strict=True))
    every = pa.table({**names, "right": options["right"]})
    answered, answers = every.filter(chosen), every.filter(every["right"])
    questions = answered.select(_ASKED).combine_chunks()
    # In the order of the file: a question without a choice, or with two, makes one of them longer than the other.
    if not questions.equals(answers.select(_ASKED).combine_chunks()):
        raise InconsistentRunError(f"{run}: a question has not exactly one right and one chosen option")
    bits = np.packbits(answered["right"].to_numpy()).tobytes()
    return PackedAnswers(_digest(questions), bits), questions


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(column, pa.string())


def _digest(questions: pa.Table) -> str:
    """Return a digest of questions, from their texts and where each ends."""
    found = hashlib.sha256()
    for name in _ASKED:
        for array in questions[name].chunks:
            found.update(pc.binary_length(array).to_numpy(zero_copy_only=False).tobytes())
            whole = pa.ListArray.from_arrays(pa.array([0, len(array)], pa.int32()), array)
            found.update(pc.binary_join(whole, "")[0].as_buffer())
    return found.hexdigest()[:20]


@dataclass
class PackedCache:
    """Packed runs by name and stamp, in a folder, or with ``folder`` None in memory alone."""

    folder: Path | None
    test_sets: dict[str, pa.Table] = field(default_factory=dict)
    _rows: dict[str, tuple[str, str, int, PackedAnswers]] = field(default_factory=dict)
    _unsaved: int = 0

    def __post_init__(self) -> None:
        if self.folder is None:
            return
        for row in CachedTable(self.folder / "outcomes.parquet", _BITS, _VERSION).read().to_pylist():
            packed = PackedAnswers(row["test_set"], row["bits"])
            self._rows[row["run"]] = (row["stamp"], row["headlines"], row["checked"], packed)
        for test_set in {packed.test_set for *_, packed in self._rows.values()}:
            questions = self._file(test_set).read()
            if len(questions) and _digest(questions) == test_set:
                self.test_sets[test_set] = questions

    def find(self, run: str, stamp: str, headlines: str) -> PackedAnswers | None:
        """Return a run as it was packed, unless its file or what counts changed since, or its questions are lost."""
        row = self._rows.get(run)
        if row is None or row[:2] != (stamp, headlines) or row[3].test_set not in self.test_sets:
            return None
        packed = row[3]
        return packed if len(packed.bits) == (len(self.test_sets[packed.test_set]) + 7) // 8 else None

    def checked(self, run: str) -> int:
        """Return when a run was last read from its file, in milliseconds since the epoch; 0 for never."""
        return self._rows[run][2] if run in self._rows else 0

    def add(self, run: str, stamp: str, headlines: str, packed: PackedAnswers, questions: pa.Table) -> None:
        """Keep a run."""
        if packed.test_set not in self.test_sets:
            self.test_sets[packed.test_set] = questions
            if self.folder is not None:  # before the rows that need it
                self._file(packed.test_set).write(questions)
        self._rows[run] = (stamp, headlines, int(time.time() * 1000), packed)
        self._unsaved += 1
        if self._unsaved >= 200:
            self.save()

    def save(self) -> None:
        """Write what was added."""
        if self.folder is None or not self._unsaved:
            return
        rows = [(run, *row[:3], row[3].test_set, row[3].bits) for run, row in self._rows.items()]
        columns = list(zip(*rows, strict=True))
        table = pa.table([pa.array(column, kind.type) for column, kind in zip(columns, _BITS, strict=True)], _BITS)
        CachedTable(self.folder / "outcomes.parquet", _BITS, _VERSION).write(table)
        self._unsaved = 0

    def prune(self, wanted: Iterable[str]) -> None:
        """Forget runs that are not there any more."""
        gone = set(self._rows) - set(wanted)
        for run in gone:
            del self._rows[run]
        self._unsaved += len(gone)

    def _file(self, test_set: str) -> CachedTable:
        assert self.folder is not None
        return CachedTable(self.folder / f"questions-{test_set}.parquet", _QUESTIONS, _VERSION)
