"""What changed in a store behind MLflow's interface, which has no listing: its answers hold every metric of every run.

So the server is asked questions with short answers. Whether all of many runs are still there is asked by their ids, and
answered by whether the last of them exists; whether there are others, by whether one comes after as many. A run that
is resumed ends anew, which its end tells. An edit by `MlflowClient.log_metric` or ``set_tag`` leaves no trace that
could be asked for; so a few runs, drawn by chance, are read again each time, and if one differs, all are.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.store.entities import PagedList
from mlflow.utils.search_utils import SearchUtils
from tqdm import tqdm

from analysis.reading.run_record import KINDS, KnownRun, RunRecord, RunState, StoreChanges, digest, own_tags
from registry.tracking.names import Kind, Tag

__all__ = ["changes_over_api"]

_PAGE = 150
_THREADS = 4  # an MLflow server has as many processes by default
_AT_ONCE = 500  # run ids in one question
_SAMPLE = 16  # runs of a kind that are read again
_MOST_GONE = 20  # runs looked for one by one, before everything is read again


class _TooMuchError(Exception):
    """Too much has changed to look for it one by one."""


def changes_over_api(client: MlflowClient, experiment_id: str, known: Mapping[str, KnownRun]) -> StoreChanges:
    """Find what changed since the known runs were read; an edit of a finished run's metrics or tags only by chance."""
    with ThreadPoolExecutor(len(KINDS)) as kinds, ThreadPoolExecutor(_THREADS) as threads:
        store = _Store(client, experiment_id, threads, threads.submit(_counts, client, experiment_id))
        found = list(kinds.map(lambda kind: _changes(store, kind, known), KINDS))
    return StoreChanges(
        frozenset[str]().union(*(changes.gone for changes in found)),
        tuple(run for changes in found for run in changes.read),
    )


def _changes(store: _Store, kind: Kind, known: Mapping[str, KnownRun]) -> StoreChanges:
    """Return what changed in the runs of a kind."""
    of_kind = {run_id: run for run_id, run in known.items() if run.kind is kind}
    try:
        return _since(store, kind, of_kind)
    except _TooMuchError:
        found = store.all(kind)
        return StoreChanges(frozenset(of_kind) - {stated.record.run_id for stated in found}, tuple(found))


def _since(store: _Store, kind: Kind, known: Mapping[str, KnownRun]) -> StoreChanges:
    """Return what changed in the runs of a kind, if it is little."""
    if not known:
        raise _TooMuchError
    last = max(run.ended for run in known.values())
    since = store.some(kind, f"attributes.end_time > {last}")
    until = f"attributes.end_time <= {last}"
    there = sorted(set(known) - {stated.record.run_id for stated in since})  # the others were resumed
    sample = random.sample(there, min(_SAMPLE, len(there)))
    others = store.threads.submit(store.has, kind, len(there) + 1, until)
    again = store.threads.submit(store.some, kind, _among(sample)) if sample else None
    gone = store.absent(kind, there, until)
    if not store.counts.result():
        raise _TooMuchError
    if others.result() or (gone and store.has(kind, len(there) - len(gone) + 1, until)):
        raise _TooMuchError  # a run that ended before was not there: restored, or late by its machine's clock
    states = {stated.record.run_id: stated.state for stated in (again.result() if again else ())}
    if states != {run_id: known[run_id].state for run_id in sample if run_id not in gone}:
        raise _TooMuchError
    return StoreChanges(gone, tuple(since))


@dataclass(frozen=True)
class _Store:
    """The finished runs of an experiment."""

    client: MlflowClient
    experiment_id: str
    threads: ThreadPoolExecutor
    counts: Future[bool]  # whether page tokens are offsets

    def has(self, kind: Kind, number: int, condition: str) -> bool:
        """Whether there are at least so many runs."""
        return bool(self._page(kind, condition, number - 1, 1))

    def absent(self, kind: Kind, run_ids: Sequence[str], condition: str) -> frozenset[str]:
        """Return which of some runs are not there."""
        parts = [run_ids[start : start + _AT_ONCE] for start in range(0, len(run_ids), _AT_ONCE)]
        gone: set[str] = set()
        while parts:
            whole = self.threads.map(lambda part: self.has(kind, len(part), f"{condition} AND {_among(part)}"), parts)
            broken = [part for part, is_whole in zip(parts, whole, strict=True) if not is_whole]
            gone.update(part[0] for part in broken if len(part) == 1)
            if max(len(gone), len(broken)) > _MOST_GONE:
                raise _TooMuchError
            halves = ((part[: len(part) // 2], part[len(part) // 2 :]) for part in broken if len(part) > 1)
            parts = [half for pair in halves for half in pair]
        return frozenset(gone)

    def all(self, kind: Kind) -> list[RunState]:
        """Return every run, several pages at once where they can be asked for by their places."""
        if not self.counts.result():
            return self.some(kind, "")
        found: dict[str, RunState] = {}
        with tqdm(desc=f"reading {kind} runs", unit=" runs", file=sys.stderr, delay=2, leave=False) as progress:
            start, more = 0, True
            while more:
                starts = range(start, start + _THREADS * _PAGE, _PAGE)
                for page in self.threads.map(lambda place: self._stated(kind, place), starts):
                    found |= {stated.record.run_id: stated for stated in page}
                    progress.update(len(page))
                    more = len(page) == _PAGE
                start = starts[-1] + _PAGE
        return list(found.values())

    def _stated(self, kind: Kind, place: int) -> list[RunState]:
        # MLflow's own objects, one for every metric, would fill the memory and keep its collector busy.
        return [_stated(kind, run) for run in self._page(kind, "", place, _PAGE)]

    def some(self, kind: Kind, condition: str) -> list[RunState]:
        """Return the runs that fulfil a condition."""
        page = self._after(kind, condition, None, _PAGE)
        runs = list(page)
        while page.token:
            page = self._after(kind, condition, page.token, _PAGE)
            runs += page
        return [_stated(kind, run) for run in runs]

    def _page(self, kind: Kind, condition: str, offset: int, size: int) -> PagedList[Run]:
        return self._after(kind, condition, _offset(offset) if offset else None, size)

    def _after(self, kind: Kind, condition: str, token: str | None, size: int) -> PagedList[Run]:
        return self.client.search_runs(
            [self.experiment_id],
            f"tags.{Tag.KIND} = '{kind}' AND attributes.status = 'FINISHED'" + (condition and f" AND {condition}"),
            max_results=size,
            # Of the oldest first, a run that ends while pages are read shifts none of them.
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )


def _counts(client: MlflowClient, experiment_id: str) -> bool:
    """Whether page tokens are offsets, as those of MLflow's own server are."""
    token = client.search_runs([experiment_id], max_results=1).token
    return not token or _offset(1) == token


def _offset(offset: int) -> str:
    """Return the page token for the runs from a place on."""
    token = SearchUtils.create_page_token(offset)
    return token.decode() if isinstance(token, bytes) else token


def _among(run_ids: Iterable[str]) -> str:
    return f"attributes.run_id IN ({', '.join(map(repr, run_ids))})"


def _stated(kind: Kind, run: Run) -> RunState:
    info, metrics = run.info, run.data.metrics
    tags = dict(sorted(own_tags(run.data.tags).items()))
    state = digest(
        "api", info.run_name, info.start_time, info.end_time, info.artifact_uri, tags, sorted(metrics.items())
    )
    record = RunRecord(info.run_id, info.run_name or "", info.status, info.start_time, tags, metrics)
    return RunState(kind, record, info.end_time or 0, info.artifact_uri, state)
