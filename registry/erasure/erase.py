"""A plan of what goes, in words, and its execution, which the same command takes up again wherever it was killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
from mlflow import MlflowClient

from registry.erasure.database import erase_rows
from registry.erasure.files import Files, Journal, erase_files, files_of
from registry.erasure.inventory import Inventory, Subject, take_inventory
from registry.erasure.server import mark_deleted, remaining
from registry.errors import Refused
from registry.tracking.client import existing
from registry.tracking.names import Tag
from registry.tracking.store import is_database, sqlite_file
from registry.tuning.storage import storage_url

__all__ = ["Erasure", "plan_erasure"]

#: Folders of caches of an experiment, by its id.
Caches = Callable[[str], Iterable[Path]]


@dataclass(frozen=True)
class Erasure:
    """What is to be erased.

    Attributes
    ----------
    files
        Files that go.
    others
        Files that stay though they are named, in words.
    searches
        Searches in Optuna's storage beside the store, with the number of their trials.
    """

    client: MlflowClient
    found: Inventory
    files: list[Files]
    others: list[str]
    storage: str
    searches: dict[str, int]

    def lines(self) -> Iterator[str]:
        """Say everything that goes, each on a line, and what stays."""
        found = self.found
        aliases = _aliases(self.client, found)
        for version in found.versions:
            key = f"{version.name}/{version.version}"
            yield f"  version            {key}{aliases.get(key, '')}"
        yield from (f"  registered model   {name}" for name in found.registered)
        yield from (f"  logged model       {model}" for model in found.models)
        yield from (f"  run                {run.info.run_id}  {run.info.run_name}" for run in found.runs)
        yield from (f"  experiment         {one.name} (id {one.experiment_id})" for one in found.experiments)
        yield from (f"  files              {one.address}  ({_size(one)})" for one in self.files)
        yield from (f"  trials             {count} of search {name!r}" for name, count in self.searches.items())
        kinds = Counter(run.data.tags.get(Tag.KIND, "other") for run in found.runs)
        runs = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        total = Files("", "", sum(one.count for one in self.files), sum(one.size for one in self.files))
        yield (
            f"  in all             {len(found.versions)} versions, {len(found.registered)} registered models, "
            f"{len(found.models)} logged models, {len(found.runs)} runs{f' ({runs})' if runs else ''}, {_size(total)}"
        )
        yield from (f"  stays              {what}: {who} refers to it" for what, who in found.kept.items())
        yield from (f"  stays              {what}" for what in self.others)

    def carry_out(self) -> list[str]:
        """Erase it, and return what remains, in words."""
        uri = self.client.tracking_uri
        journal = Journal.of(uri, self.found.subject)
        listed = {(one.owner, one.address): one for one in (*journal.read(), *self.files)}
        journal.write(listed.values())
        left: list[str] = []
        if is_database(uri):
            erase_rows(uri, self.found)
        else:
            mark_deleted(self.client, self.found)
            left += remaining(self.found) if self.found.runs or self.found.models else []
        gone = {run.info.run_id for run in self.found.runs} | set(self.found.models)
        listed_now = [one for one in listed.values() if one.owner in gone or not self._is_named(one.owner)]
        failed = erase_files(self.client, listed_now)
        for name in self.searches:
            optuna.delete_study(study_name=name, storage=self.storage)
        if not failed:
            journal.end()
        return [*left, *(f"files could not be erased: {one}" for one in failed)]

    def _is_named(self, owner: str) -> bool:
        """Whether the store has a record of a run or model."""
        if not owner:
            return False
        ask: Callable[[str], object] = self.client.get_logged_model if owner.startswith("m-") else self.client.get_run
        return existing(ask, owner) is not None


def plan_erasure(client: MlflowClient, subject: Subject, caches: Caches) -> Erasure:
    """Find what is to be erased; nothing is changed.

    Parameters
    ----------
    caches
        Returns the files of this machine that keep copies of an experiment's records.

    Raises
    ------
    Refused
        If there is nothing of the name, or a process is working on it.
    """
    journal = Journal.of(client.tracking_uri, subject)
    try:
        found = take_inventory(client, subject)
    except Refused:
        if not (left := journal.read()):
            raise
        return Erasure(client, Inventory(subject), left, [], "", {})
    files, others = files_of(client, found, [path for number in found.read for path in caches(number)])
    known = {one.address for one in files}
    files += [one for one in journal.read() if one.address not in known]
    storage, searches = _searches(client, found)
    return Erasure(client, found, files, others, storage, searches)


def _searches(client: MlflowClient, found: Inventory) -> tuple[str, dict[str, int]]:
    """Find a study's searches in Optuna's storage beside the store."""
    url = storage_url(client.tracking_uri)
    file = sqlite_file(url)
    if not found.searches or found.subject.name or file is None or not file.exists():
        return "", {}
    summaries = optuna.get_all_study_summaries(storage=url)
    return url, {one.study_name: one.n_trials for one in summaries if one.study_name in found.searches}


def _aliases(client: MlflowClient, found: Inventory) -> dict[str, str]:
    """Return the aliases of the versions that go, as a remark."""
    names = {version.name for version in found.versions}
    by_version: dict[str, list[str]] = {}
    for name in names:
        for alias, number in client.get_registered_model(name).aliases.items():
            by_version.setdefault(f"{name}/{number}", []).append(alias)
    return {key: f"  (carries {', '.join(sorted(aliases))})" for key, aliases in by_version.items()}


def _size(one: Files) -> str:
    size = one.size / 1e6
    return f"{one.count:,} file{'' if one.count == 1 else 's'}, {size:,.1f} MB"
