"""Which items a study trains on and which it tests on: drawn by a seed, or read from a manifest.

Items that translate each other share their id *within a split*: many data sets count from 0 again in each of their
files, so an id alone does not name an item; (split, id) does.
"""

from __future__ import annotations

import csv
import io
import logging
import multiprocessing
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from registry.benchmarks.items import Item
from registry.benchmarks.tables import Problems, TableRow, read_table
from registry.benchmarks.texts import cell_id
from registry.config.data import SplitSpec
from registry.errors import Refused, unknown

__all__ = ["SPLITS", "Broken", "Pools", "Split", "SplitManifest", "draw_manifest", "read_manifest", "shown", "warn"]

_log = logging.getLogger(__name__)

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

#: The items one task offers: split → language → id → item.
Pools = Mapping[Split, Mapping[str, Mapping[str, Item]]]

#: Rows of a task that are no items: split → language → id → what is wrong.
Broken = Mapping[Split, Mapping[str, Mapping[str, str]]]


@dataclass(frozen=True, slots=True)
class SplitManifest:
    """The ids of one task's training and test items, in the order in which every language has them."""

    train: tuple[str, ...]
    test: tuple[str, ...]

    def ids(self, split: Split) -> tuple[str, ...]:
        """Ids of a split."""
        return self.train if split == "train" else self.test

    def to_csv(self) -> str:
        """Return the manifest as a file that :func:`read_manifest` reads back: header ``split,id``, a row per item."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(("split", "id"))
        rows.writerows((split, id) for split in SPLITS for id in self.ids(split))
        return text.getvalue()


def shown(names: Iterable[str], limit: int = 8) -> str:
    """Return the first names of a list and how many more there are."""
    ordered = list(names)
    more = len(ordered) - limit
    return ", ".join(ordered[:limit]) + (f" and {more} more" if more > 0 else "")


def warn(text: str) -> None:
    """Warn about the data, in a study's first process alone: the workers it starts choose the same items again."""
    if multiprocessing.parent_process() is None:
        _log.warning(text)


def draw_manifest(task: str, pools: Pools, spec: SplitSpec, *, one_pool: bool = False) -> SplitManifest:
    """Draw a task's items from the ids that every language has.

    The ids of a split are sorted as texts, shuffled by ``random.Random(spec.seed)``, and the first ones taken: the same
    on every machine, whatever the order in the files, and a smaller draw is the beginning of a larger one.

    Parameters
    ----------
    one_pool : bool
        Whether both splits offer the same items; training then takes the first of the shuffled ids, test the last.

    Raises
    ------
    Refused
        If languages lack ids and ``spec.missing`` is not ``drop``, or fewer items exist than asked for.
    """
    wanted = {split: spec.count(split, task) for split in SPLITS}
    if one_pool:
        return _divide(task, _shuffled(task, pools["train"], spec), **wanted)
    ids = {split: _shuffled(f"{task} {split}", pools[split], spec) for split in SPLITS}
    return SplitManifest(**{split: _first(f"{task} {split}", ids[split], wanted[split]) for split in SPLITS})


def _shuffled(where: str, languages: Mapping[str, Mapping[str, Item]], spec: SplitSpec) -> tuple[str, ...]:
    ids = sorted(_common_ids(where, languages, spec))
    random.Random(spec.seed).shuffle(ids)
    return tuple(ids)


def _first(where: str, ids: tuple[str, ...], count: int) -> tuple[str, ...]:
    if not ids or count > len(ids):
        remedy = "ask for fewer, or 0 for all" if ids else "the languages need common ids"
        raise Refused(f"{where}: {count or 'all'} items asked for, {len(ids)} available; {remedy}")
    return ids[: count or None]


def _divide(task: str, ids: tuple[str, ...], train: int, test: int) -> SplitManifest:
    """Divide the ids of one pool; the split of which all items are asked for gets what the other leaves."""
    asked = f"{train or 'all'} to train on and {test or 'all'} to test on"
    train, test = train or len(ids) - test, test or len(ids) - train
    if not (train > 0 and test > 0 and train + test <= len(ids)):
        remedy = "give split.train or split.test, together at most as many"
        raise Refused(f"{task}: {asked} of the {len(ids)} items that both come from; {remedy}")
    return SplitManifest(ids[:train], ids[-test:])


