"""Rows of a data set's split, read from its folder by the `datasets` library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from registry.benchmarks.hub_sources import Source
from registry.refusal import Refused

__all__ = ["LoadedRows", "load_rows"]


@dataclass(frozen=True, slots=True)
class LoadedRows:
    """The rows of a split, and its columns."""

    columns: tuple[str, ...]
    rows: tuple[Mapping[str, object], ...]


def load_rows(source: Source, folder: Path, split: str) -> LoadedRows:
    """Read a split from a data set's folder; nothing is asked of the hub.

    The library's copy in Arrow files is made anew each time: one kept from earlier would be read without anyone having
    checked it.

    Raises
    ------
    Refused
        If the folder has no such configuration or split, its files cannot be read, or rows are missing.
    """
    from datasets import load_dataset  # type: ignore[import-untyped]  # slow to import
    from datasets.exceptions import DatasetsError, SplitsVerificationError  # type: ignore[import-untyped]

    try:
        with TemporaryDirectory(ignore_cleanup_errors=True) as copy, _no_bars():
            read = {"split": split, "revision": source.revision, "cache_dir": copy, "keep_in_memory": True}
            data = load_dataset(str(folder), source.config, **read)
            return LoadedRows(tuple(data.column_names), tuple(data.to_list()))
    except SplitsVerificationError as error:
        what = f"{folder}: {source} does not have the numbers of rows that its card promises"
        raise Refused(f"{what} ({_line(error)}); a file is missing or cut: delete the folder and run again") from error
    except (DatasetsError, OSError, RuntimeError, ValueError) as error:
        raise Refused(f"{folder}: the split {split} of {source} cannot be read: {_line(error)}") from error


def _line(error: Exception) -> str:
    cause = error.__cause__ or error  # the library wraps what went wrong in "an error occurred"
    return " ".join(str(cause).split())[:300]


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the library's own progress bars, one per split and file, off the terminal."""
    import datasets

    were = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were:
            datasets.enable_progress_bars()
