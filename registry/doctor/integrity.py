"""A study's runs: jobs that are missing, runs of dead processes, finished runs that lack parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlflow.entities import Run

from registry.doctor.findings import Finding, good, note, wrong
from registry.doctor.lost import copy_back, found_elsewhere, restore
from registry.doctor.records import StudyRecords, described, with_progress
from registry.tracking.liveness import end_dead, is_silent, still_silent
from registry.tracking.metric_names import FINAL_LOSS, is_of
from registry.tracking.names import Artifact, Kind, Tag
from registry.tracking.recording import local_folder

__all__ = ["ExpectedRecords", "check_dead", "check_finished", "check_plan"]


@dataclass(frozen=True)
class ExpectedRecords:
    """What a study should have on record.

    Attributes
    ----------
    missing : sequence of str
        Jobs without a finished run, in words.
    fingerprints : frozenset of str or None
        Of every run that the study as it is now asks for; None where it is unknown.
    targets : int
        Targets of every scoring.
    jobs : int
        Jobs in all.
    """

    missing: Sequence[str]
    fingerprints: frozenset[str] | None
    targets: int
    jobs: int


def check_plan(records: StudyRecords, expected: ExpectedRecords, named: str) -> Iterator[Finding]:
    """Tell what of a study is missing, and what is there that the study no longer asks for."""
    command = f"mlflow run . -e study --env-manager local -P study={named}"
    if expected.missing:
        yield wrong(
            f"{len(expected.missing):,} of {expected.jobs:,} jobs have no finished run",
            command,
            places=expected.missing,
        )
    else:
        yield good(f"all {expected.jobs:,} jobs are recorded")
    if expected.fingerprints is None:
        return
    others = [
        run
        for kind in (Kind.BASELINE, Kind.FINETUNE, Kind.EVALUATE)
        for run in records.finished(kind)
        if run.data.tags.get(Tag.FINGERPRINT) not in expected.fingerprints
    ]
    if others:
        text = f"{len(others):,} finished runs are of another recipe, data set or base than the study has now"
        yield note(text, places=[described(run) for run in others])


def check_dead(records: StudyRecords) -> Iterator[Finding]:
    """Find runs that a process left RUNNING when it died."""
    verdicts = {run.info.run_id: is_silent(run) for run in records.open()}
    gone = [run for run in records.open() if verdicts[run.info.run_id]]
    silent = [run for run in records.open() if verdicts[run.info.run_id] is None and Tag.HEARTBEAT in run.data.tags]
    unknown = [
        run for run in records.open() if verdicts[run.info.run_id] is None and Tag.HEARTBEAT not in run.data.tags
    ]
    remedy = f"mlflow run . -e doctor --env-manager local -P study={records.study} -P repair=true"
    if gone:
        yield wrong(
            f"{len(gone)} runs are RUNNING and their process on this machine is gone",
            remedy,
            places=[described(run) for run in gone],
            repair=lambda: _end(records, [run for run in gone if is_silent(run)]),
        )
    if silent:
        yield wrong(
            f"{len(silent)} runs of other machines are RUNNING without a heartbeat in the last 90 seconds",
            remedy,
            places=[described(run) for run in silent],
            repair=lambda: _end(records, _watched(records, silent)),
        )
    if unknown:
        places = [described(run) for run in unknown]
        yield note(f"{len(unknown)} runs are RUNNING, their processes are unknown", places=places)
    busy = [run for run in records.open() if is_silent(run) is False]
    if busy:
        yield note(f"{len(busy)} runs are being worked on now")
    elif not (gone or silent or unknown):
        yield good("no run was left open")


def _watched(records: StudyRecords, runs: Sequence[Run]) -> list[Run]:
    """Return the runs that do not beat while they are watched: clocks of machines differ."""
    print(f"  watching {len(runs)} heartbeats for up to 45 s ...", flush=True)
    return still_silent(records.client, records.experiment.experiment_id, runs)


def _end(records: StudyRecords, runs: Sequence[Run]) -> str:
    """Mark runs as KILLED that are still RUNNING."""
    return f"{sum(end_dead(records.client, run) for run in runs)} runs are KILLED now"


def check_finished(records: StudyRecords, expected: ExpectedRecords | None) -> Iterator[Finding]:
    """Find finished runs that lack what every one of their kind has."""
    kinds = (Kind.BASELINE, Kind.FINETUNE, Kind.EVALUATE)
    runs = [run for kind in kinds for run in records.finished(kind)]
    faults = {run.info.run_id: _faults(records, run, expected) for run in with_progress(runs, "looking at runs")}
    lacking = [run for run in runs if faults[run.info.run_id]]
    if not lacking:
        yield good(f"{len(runs):,} finished baselines, fine-tunes and evaluations are whole")
        return
    yield wrong(
        f"{len(lacking):,} of {len(runs):,} finished runs lack a part",
        _remedy(records, runs, {run.info.run_id: faults[run.info.run_id] for run in lacking}),
        places=[f"{described(run)}: no {', no '.join(faults[run.info.run_id])}" for run in lacking],
    )


def _remedy(records: StudyRecords, runs: Sequence[Run], faults: Mapping[str, Sequence[str]]) -> str:
    """Say what to do about runs that lack a part: files are looked for before a run is given up."""
    root = local_folder(records.experiment.artifact_location)
    fileless = [run for run in runs if Artifact.SCORING in faults.get(run.info.run_id, ())]
    scored = [run for run in runs if run.data.tags[Tag.KIND] != Kind.FINETUNE]
    if len(fileless) == len(scored) > 1:
        return restore(root or records.experiment.artifact_location)
    folders = [local_folder(run.info.artifact_uri) for run in fileless]
    if root is not None:
        pairs = [(found_elsewhere(folder, root, Artifact.SCORING), folder) for folder in folders if folder is not None]
        if there := [(found, folder) for found, folder in pairs if found is not None]:
            return copy_back(there)
    more = ", the others likewise" if len(faults) > 1 else ""
    return (
        "restore the store and its files from a backup. Only if there is none, take the run out of the count "
        f"(mlflow runs restore brings it back): mlflow runs delete --run-id {next(iter(faults))}{more}; then "
        f"mlflow run . -e study --env-manager local -P study={records.study}"
    )


def _faults(records: StudyRecords, run: Run, expected: ExpectedRecords | None) -> list[str]:
    """Name what a finished run lacks; of runs that the study does not ask for any more only results are wanted."""
    current = expected is None or expected.fingerprints is None or _is_current(run, expected)
    found = _tags_lacking(run) if current else []
    metrics, kind = run.data.metrics, run.data.tags[Tag.KIND]
    if kind == Kind.FINETUNE:
        return found + ([] if FINAL_LOSS in metrics else ["training loss"])
    scores = sum(is_of(key, "score") for key in metrics)
    least = expected.targets if expected is not None and current else 1
    if scores < least:
        found.append(f"scores of {least - scores} targets")
    if kind == Kind.EVALUATE and sum(is_of(key, "delta") for key in metrics) < scores:
        found.append("deltas of every target")
    files = records.client.list_artifacts(run.info.run_id)
    if not any(file.path == Artifact.SCORING and file.file_size for file in files):
        found.append(Artifact.SCORING)
    return found


def _tags_lacking(run: Run) -> list[str]:
    kind = run.data.tags[Tag.KIND]
    wanted = {Tag.FINGERPRINT, Tag.BASE_MODEL}
    if kind != Kind.BASELINE:
        wanted |= {Tag.MODEL_ID, Tag.SOURCE_TASK, Tag.SOURCE_LANGUAGE, Tag.SEED}
    if kind == Kind.EVALUATE:
        wanted |= {Tag.FINETUNE_RUN, Tag.BASELINE_RUN}
    return [f"tag {tag}" for tag in sorted(wanted - run.data.tags.keys())]


def _is_current(run: Run, expected: ExpectedRecords) -> bool:
    return expected.fingerprints is not None and run.data.tags.get(Tag.FINGERPRINT) in expected.fingerprints
