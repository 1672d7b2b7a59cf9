"""Reading back a study that was imported: one run holds its whole frame."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from mlflow import MlflowClient

from analysis.measures.numerals import quantity
from analysis.reading.run_record import InconsistentRunError, RunRecord
from registry.cells import Cell
from registry.tracking.columns import (
    AVERAGED_COLUMNS,
    BASELINE_COLUMNS,
    CHECKED,
    OBSERVATION_COLUMNS,
    STORED_COLUMNS,
    TEST_COLUMNS,
)
from registry.tracking.duplicates import Conflict, by_age, refuse_conflicts
from registry.tracking.names import Artifact, Kind, Tag, headlines_of, outcomes_file

__all__ = ["ImportedFrame", "outcomes_of", "read_import"]


@dataclass(frozen=True)
class ImportedFrame:
    """An import's observations, with `AVERAGED_COLUMNS` besides where seeds were averaged, baselines and notes."""

    observations: pd.DataFrame
    baselines: pd.DataFrame
    seed_averaged: bool
    notes: tuple[str, ...]
    headlines: Mapping[str, str]


def read_import(client: MlflowClient, imports: Sequence[RunRecord]) -> ImportedFrame:
    """Read the newest of a study's finished imports; of several of one file the first.

    Raises
    ------
    InconsistentRunError
        If its artifacts are not those of an import.
    ConflictError
        If imports of one file hold different results.
    """
    by_id = {record.run_id: record for record in imports}
    *_, newest = ordered = [by_id[run_id] for run_id in by_age({record.run_id: record.started for record in imports})]
    fingerprint = newest.tags.get(Tag.FINGERPRINT)
    twins = [record for record in ordered if fingerprint and record.tags.get(Tag.FINGERPRINT) == fingerprint]
    record = twins[0] if twins else newest
    found = _read_frame(client, record)
    for twin in twins[1:]:
        _refuse_difference(record, found, twin, _read_frame(client, twin))
    if len(imports) > len(twins or [record]):
        note = f"The study was imported {len(imports)} times, and only the newest import counts."
        found = replace(found, notes=(found.notes[0], note, *found.notes[1:]))
    return found


def _refuse_difference(first: RunRecord, found: ImportedFrame, second: RunRecord, other: ImportedFrame) -> None:
    """Refuse two imports of the same file that hold different results: an import of a file is made of it alone."""
    for what, table, another in (
        ("observations", found.observations.drop(columns="run_id"), other.observations.drop(columns="run_id")),
        ("baselines", found.baselines, other.baselines),
    ):
        if not table.equals(another):
            conflict = Conflict(Kind.IMPORT, first.run_id, second.run_id, f"their {what}")
            refuse_conflicts([conflict], f"study {first.tags.get(Tag.STUDY, '')!r}")


def _read_frame(client: MlflowClient, record: RunRecord) -> ImportedFrame:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        about = _about(record, _file(client, record, Artifact.ABOUT, folder))
        averaged = AVERAGED_COLUMNS if about["seed_averaged"] else []
        observations = _table(client, record, Artifact.OBSERVATIONS, [*STORED_COLUMNS, *averaged], folder)
        baselines = _table(client, record, Artifact.BASELINES, BASELINE_COLUMNS, folder, maybe=TEST_COLUMNS)
    observations = observations.assign(run_id=record.run_id, model_version="")[[*OBSERVATION_COLUMNS, *averaged]]
    notes = [f"Imported from {record.tags.get(Tag.IMPORT_SOURCE, 'an unnamed file')}, not measured here."]
    notes += about["notes"]
    return ImportedFrame(observations, baselines, bool(about["seed_averaged"]), tuple(notes), headlines_of(record.tags))


def outcomes_of(
    client: MlflowClient, run_id: str, model: str, source: Cell | None = None, seed: int | None = None
) -> pd.DataFrame | None:
    """Return the outcomes of single questions of an imported evaluation, or of a base; None if it came without.

    Columns as `registry.evaluation.outcomes.Outcomes.frame` has them.
    """
    path = outcomes_file(model, source, seed)
    folder = path.rpartition("/")[0]
    if path not in {file.path for file in client.list_artifacts(run_id, folder)}:
        return None
    with tempfile.TemporaryDirectory() as name:
        return _read(f"run {run_id}", path, client.download_artifacts(run_id, path, name))


def _file(client: MlflowClient, record: RunRecord, artifact: str, folder: Path) -> Path:
    if artifact not in {file.path for file in client.list_artifacts(record.run_id)}:
        raise InconsistentRunError(f"{record} has no artifact {artifact!r} where it was recorded; bring that file back")
    return Path(client.download_artifacts(record.run_id, artifact, str(folder)))


def _about(record: RunRecord, path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return {"seed_averaged": bool(about["seed_averaged"]), "notes": [str(note) for note in about["notes"]]}
    except (ValueError, TypeError, KeyError) as error:
        raise InconsistentRunError(
            f"{record}: {path.name} is not readable ({error}); put it back from a backup"
        ) from None


def _read(run: str, artifact: str, path: Path | str) -> pd.DataFrame:
    """Read a table that was downloaded."""
    try:
        return pd.read_parquet(path, **CHECKED)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InconsistentRunError(
            f"{run}: its artifact {artifact} cannot be read ({str(error)[:200]}); put it back from a backup"
        ) from None


def _table(
    client: MlflowClient, record: RunRecord, artifact: str, columns: list[str], folder: Path, maybe: Sequence[str] = ()
) -> pd.DataFrame:
    """Read a table with the columns it must have, and those that one written by an older version may lack."""
    table = _read(str(record), artifact, _file(client, record, artifact, folder))
    lacking = [column for column in columns if column not in table.columns]
    if lacking or table.empty:
        what = f"lacks {quantity(len(lacking), 'column')} ({', '.join(lacking)})" if lacking else "holds no rows"
        raise InconsistentRunError(
            f"{record}: {artifact} {what}; put it back from a backup, or import under another name"
        )
    return table[[*columns, *(column for column in maybe if column in table.columns)]]
