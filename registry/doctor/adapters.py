"""Adapters on record: versions whose files are gone or changed, logged models and folders that nothing names."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from registry.doctor.findings import Finding, good, note, wrong
from registry.doctor.lost import copy_back, found_elsewhere, move_aside, restore
from registry.doctor.records import StudyRecords, with_progress
from registry.errors import Refused
from registry.tracking.adapters import RegisteredAdapter, download_adapter
from registry.tracking.client import existing
from registry.tracking.folders import FilesMissing, check_places
from registry.tracking.names import Tag
from registry.tracking.recording import local_folder
from registry.tracking.verification import AdapterRecord, WeightsChanged, verify

__all__ = ["check_adapters", "check_folders", "check_unregistered"]

_GONE = "have no weights any more"
_RUN_FOLDER = re.compile(r"[0-9a-f]{32}")
_CHANGED = ("have other weights than were recorded", "have other files than were recorded")
_RESTORE = "put the recorded files back from a backup; pull, serving, evaluate and promote refuse these until then"
_MODEL_FOLDER = re.compile(r"m-[0-9a-f]{32}")


def check_adapters(records: StudyRecords, *, download: bool, hashing: bool = True) -> Iterator[Finding]:
    """See that every registered version has its files, and that its weights are those that were recorded.

    Parameters
    ----------
    download : bool
        Fetch the weights that do not lie on this machine, to compare them; else only their names are looked for.
    hashing : bool
        Compare weights with their digests at all.
    """
    models = {model.model_id: model for model in records.models}
    faults: dict[str, list[str]] = {}
    compared = 0
    for version in with_progress(records.versions, "looking at adapters"):
        fault, read = _fault(records, version, models, download=download, hashing=hashing)
        compared += read
        if fault:
            faults.setdefault(fault, []).append(f"{version.name}/{version.version}  run {version.run_id}")
    for fault, places in faults.items():
        if fault == _GONE:
            remedy = _remedy(records, models, places)
        else:
            remedy = _RESTORE if fault in _CHANGED else _retrain(records, places)
        yield wrong(f"{len(places)} registered versions {fault}", remedy, places=places)
    if not faults:
        hashed = f", the weights of {compared:,} compared with their SHA-256, and their other files" if compared else ""
        yield good(f"{len(records.versions):,} registered versions have their files{hashed}")
    if hashing and not download and compared < len(records.versions) and not faults:
        yield note("weights on the server were not compared with their digests: -P digests=true downloads them")


def _fault(
    records: StudyRecords, version: ModelVersion, models: dict[str, LoggedModel], *, download: bool, hashing: bool
) -> tuple[str, bool]:
    """Say what is wrong with a version, if anything, and whether its weights were read."""
    model = models.get((version.source or "").removeprefix("models:/"))
    if model is None:
        return "name a logged model that is not there", False
    recorded = version.tags.get(Tag.DIGEST)
    if not recorded:
        return "have no digest of their weights", False
    folder = local_folder(model.artifact_location)
    if folder is not None:
        if not any(folder.glob("*.safetensors")):
            return _GONE, False
        if not hashing:
            return "", False
        try:
            return _changed(records, version, folder), True
        except OSError as error:
            return f"have weights that cannot be read ({error.strerror})", True
    if hashing and download:
        return _downloaded(records, version), True
    try:
        files = [file.path for file in records.client.list_logged_model_artifacts(model.model_id)]
    except (MlflowException, OSError):
        return "have files that the server does not list", False
    return ("" if any(path.endswith(".safetensors") for path in files) else _GONE), False


def _changed(records: StudyRecords, version: ModelVersion, folder: Path) -> str:
    """Say whether a folder on this machine is what was recorded."""
    uri = f"models:/{version.name}/{version.version}"
    run = next((run for run in records.runs if run.info.run_id == version.run_id), None)
    of_run = () if run is None else (run.data.tags, run.data.params)
    try:
        check_places(folder, uri)
        verify(folder, AdapterRecord(uri, version.tags, *of_run))
    except Refused as error:
        return _named(error)
    return ""


def _named(error: Refused) -> str:
    if isinstance(error, FilesMissing):
        return _GONE if error.weights else "lack recorded files"
    return _CHANGED[0] if isinstance(error, WeightsChanged) else _CHANGED[1]


def _downloaded(records: StudyRecords, version: ModelVersion) -> str:
    adapter = RegisteredAdapter(version.name, str(version.version), (version.source or "").removeprefix("models:/"))
    with tempfile.TemporaryDirectory() as folder:
        try:
            download_adapter(records.client, adapter, Path(folder))
        except Refused as error:
            return _named(error)
        except (MlflowException, OSError):
            return "cannot be downloaded"
    return ""


def _remedy(records: StudyRecords, models: Mapping[str, LoggedModel], places: Sequence[str]) -> str:
    """Say what to do about versions without weights: find them, and train again only those that are gone alone."""
    root = local_folder(records.experiment.artifact_location)
    if len(places) == len(records.versions) > 1:
        return restore(root or records.experiment.artifact_location)
    if root is not None:
        named = {place.partition("  ")[0] for place in places}
        sources = [one.source or "" for one in records.versions if f"{one.name}/{one.version}" in named]
        folders = [local_folder(models[source.removeprefix("models:/")].artifact_location) for source in sources]
        pairs = [(found_elsewhere(folder, root, "*.safetensors"), folder) for folder in folders if folder is not None]
        if there := [(found, folder) for found, folder in pairs if found is not None]:
            return copy_back(there)
    return _retrain(records, places)


def _retrain(records: StudyRecords, places: Sequence[str]) -> str:
    run = places[0].rpartition(" ")[2]
    more = ", the others likewise" if len(places) > 1 else ""
    return (
        "put the files back from a backup. Only if there is none, take the run out of the count (mlflow runs restore "
        f"brings it back) and train again: mlflow runs delete --run-id {run}{more}; mlflow run . -e finetune "
        f"--env-manager local -P study={records.study} -P model=… -P task=… -P language=… -P seed=…"
    )


def check_unregistered(records: StudyRecords) -> Iterator[Finding]:
    """Find adapters that were logged and never registered: their process ended in between."""
    registered = {(version.source or "").removeprefix("models:/") for version in records.versions}
    named = {run.data.tags.get(Tag.MODEL_ID) for run in records.runs}
    # A run that was not there yet when the runs were read is at work.
    ended = {run.info.run_id for run in records.runs} | records.deleted
    ended -= {run.info.run_id for run in records.busy()}
    left = [
        model
        for model in records.models
        if model.model_type == "lora-adapter"
        and model.model_id not in registered | named
        and model.source_run_id in ended
    ]
    if left:
        yield wrong(
            f"{len(left)} adapters were logged and are neither registered nor named by a run",
            f"mlflow run . -e doctor --env-manager local -P study={records.study} -P repair=true",
            places=[f"{model.model_id}  {model.name}, run {model.source_run_id}" for model in left],
            repair=lambda: _delete_models(records, left),
        )
    else:
        yield good("every logged adapter is registered")
    lost = [version for version in records.versions if version.run_id in records.deleted]
    if lost:
        places = [f"{version.name}/{version.version}  run {version.run_id}" for version in lost]
        yield note(f"{len(lost)} registered versions are of runs that were deleted; they still load", places=places)


def _delete_models(records: StudyRecords, models: Sequence[LoggedModel]) -> str:
    for model in models:
        records.client.delete_logged_model(model.model_id)
    return f"{len(models)} logged models are deleted; their files stay"


def check_folders(records: StudyRecords) -> Iterator[Finding]:
    """Find folders beside the store that no run and no logged model owns."""
    root = local_folder(records.experiment.artifact_location)
    if root is None or not root.is_dir():
        return
    runs = {run.info.run_id for run in records.runs} | records.deleted
    orphans = [path for path in root.iterdir() if _RUN_FOLDER.fullmatch(path.name) and path.name not in runs]
    # Some may have come after the records were read.
    orphans = [path for path in orphans if existing(records.client.get_run, path.name) is None]
    if (root / "models").is_dir():
        known = {model.model_id for model in records.models}
        there = [path for path in (root / "models").iterdir() if _MODEL_FOLDER.fullmatch(path.name)]
        # A model that was deleted is not listed any more, and by MLflow's design its files stay; its run is known.
        left = [path for path in there if path.name not in known and _run_of(path) not in runs]
        orphans += [path for path in left if existing(records.client.get_logged_model, path.name) is None]
    if orphans:
        yield wrong(
            f"{len(orphans)} folders of artifacts belong to no run and no model",
            f"if no other database names them: {move_aside(root, orphans)}",
            places=[str(path) for path in sorted(orphans)],
        )
    else:
        yield good("every folder of artifacts belongs to a run or a model")


def _run_of(folder: Path) -> str | None:
    """Return the run that logged a model, as its folder tells it; None where it does not."""
    for file in folder.glob("artifacts/MLmodel"):
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError, RecursionError):
            return None
        return str(content.get("run_id")) if isinstance(content, dict) else None
    return None