def _common_ids(where: str, languages: Mapping[str, Mapping[str, Item]], spec: SplitSpec) -> set[str]:
    """Return the ids that every language has; a silent intersection would change the study, so it must be asked for."""
    every: set[str] = set().union(*languages.values())
    common = every.intersection(*languages.values())
    if common == every:
        return common
    lacking = {language: sorted(every - set(items)) for language, items in languages.items()}
    message = f"{where}: {len(every - common)} ids are not in every language"
    if spec.missing == "drop":
        counts = ", ".join(f"{language} {len(ids)}" for language, ids in lacking.items() if ids)
        warn(f"{message} and are left out, {len(common)} stay; lacking: {counts}")
        return common
    lines = [f"  {language} lacks {len(ids)}: {shown(ids)}" for language, ids in lacking.items() if ids]
    remedy = f"complete the files, leave languages out, or use the {len(common)} common ids by split.missing: drop"
    raise Refused("\n".join([f"{message}; {remedy}", *lines]))


def read_manifest(
    task: str, folder: Path, pools: Pools, *, broken: Broken | None = None, drop: bool = False
) -> SplitManifest:
    """Read ``<task>.csv`` of a manifest folder and hold it against what the languages have.

    Parameters
    ----------
    broken
        What is wrong with the rows that are no items.
    drop
        Whether ids that only some languages have are left out instead of refused.

    Raises
    ------
    Refused
        If the file is absent, is no table ``split,id``, names a split or id that is not there, or an id twice.
    """
    path = folder / f"{task}.csv"
    if not path.is_file():
        raise unknown("manifest", path.name, (file.name for file in folder.glob("*.csv")), where=str(folder))
    table = read_table(path)
    if table.columns != ("split", "id"):
        raise Refused(f"{path}:1: the header is {','.join(table.columns)!r}; a manifest's is 'split,id'")
    return _manifest(path, table.rows, _Offer(pools, broken or {}), drop=drop)


def _manifest(path: Path, rows: tuple[TableRow, ...], offer: _Offer, *, drop: bool) -> SplitManifest:
    problems = Problems(path)
    lines: dict[tuple[str, str], int] = {}
    dropped: list[str] = []
    for row in rows:
        split, id = (cell_id(row.values[column], column) for column in ("split", "id"))
        fault = offer.fault(split, id)
        if (split, id) in lines:
            fault = f"{split},{id} already stands in line {lines[split, id]}; delete one of them"
        elif fault and drop and offer.knows(split, id):
            dropped.append(f"{split},{id}")
            continue
        if fault:
            problems.add(row.line, fault)
        lines.setdefault((split, id), row.line)
    problems.refuse()
    if dropped:
        warn(f"{path}: {len(dropped)} items are not in every language and are left out: {shown(dropped)}")
    ids = {split: tuple(id for named, id in lines if named == split) for split in SPLITS}
    for split in SPLITS:
        if not ids[split]:
            raise Refused(f"{path}: no row has the split {split!r}; a study needs items to train on and to test on")
    return SplitManifest(**ids)


@dataclass(frozen=True, slots=True)
class _Offer:
    """The items of a task, and the rows that are none, as a manifest's rows are held against them."""

    pools: Pools
    broken: Broken

    def fault(self, split: str, id: str) -> str | None:
        """Say what is wrong with a manifest's row, if anything."""
        for name in SPLITS:
            if split == name:
                return self._lacking(name, id)
        return str(unknown("split", split, SPLITS))

    def knows(self, split: str, id: str) -> bool:
        """Whether any language has the id, as an item or as a row that is none."""
        return any(
            split == name and id in ids
            for part in (self.pools, self.broken)
            for name in SPLITS
            for ids in part.get(name, {}).values()
        )

    def _lacking(self, split: Split, id: str) -> str | None:
        languages = self.pools[split]
        for language, faults in self.broken.get(split, {}).items():
            if id in faults:
                remedy = "delete the row, or leave such rows out by split.missing: drop"
                return f"{split} item {id!r} is broken in {language}: {faults[id]}; {remedy}"
        lacking = [language for language, items in languages.items() if id not in items]
        where = "any language" if len(lacking) == len(languages) else shown(lacking)
        return f"{split} has no item {id!r} in {where}; correct the id or delete the row" if lacking else None
