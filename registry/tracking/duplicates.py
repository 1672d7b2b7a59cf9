"""Which run counts where several have one fingerprint: the first whole one, if their results are the same.

A fingerprint says what decides a result. Two finished runs of one kind in one experiment that share it hold the same
result twice, as two runners may that began the same job, or one of them is not what it says. So the first to have
finished counts, whoever comes later, and runs that differ in their results are a conflict, which only a person can
settle. Every reader of runs asks here: plans, analyses, `pull`, `promote`, `doctor`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run

from registry.errors import Refused
from registry.tracking import metric_names
from registry.tracking.client import existing
from registry.tracking.names import Artifact, Kind, Tag
from registry.tracking.outcomes import same_outcomes

__all__ = [
    "Conflict",
    "ConflictError",
    "Resolution",
    "Result",
    "by_age",
    "refuse_conflicts",
    "resolve",
    "resolve_runs",
    "result_values",
    "same_results",
    "shared_fingerprints",
]

#: Quantities on targets that are results of a scoring.
_ON_TARGETS = ("score", "acc", "acc_norm", "chance")
#: Metrics that are results of a training.
_OF_TRAINING = (metric_names.FINAL_LOSS, metric_names.KEPT_EPOCH, metric_names.VALIDATION_LOSS)
#: Tags that say what was trained or scored.
_SUBJECT = (Tag.BASE_MODEL, Tag.BASE_REVISION, Tag.SOURCE_TASK, Tag.SOURCE_LANGUAGE, Tag.SEED)
_LISTED = 5


def by_age(started: Mapping[str, int]) -> list[str]:
    """Return run ids, the oldest first: where runs of different fingerprints measured the same, the newest counts.

    Parameters
    ----------
    started
        By run, milliseconds since the epoch; of runs that started in the same millisecond the id decides.
    """
    return sorted(started, key=lambda run_id: (started[run_id], run_id))


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run, as far as it tells which of equal fingerprints counts.

    Attributes
    ----------
    started, ended
        Milliseconds since the epoch.
    values
        Result metrics by name, see :func:`result_values`.
    """

    run_id: str
    kind: str
    started: int
    ended: int
    tags: Mapping[str, str] = field(hash=False)
    values: Mapping[str, float] = field(hash=False)

    @property
    def fingerprint(self) -> str:
        """What decided the result; empty for a run that does not say."""
        return self.tags.get(Tag.FINGERPRINT, "")

    @property
    def whole(self) -> bool:
        """Whether the run has what every finished run of its kind records."""
        if self.kind == Kind.FINETUNE:
            return Tag.MODEL_ID in self.tags
        scores = sum(metric_names.is_of(name, "score") for name in self.values)
        deltas = sum(metric_names.is_of(name, "delta") for name in self.values)
        return scores > 0 and (self.kind != Kind.EVALUATE or deltas >= scores)

    def lacks_part_of(self, other: Result) -> bool:
        """Whether another run has all of this one's values, and more."""
        return len(self.values) < len(other.values) and all(
            name in other.values and _equal(value, other.values[name]) for name, value in self.values.items()
        )


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two finished runs of one kind and fingerprint, and in what their results differ."""

    kind: str
    first: str
    second: str
    difference: str

    def __str__(self) -> str:
        return f"{self.kind} runs {self.first} and {self.second} share a fingerprint and differ: {self.difference}"


class ConflictError(Refused):
    """Runs of one fingerprint contradict each other."""


@dataclass(frozen=True)
class Resolution:
    """Which runs count.

    Attributes
    ----------
    counting
        Ids of the runs that count.
    duplicates
        Runs that repeat another, by their id the one that counts in their place.
    verified
        Those of the duplicates whose files were compared too, and are the same.
    incomplete
        Runs that lack a part of what another of their fingerprint has.
    conflicts
        Of a conflict the first run is among ``counting``, so that what must not stop can go on.
    """

    counting: frozenset[str] = frozenset()
    duplicates: Mapping[str, str] = field(default_factory=dict)
    verified: frozenset[str] = frozenset()
    incomplete: frozenset[str] = frozenset()
    conflicts: tuple[Conflict, ...] = ()


#: Whether the files of two runs hold the same; None where that is unknown.
SameFiles = Callable[[Result, Result], bool | None]


def result_values(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that are results, and not how long or on what a run worked, nor means of others."""
    found = {name: value for name, value in metrics.items() if name in _OF_TRAINING}
    for name, value in metrics.items():
        if metric_names.parse_delta(name) or any(metric_names.parse_cell(name, quantity) for quantity in _ON_TARGETS):
            found[name] = value
    return found


def shared_fingerprints(fingerprints: Iterable[str]) -> frozenset[str]:
    """Return the fingerprints that occur more than once; an empty one is none."""
    return frozenset(found for found, count in Counter(fingerprints).items() if found and count > 1)


