"""What a study still has to do: every job, minus what is recorded as finished under the same fingerprint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from mlflow import MlflowClient
from mlflow.entities import Run

from registry.errors import Refused
from registry.planning.experiment import Experiment, Job
from registry.tracking.names import Kind, Tag
from registry.tracking.runs import finished_by_fingerprint
from registry.tracking.store import open_store, sqlite_file, tracking_uri

__all__ = [
    "OnRecord",
    "Plan",
    "Step",
    "look_up",
    "make_plan",
    "on_record",
    "plan_beside",
    "present_store",
    "require_different_jobs",
]

#: Finished runs of each kind that a plan has, by fingerprint.
OnRecord = Mapping[Kind, Mapping[str, Run]]

_KINDS = (Kind.BASELINE, Kind.FINETUNE, Kind.EVALUATE)


class Step(StrEnum):
    """What one job has left to do."""

    BASELINE = "score the base"
    TRAIN_AND_EVALUATE = "fine-tune, record, evaluate"
    EVALUATE = "evaluate a recorded fine-tune"
    TRAIN = "fine-tune, record"

    @property
    def trains(self) -> bool:
        """Whether an adapter is trained."""
        return self in (Step.TRAIN, Step.TRAIN_AND_EVALUATE)

    @property
    def scores(self) -> bool:
        """Whether an adapter or the base is scored."""
        return self is not Step.TRAIN


@dataclass(frozen=True)
class Plan:
    """Jobs to do, in order, and how many runs of each kind are there already.

    Attributes
    ----------
    todo : tuple of (Job, Step)
    reused : mapping of Kind to int
        Finished runs that the study's fingerprints match.
    """

    todo: tuple[tuple[Job, Step], ...]
    reused: Mapping[Kind, int]

    @property
    def fine_tunes(self) -> int:
        """Fine-tunes still to be done."""
        return sum(step.trains for _, step in self.todo)

    @property
    def evaluations(self) -> int:
        """Scorings still to be done, baselines among them."""
        return sum(step.scores for _, step in self.todo)


def on_record(client: MlflowClient, experiment_id: str, *, strict: bool = True) -> OnRecord:
    """Return what an experiment has of a plan's runs.

    Parameters
    ----------
    strict : bool
        Refuse runs that share a fingerprint and differ in their results; else the first of them counts.

    Raises
    ------
    ConflictError
        If there are such runs and ``strict``.
    """
    return {kind: finished_by_fingerprint(client, experiment_id, kind, strict=strict) for kind in _KINDS}


def look_up(study: str, *, strict: bool = True) -> OnRecord:
    """Return what the store has of a study, making neither its experiment nor, where there is none, the embedded store.

    A deleted experiment has nothing, though running the study would restore it. For ``strict`` see :func:`on_record`.
    """
    client = present_store()
    experiment = None if client is None else client.get_experiment_by_name(study)
    if client is None or experiment is None:
        return {kind: {} for kind in _KINDS}
    return on_record(client, experiment.experiment_id, strict=strict)


def present_store() -> MlflowClient | None:
    """Return a client of the store; None while there is no embedded one, which is not made."""
    uri = tracking_uri()
    file = sqlite_file(uri)
    return open_store(uri) if file is None or file.exists() else None


def make_plan(
    experiment: Experiment,
    client: MlflowClient,
    experiment_id: str,
    *,
    jobs: list[Job] | None = None,
    train_only: bool = False,
    strict: bool = True,
) -> Plan:
    """Compare a study's jobs with what the store has.

    Parameters
    ----------
    jobs : list of Job, optional
        Some of the study's jobs; all of them by default.
    train_only : bool
        Leave the evaluation of each adapter out.
    strict : bool
        See :func:`on_record`.
    """
    done = on_record(client, experiment_id, strict=strict)
    return plan_beside(done, experiment.jobs() if jobs is None else jobs, train_only=train_only)


def plan_beside(done: OnRecord, jobs: Iterable[Job], *, train_only: bool = False) -> Plan:
    """Compare jobs with what is recorded.

    Raises
    ------
    Refused
        If two jobs would share a run, or a job would take the run of another source for its own.
    """
    jobs = tuple(jobs)
    require_different_jobs(jobs)
    _require_own_runs(done, jobs)
    reused = dict.fromkeys(done, 0)
    todo: list[tuple[Job, Step]] = []
    for job in jobs:
        if job.source is None:
            reused[Kind.BASELINE] += job.evaluate in done[Kind.BASELINE]
            step = None if job.evaluate in done[Kind.BASELINE] else Step.BASELINE
        else:
            trained, evaluated = job.finetune in done[Kind.FINETUNE], job.evaluate in done[Kind.EVALUATE]
            reused[Kind.FINETUNE] += trained
            reused[Kind.EVALUATE] += evaluated
            step = _left(trained, evaluated, train_only)
        if step is not None:
            todo.append((job, step))
    return Plan(tuple(todo), reused)


def _left(trained: bool, evaluated: bool, train_only: bool) -> Step | None:
    if train_only:
        return None if trained else Step.TRAIN
    if evaluated:
        return None  # an evaluation is all that an analysis needs, even if its fine-tune's run was deleted since
    if trained:
        return Step.EVALUATE
    return Step.TRAIN_AND_EVALUATE


def require_different_jobs(jobs: Iterable[Job]) -> None:
    """Refuse jobs of which two have the same fingerprint: one of them would be taken for done, and never counted.

    Raises
    ------
    Refused
        With both names.
    """
    known: dict[tuple[str, str], Job] = {}
    for job in jobs:
        for kind, mark in (("fine-tune", job.finetune), ("evaluation", job.evaluate)):
            other = known.setdefault((kind, mark), job) if mark else job
            if other is not job:
                raise Refused(
                    f"{other} and {job} are the same {kind}, so that one run would count for both; leave one of them "
                    "out of models, languages, tasks, sources or seeds"
                )


def _require_own_runs(done: OnRecord, jobs: Iterable[Job]) -> None:
    """Refuse a job whose fingerprint is that of a run of another cell, which had the same training items."""
    for job in jobs:
        for kind, mark in ((Kind.FINETUNE, job.finetune), (Kind.EVALUATE, job.evaluate)):
            run = done[kind].get(mark or "") if job.source else None
            named = run and (run.data.tags.get(Tag.SOURCE_TASK), run.data.tags.get(Tag.SOURCE_LANGUAGE))
            if run and named and None not in named and named != (job.source_cell.task, job.source_cell.language):
                raise Refused(
                    f"{job} has the training items of {'/'.join(map(str, named))}, whose {kind} run {run.info.run_id} "
                    "would count as its own; split.copies: allow gives each an adapter, or leave one out of sources"
                )
