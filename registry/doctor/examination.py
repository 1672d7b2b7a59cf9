"""The whole examination, part by part, and mending what can be repaired without losing anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from registry.doctor.environment import check_devices, check_environment
from registry.doctor.findings import Finding, Level, Section, note, wrong
from registry.errors import Refused

if TYPE_CHECKING:  # they need packages whose absence doctor reports
    from mlflow import MlflowClient

    from registry.config.study import Study
    from registry.doctor.integrity import ExpectedRecords
    from registry.doctor.records import StudyRecords
    from registry.planning.outline import Outline

__all__ = ["Examination", "examine", "repaired"]


@dataclass(frozen=True)
class Examination:
    """What is to be examined.

    Attributes
    ----------
    study : str
        Name or file of a study, or the name of one that is only on record; empty leaves studies out.
    data : str
        Folder in place of the study's own.
    digests : bool or None
        Compare the weights of adapters with their SHA-256; None only of those that lie on this machine.
    """

    study: str = ""
    data: str = ""
    digests: bool | None = None


def examine(what: Examination) -> Iterator[Section]:
    """Yield one part after another; nothing is changed.

    Raises
    ------
    Refused
        If the study's file cannot be read.
    """
    environment = check_environment()
    yield Section("environment", environment)
    if any(finding.level is Level.WRONG and "not installed" in str(finding.places) for finding in environment):
        return  # the other parts need what is missing
    yield Section("devices", check_devices())
    yield from _with_store(what)


def _with_store(what: Examination) -> Iterator[Section]:
    from registry.doctor.hub import check_disks, check_hub
    from registry.doctor.store import check_store
    from registry.tracking.store import tracking_uri

    studies, refusal = _studies(what)
    uri = tracking_uri()
    names = [study.name for study in studies] or ([what.study] if what.study else [])
    found, client = check_store(uri, names[0] if names else "")
    if refusal is not None and (client is None or client.get_experiment_by_name(what.study) is None):
        yield Section(f"study {what.study}", [wrong(str(refusal).removeprefix("study: "), _study_remedy(client))])
        names = []
    yield Section("store", found)
    if client is None and any(finding.repair for finding in found):  # whoever looks may have had it repaired
        found, client = check_store(uri, names[0] if names else "")
        if client is not None:
            yield Section("store, as repaired", found)
    if not studies:
        yield Section("hub", list(check_hub(None, named=what.study)))
    for one in studies:
        yield Section(f"hub{_of(one, studies)}", list(check_hub(one)))
    outlines = {study.name: _outline(study) for study in studies} if client else {}
    only = next(iter(outlines.values())) if len(outlines) == 1 else None
    yield Section("disk", list(check_disks(uri, only)))
    if client is None:
        return
    for name in names:
        study = next((found for found in studies if found.name == name), None)
        yield Section(f"study {name}", list(_study(client, name, study, outlines.get(name), what)))


def _studies(what: Examination) -> tuple[list[Study], Refused | None]:
    """Return the studies of a file; none, and why, where there is no such file: it may be on record all the same."""
    from registry.config.files import load_studies

    if not what.study:
        return [], None
    try:
        return load_studies(what.study, data=what.data or None), None
    except Refused as refusal:
        if "there is no study" not in str(refusal):
            raise
        return [], refusal


def _study_remedy(client: MlflowClient | None) -> str:
    remedy = "give -P study= the name of a study that comes with the project, or a study file"
    if client is None:
        return remedy
    others = [found.name for found in client.search_experiments() if found.name != "Default"]
    return f"{remedy}; or one on record: {', '.join(sorted(others))}" if others else remedy


def _of(study: Study, studies: Sequence[Study]) -> str:
    return f" ({study.name})" if len(studies) > 1 else ""


def _outline(study: Study) -> Outline | None:
    from registry.planning.outline import outline

    try:
        return outline(study, strict=False)
    except Refused:  # reported with the study itself
        return None


def _study(
    client: MlflowClient, name: str, study: Study | None, outlined: Outline | None, what: Examination
) -> Iterator[Finding]:
    from registry.doctor.duplicates import check_twice
    from registry.doctor.integrity import check_dead, check_finished, check_plan
    from registry.doctor.outcomes import check_outcomes
    from registry.doctor.records import read_records

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        yield note(f"nothing of {name!r} is recorded yet")
        return
    if experiment.lifecycle_stage == "deleted":
        yield note(f"the experiment {name!r} was deleted; running the study restores it")
        return
    records = read_records(client, experiment, name)
    expected = None
    if study is None:
        yield note(f"there is no study file {name!r}: what should be on record is not known")
    else:
        try:
            expected = _expected(study, records, outlined)
        except Refused as error:
            yield wrong(f"the study cannot be made ready: {error}", "correct the study file, or -P data=<folder>")
    if expected is not None and _begun(records):
        yield from check_plan(records, expected, what.study)
    yield from check_dead(records)
    yield from check_twice(records)
    yield from check_finished(records, expected)
    if what.digests is not False:
        yield from check_outcomes(records, download=bool(what.digests))
    yield from _adapters(records, what)


def _begun(records: StudyRecords) -> bool:
    """Whether the study was ever run, with or without success."""
    from registry.tracking.names import Kind, Tag

    return any(run.data.tags.get(Tag.KIND) in (Kind.BASELINE, Kind.FINETUNE, Kind.EVALUATE) for run in records.runs)


def _adapters(records: StudyRecords, what: Examination) -> Iterator[Finding]:
    from registry.doctor.adapters import check_adapters, check_folders, check_unregistered
    from registry.doctor.aliases import check_aliases

    if records.versions or records.models:
        yield from check_adapters(records, download=bool(what.digests), hashing=what.digests is not False)
        yield from check_unregistered(records)
        yield from check_aliases(records)
    yield from check_folders(records)


def _expected(study: Study, records: StudyRecords, outlined: Outline | None) -> ExpectedRecords:
    """Return what should be on record: by fingerprints, or by names where bases or items are not at hand."""
    from registry.doctor.integrity import ExpectedRecords
    from registry.models.hub import offline
    from registry.planning.experiment import prepare
    from registry.planning.plan import make_plan

    with offline():
        try:
            experiment = prepare(study)
        except Refused:
            if outlined is None or not _needs_hub(study):
                raise
            return _by_names(study, outlined)
        jobs = experiment.jobs()
        plan = make_plan(experiment, records.client, records.experiment.experiment_id, strict=False)
    fingerprints = frozenset(mark for job in jobs for mark in (job.finetune, job.evaluate) if mark)
    missing = [f"{job}: {step}" for job, step in plan.todo]
    return ExpectedRecords(missing, fingerprints, len(experiment.grid), len(jobs))


def _needs_hub(study: Study) -> bool:
    from registry.planning.outline import needs_hub

    return needs_hub(study)


def _by_names(study: Study, outlined: Outline) -> ExpectedRecords:
    from registry.doctor.integrity import ExpectedRecords
    from registry.tracking.names import Kind

    evaluated = outlined.recorded.get(Kind.EVALUATE, frozenset())
    baselines = outlined.recorded.get(Kind.BASELINE, frozenset())
    missing = [f"{spec.name} baseline" for spec in study.models if (spec.name, None, None) not in baselines]
    missing += [
        f"{spec.name} {source} seed {seed}"
        for spec in study.models
        for seed in study.seeds
        for source in outlined.sources
        if (spec.name, str(source), seed) not in evaluated
    ]
    jobs = len(study.models) * (1 + len(study.seeds) * len(outlined.sources))
    return ExpectedRecords(missing, None, len(outlined.grid), jobs)


def repaired(section: Section) -> Section:
    """Mend what a part found wrong and can mend; return the part as it is then."""
    return replace(section, findings=[_mended(finding) for finding in section.findings])


def _mended(finding: Finding) -> Finding:
    if finding.repair is None:
        return finding
    return note(f"mended: {finding.text}: {finding.repair()}", places=finding.places)