def resolve(results: Iterable[Result], same_files: SameFiles = lambda _first, _second: None) -> Resolution:
    """Decide which runs count: of each kind and fingerprint the first to have finished that is whole.

    Where none is whole the first of all counts, as does every run that names no fingerprint.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.kind, result.fingerprint or f"run {result.run_id}"), []).append(result)
    counting, duplicates, incomplete = set[str](), dict[str, str](), set[str]()
    verified, conflicts = set[str](), list[Conflict]()
    for group in groups.values():
        whole = [one for one in group if one.whole and not any(one.lacks_part_of(other) for other in group)]
        first, *others = sorted(whole or group, key=lambda one: (one.ended, one.started, one.run_id))
        counting.add(first.run_id)
        incomplete |= {one.run_id for one in group if whole and one not in whole}
        for other in others:
            same = same_files(first, other)
            difference = _difference(first, other) or (_files(other.kind) if same is False else "")
            if difference:
                conflicts.append(Conflict(other.kind, first.run_id, other.run_id, difference))
                continue
            duplicates[other.run_id] = first.run_id
            if same:
                verified.add(other.run_id)
    return Resolution(frozenset(counting), duplicates, frozenset(verified), frozenset(incomplete), tuple(conflicts))


def resolve_runs(client: MlflowClient, runs: Sequence[Run]) -> Resolution:
    """Decide which of some finished runs of one experiment count; files are compared where fingerprints are shared."""
    shared = shared_fingerprints(f"{_kind(run)} {run.data.tags.get(Tag.FINGERPRINT, '')}" for run in runs)
    by_id = {run.info.run_id: run for run in runs}
    results = []
    for run in runs:
        repeated = f"{_kind(run)} {run.data.tags.get(Tag.FINGERPRINT, '')}" in shared
        results.append(_result(client, run, repeated=repeated))
    return resolve(results, lambda first, second: same_results(client, by_id[first.run_id], by_id[second.run_id]))


def same_results(client: MlflowClient, first: Run, second: Run) -> bool | None:
    """Whether the files of two runs of a kind hold the same results: the weights trained, or every answer."""
    if _kind(first) != Kind.FINETUNE:
        return same_outcomes(client, first, second)
    digests = [model.tags.get(Tag.DIGEST) for run in (first, second) if (model := _model(client, run)) is not None]
    return digests[0] == digests[1] if len(digests) == 2 and all(digests) else None


def refuse_conflicts(conflicts: Sequence[Conflict], where: str) -> None:
    """Raise if there is any conflict; ``where`` names the study.

    Raises
    ------
    ConflictError
        With both runs of each, what differs, and how a person settles it.
    """
    if not conflicts:
        return
    listed = "; ".join(map(str, conflicts[:_LISTED]))
    more = f"; and {len(conflicts) - _LISTED} more" if len(conflicts) > _LISTED else ""
    raise ConflictError(
        f"{where}: {listed}{more}.\nFind out which run is genuine and take the other out of the count: "
        "`mlflow runs delete --run-id <id>`; `mlflow runs restore --run-id <id>` brings it back"
    )


def _files(kind: str) -> str:
    """Name what differs where the metrics of two runs are the same and their files are not."""
    return "the trained weights" if kind == Kind.FINETUNE else f"the answers in {Artifact.SCORING}"


def _kind(run: Run) -> str:
    return str(run.data.tags.get(Tag.KIND, ""))


def _result(client: MlflowClient, run: Run, *, repeated: bool) -> Result:
    tags = dict(run.data.tags)
    if repeated and _kind(run) == Kind.FINETUNE and _model(client, run) is None:
        tags.pop(Tag.MODEL_ID, None)  # what it trained is gone: it is not whole
    info, values = run.info, result_values(run.data.metrics) if repeated else {}
    return Result(info.run_id, _kind(run), info.start_time, info.end_time or 0, tags, values)


def _model(client: MlflowClient, run: Run) -> LoggedModel | None:
    """Return the model that a fine-tune recorded; None where it is gone."""
    model_id = run.data.tags.get(Tag.MODEL_ID)
    return None if model_id is None else existing(client.get_logged_model, model_id)


def _difference(first: Result, second: Result) -> str:
    """Say in what two results differ; empty for in nothing."""
    tags = [tag for tag in _SUBJECT if first.tags.get(tag) != second.tags.get(tag)]
    if tags:
        return ", ".join(f"{tag} {first.tags.get(tag)} and {second.tags.get(tag)}" for tag in tags)
    every = sorted({*first.values, *second.values}, key=_by_weight)
    differing = [
        name for name in every if not _equal(first.values.get(name, math.inf), second.values.get(name, math.inf))
    ]
    if not differing:
        return ""
    name = differing[0]
    text = f"{name} {_written(first.values, name)} and {_written(second.values, name)}"
    return text + (f", and {len(differing) - 1} more values" if len(differing) > 1 else "")


def _by_weight(name: str) -> tuple[bool, str]:
    return not metric_names.is_of(name, "score"), name


def _written(values: Mapping[str, float], name: str) -> str:
    return f"{values[name]:.10g}" if name in values else "none"


def _equal(first: float, second: float) -> bool:
    return first == second or (math.isnan(first) and math.isnan(second))
