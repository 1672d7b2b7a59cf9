"""How an import is recorded: one run that holds the whole frame, whatever its size."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient

from registry.errors import Refused, unknown
from registry.files.outputs import staged
from registry.imports.harness import read_harness
from registry.imports.imported import ImportedResults, counts
from registry.imports.manifest import EXAMPLE, read_manifest
from registry.imports.published import read_published
from registry.tracking.columns import WITH_CHECKSUMS
from registry.tracking.metric_names import count
from registry.tracking.names import Artifact, Kind, Tag, headlines_tag, run_name
from registry.tracking.runs import recorded
from registry.tracking.store import all_runs, experiment_id

__all__ = ["FORMATS", "read_source", "record_import", "write_frame"]

#: Version of everything here that decides an imported frame; raise it when the same file gives another frame.
_VERSION = "1"


def record_import(client: MlflowClient, study: str, imported: ImportedResults) -> tuple[str, bool]:
    """Record an import as the newest of a study, unless it is that already.

    A run per evaluation, as for what is measured here, would take minutes to write and to read for the published
    table. Earlier imports of the study stay in the store; the newest counts.

    Returns
    -------
    str, bool
        The run's id, and whether it was there before.

    Raises
    ------
    Refused
        If the study holds evaluations of its own: they were not measured as these were.
    """
    experiment = experiment_id(client, study, writing=True)
    _refuse_own_evaluations(client, experiment, study)
    fingerprint = hashlib.sha256(f"import {_VERSION} {imported.format} {imported.digest}".encode()).hexdigest()
    finished = all_runs(client, [experiment], f"tags.{Tag.KIND} = '{Kind.IMPORT}' AND attributes.status = 'FINISHED'")
    newest = max(finished, key=lambda run: (run.info.start_time, run.info.run_id), default=None)
    if newest is not None and newest.data.tags.get(Tag.FINGERPRINT) == fingerprint:
        return str(newest.info.run_id), True
    with recorded(
        client,
        experiment,
        kind=Kind.IMPORT,
        name=run_name(Kind.IMPORT, study),
        tags=_tags(study, imported, fingerprint),
        description=_description(study, imported),
    ) as recording:
        with recording.folder() as folder:
            _write_frame(imported, folder)
        found = counts(imported.observations, imported.baselines)
        recording.metrics({count(what): number for what, number in found.items()})
    return recording.run_id, False


def write_frame(imported: ImportedResults, output: Path) -> None:
    """Put what an import's run holds into a user's folder: the frame, baselines, notes, outcomes if it has any."""
    with staged(output, "import", is_former=_is_former) as staging:
        _write_frame(imported, staging.folder)


def _is_former(file: Path) -> bool:
    """Whether a file was written before a list of them was kept: then all of them are there."""
    folders = (file.parent, *file.parents[1:3])  # outcomes lie two folders further down
    names = (Artifact.OBSERVATIONS, Artifact.BASELINES, Artifact.ABOUT)
    return any(all((folder / name).is_file() for name in names) for folder in folders)


def _write_frame(imported: ImportedResults, folder: Path) -> None:
    imported.observations.to_parquet(folder / Artifact.OBSERVATIONS, index=False, **WITH_CHECKSUMS)
    imported.baselines.to_parquet(folder / Artifact.BASELINES, index=False, **WITH_CHECKSUMS)
    about = {"seed_averaged": imported.seed_averaged, "notes": list(imported.notes)}
    (folder / Artifact.ABOUT).write_text(json.dumps(about, ensure_ascii=False, indent=1), encoding="utf-8")
    if imported.outcomes is not None:
        shutil.copytree(imported.outcomes, folder, dirs_exist_ok=True)


def _refuse_own_evaluations(client: MlflowClient, experiment: str, study: str) -> None:
    own = f"tags.{Tag.KIND} = '{Kind.EVALUATE}' AND attributes.status = 'FINISHED'"
    if client.search_runs([experiment], own, max_results=1):
        raise Refused(
            f"study {study!r} holds evaluations that were run here, and an analysis would mix them with these; import "
            "under a name of its own: study=NAME"
        )


def _tags(study: str, imported: ImportedResults, fingerprint: str) -> dict[str, object]:
    return {
        Tag.STUDY: study,
        Tag.PROTOCOL: imported.observations["protocol"].iloc[0],
        Tag.FINGERPRINT: fingerprint,
        Tag.IMPORT_FORMAT: imported.format,
        Tag.IMPORT_SOURCE: imported.name,
        Tag.IMPORT_DIGEST: imported.digest,
        **({Tag.HEADLINES: headlines_tag(imported.headlines)} if imported.headlines else {}),
    }


def _description(study: str, imported: ImportedResults) -> str:
    # A file's name is anybody's text: within a code span it stays text, if no backtick ends the span.
    name = " ".join(imported.name.replace("`", "'").split())
    notes = "".join(f"\n- {note}" for note in imported.notes)
    return (
        f"Results measured elsewhere, as study `{study}`: {imported.summary()}.\n\nRead from `{name}` (SHA-256 "
        f"`{imported.digest[:12]}…`), as `{Artifact.OBSERVATIONS}` and `{Artifact.BASELINES}` among the artifacts.\n"
        f"{notes}"
    )


# --- what an import is made from: which format, and the reader for it


#: ``auto`` chooses by the file's name and columns.
FORMATS = ("auto", "published", "lm_eval")

_MANIFESTS = ("manifest.yaml", "manifest.yml", "manifest.csv")


def read_source(
    source: Path, *, staging: Path, form: str = "auto", families: Mapping[str, str] | None = None
) -> ImportedResults:
    """Read results: the published study's table, or what lm-evaluation-harness wrote, listed in a manifest.

    Parameters
    ----------
    source
        ``published``: a CSV file. ``lm_eval``: a manifest, or a folder that holds one as ``manifest.yaml`` or ``.csv``.
    staging
        Folder that every question's outcome is written to, where the source has them.
    form
        One of `FORMATS`.
    families
        Model → family, for models that are not known here.

    Raises
    ------
    Refused
        If anything about the source is not usable; all of its faults are named.
    """
    if form not in FORMATS:
        raise unknown("format", form, FORMATS, where="format")
    if not source.exists():
        raise Refused(f"source={str(source)!r} is not there (looked from {Path.cwd()})")
    if form == "published" and source.is_dir():
        raise Refused(f"{source} is a folder; format=published reads one CSV file")
    file = _manifest_in(source) if source.is_dir() else source
    if form == "auto":
        form = _format_of(file)
    if form == "published":
        return read_published(file, families or {})
    return read_harness(read_manifest(file), families or {}, staging)


def _manifest_in(folder: Path) -> Path:
    for name in _MANIFESTS:
        if (folder / name).is_file():
            return folder / name
    results = sorted({str(path.parent.relative_to(folder)) for path in folder.rglob("results_*.json")})
    found = f"results of lm_eval lie in: {', '.join(results[:20])}" if results else "nor any results_*.json below it"
    raise Refused(
        f"{folder} holds no manifest.yaml, which says what each folder of results is ({found}); write one:\n{EXAMPLE}"
    )


def _format_of(file: Path) -> str:
    if file.suffix in (".yaml", ".yml"):
        return "lm_eval"
    if file.suffix != ".csv":
        raise Refused(f"{file}: its name ends in neither .csv nor .yaml: an import reads a CSV table or a manifest")
    with file.open("rb") as content:
        head = content.readline(10_000).decode("utf-8-sig", errors="replace")
    columns = {column.strip().strip('"') for column in head.split(",")}
    return "lm_eval" if {"folder", "model"} <= columns else "published"
