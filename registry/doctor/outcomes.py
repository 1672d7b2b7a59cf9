"""The answers of finished scorings, held against the digests and the scores that were recorded with them."""

from __future__ import annotations

from collections.abc import Iterator

from mlflow.entities import Run

from registry.doctor.findings import Finding, good, note, wrong
from registry.doctor.records import StudyRecords, described, with_progress
from registry.tracking.names import Artifact, Kind
from registry.tracking.outcomes import outcomes_file, outcomes_problem
from registry.tracking.recording import local_folder

__all__ = ["check_outcomes"]


def check_outcomes(records: StudyRecords, *, download: bool) -> Iterator[Finding]:
    """See that every scoring's answers are those that its run recorded; a run without a file is another's concern.

    Parameters
    ----------
    download : bool
        Fetch the files that are not on this machine; else those are left alone.
    """
    runs = [run for kind in (Kind.BASELINE, Kind.EVALUATE) for run in records.finished(kind)]
    here = [run for run in runs if download or local_folder(run.info.artifact_uri) is not None]
    problems = {run.info.run_id: _problem(records, run) for run in with_progress(here, "comparing answers")}
    places = [f"{described(run)}: {problems[run.info.run_id]}" for run in here if problems[run.info.run_id]]
    if places:
        yield wrong(
            f"the answers of {len(places):,} runs are not those that were recorded: nothing is analysed from them",
            f"put the {Artifact.SCORING} of these runs back from a backup of the artifacts",
            places=places,
        )
    elif here:
        yield good(f"the answers of {len(here):,} scorings are those that were recorded")
    if len(here) < len(runs):
        yield note("answers on the server were not compared with their digests: -P digests=true downloads them")


def _problem(records: StudyRecords, run: Run) -> str:
    with outcomes_file(records.client, run) as path:
        if path is None:
            return ""
        problem = outcomes_problem(path, run.data.tags, run.data.metrics)
    return f"{Artifact.SCORING} {problem}" if problem else ""
