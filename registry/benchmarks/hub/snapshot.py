"""Data sets of the hub on this machine: downloaded at a pinned commit, and checked by digest before they are read.

What lies in huggingface_hub's cache is not asked for again, so ``HF_HUB_OFFLINE=1`` and air-gapped machines work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from registry.benchmarks.hub.card import data_patterns, refuse_script
from registry.benchmarks.hub.digests import check_digests, commits_listed, files_of, listing
from registry.benchmarks.hub.sources import HubDataset
from registry.errors import Refused
from registry.models.hub import hub_errors

__all__ = ["LoadedRows", "load_rows", "mirrored", "snapshot"]

# Files beside the data: what `datasets` reads of them, and the scripts that it no longer runs.
_ABOUT = ("README.md", ".huggingface.yaml", "dataset_infos.json", "*.py")


def snapshot(source: HubDataset) -> Path:
    """Return the folder of a data set in huggingface_hub's cache, downloading what of it is not there.

    Only the files of the source's configuration are fetched, where the data set's card tells which they are. An
    interrupted download goes on where it stopped.

    Raises
    ------
    Refused
        If the data set cannot be downloaded, is a script, or a file's content is not what its digest says.
    """
    card = _fetched(source, _ABOUT)
    refuse_script(source, card)
    patterns = _needed(source, card)
    folder = _fetched(source, patterns)
    remedy = "delete it and run again; it will be downloaded again"
    check_digests(source, folder, patterns, trees=_trees(folder), remedy=remedy)
    return folder


def mirrored(source: HubDataset, mirror: Path) -> Path:
    """Return the folder of a data set in a mirror of the hub: ``<mirror>/<owner>/<name>``.

    Raises
    ------
    Refused
        If it is not there, is known to be another commit, is a script, or a file's content is not what its digest says.
    """
    folder = mirror / source.repository
    command = f"{_download(source)} --local-dir {folder}"
    if not folder.is_dir():
        raise Refused(f"{folder} is not there, the data set {source}; where the hub can be reached: {command}")
    refuse_script(source, folder)
    trees = folder / ".cache" / "huggingface" / "trees"
    commits = commits_listed(trees)
    if commits and source.revision not in commits:
        there = ", ".join(commit[:8] for commit in commits)
        raise Refused(f"{folder} is the data set at {there}, not {source}; put that there: {command}")
    remedy = f"delete it and put it there again: {command}"
    check_digests(source, folder, _needed(source, folder), trees=trees, remedy=remedy)
    return folder


def _needed(source: HubDataset, folder: Path) -> tuple[str, ...]:
    return (*_ABOUT, *data_patterns(source, folder))


def _trees(snapshot: Path) -> Path:
    """Where huggingface_hub's cache keeps the listings of a repository's commits."""
    return snapshot.parents[1] / "trees"


def _download(source: HubDataset) -> str:
    return f"hf download --repo-type dataset {source.repository} --revision {source.revision}"


def _fetched(source: HubDataset, patterns: tuple[str, ...]) -> Path:
    """Return the snapshot's folder with the files that match; the hub is asked only if some are not there."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted: dict[str, Any] = {
        "repo_id": source.repository,
        "repo_type": "dataset",
        "revision": source.revision,
        "allow_patterns": list(patterns),
    }
    try:
        folder = Path(snapshot_download(**wanted, local_files_only=True))
        if _complete(source, folder, patterns):
            return folder
    except LocalEntryNotFoundError:
        pass  # nothing of it is there, or not all
    page = f"{constants.ENDPOINT}/datasets/{source.repository}"
    remedy = f"see {page}, or name the folder of a mirror by benchmark.path: {_download(source)} --local-dir <folder>"
    with hub_errors(str(source), revision=source.revision, remedy=remedy):
        folder = Path(snapshot_download(**wanted))
        if not _complete(source, folder, patterns):  # offline, the folder is returned as it is
            raise FileNotFoundError(f"{folder} is not complete")
        return folder


def _complete(source: HubDataset, folder: Path, patterns: tuple[str, ...]) -> bool:
    """Whether a cached snapshot has all files asked for: by the commit's listing, or, without one, some for each."""
    if listing(_trees(folder), source.revision) is not None:
        return True  # huggingface_hub has compared them
    names = [name for name, _ in files_of(folder, ("*",))]
    needed = [pattern for pattern in patterns if pattern not in _ABOUT] or ["README.md"]
    return all(any(fnmatchcase(name, pattern) for name in names) for pattern in needed)


# --- rows of a data set's split, read from its folder by the `datasets` library


@dataclass(frozen=True, slots=True)
class LoadedRows:
    """The rows of a split, and its columns."""

    columns: tuple[str, ...]
    rows: tuple[Mapping[str, object], ...]


def load_rows(source: HubDataset, folder: Path, split: str) -> LoadedRows:
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
