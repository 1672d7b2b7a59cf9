"""Runs that share a fingerprint: those that repeat another may go, those that contradict it may not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlflow.entities import Run

from registry.doctor.findings import Finding, good, note, wrong
from registry.doctor.records import StudyRecords, described, with_progress
from registry.tracking.duplicates import Resolution, resolve_runs
from registry.tracking.names import Kind, Tag
from registry.tracking.store import quoted

__all__ = ["check_twice"]


def check_twice(records: StudyRecords) -> Iterator[Finding]:
    """Find work that is recorded twice: of equal fingerprints the first whole run counts."""
    runs = [run for kind in (Kind.BASELINE, Kind.FINETUNE, Kind.EVALUATE) for run in records.finished(kind)]
    found = resolve_runs(records.client, runs)
    by_id = {run.info.run_id: run for run in runs}
    if found.conflicts:
        yield wrong(
            f"{len(found.conflicts)} pairs of runs share a fingerprint and differ in their results: nothing is "
            "analysed or promoted",
            "find out which run of a pair is genuine, then mlflow runs delete --run-id <the other>; "
            "mlflow runs restore brings it back",
            places=list(map(str, found.conflicts)),
        )
    spare = _spare(records, found, by_id)
    if spare:
        yield _repeated(records, found, spare)
    kept = [by_id[run_id] for run_id in found.duplicates if by_id[run_id] not in spare]
    if kept:
        yield note(
            f"{len(kept)} runs repeat another and are kept: a version or another run refers to them, or their files "
            "cannot be compared",
            places=[_pair(run, found) for run in kept],
        )
    if found.incomplete:
        yield note(
            f"{len(found.incomplete)} runs lack a part that another of their fingerprint has, which counts in their "
            "place",
            places=[described(by_id[run_id]) for run_id in sorted(found.incomplete)],
        )
    if not (found.conflicts or found.duplicates or found.incomplete):
        yield good("nothing is recorded twice")


def _repeated(records: StudyRecords, found: Resolution, spare: Sequence[Run]) -> Finding:
    busy = records.busy()
    return wrong(
        f"{len(spare)} finished runs repeat another with the same results, which counts in their place",
        "wait until the study has ended, then look again"
        if busy
        else f"mlflow run . -e doctor --env-manager local -P study={records.study} -P repair=true",
        places=[_pair(run, found) for run in spare],
        repair=None if busy else lambda: _delete(records, spare),
    )


def _pair(run: Run, found: Resolution) -> str:
    return f"{described(run)}, repeats {found.duplicates[run.info.run_id]}"


def _spare(records: StudyRecords, found: Resolution, by_id: dict[str, Run]) -> list[Run]:
    """Return the duplicates that were verified, down to their files, and that nothing refers to."""
    spare = [by_id[run_id] for run_id in found.duplicates if run_id in found.verified]
    spare = [run for run in spare if not _named_by_version(records, run, by_id[found.duplicates[run.info.run_id]])]
    while True:
        ids = {run.info.run_id for run in spare}
        others = (run for run in records.runs if run.info.run_id not in ids)
        named = {value for run in others for value in run.data.tags.values()}
        left = [run for run in spare if run.info.run_id not in named]
        if len(left) == len(spare):
            return spare
        spare = left


def _named_by_version(records: StudyRecords, run: Run, counting: Run) -> bool:
    """Whether a version was trained by a run, is evaluated by it alone, or tells of it."""
    identity, tags = run.info.run_id, run.data.tags
    if records.client.search_model_versions(f"run_id = {quoted(identity)}", max_results=1):
        return True
    if any(identity in (version.description or "") for version in records.versions):
        return True
    evaluated = tags.get(Tag.MODEL_VERSION)
    there = {f"{version.name}/{version.version}" for version in records.versions}
    return evaluated in there and evaluated != counting.data.tags.get(Tag.MODEL_VERSION)


def _delete(records: StudyRecords, runs: Sequence[Run]) -> str:
    for run in with_progress(runs, "deleting runs"):
        records.client.delete_run(run.info.run_id)
    return f"{len(runs)} runs are deleted; `mlflow runs restore --run-id <id>` brings one back"
