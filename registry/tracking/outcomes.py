"""The file of a scoring, every option of every question: its digest, the accuracies in it, and whether two agree."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from registry.cells import Cell
from registry.errors import Refused
from registry.files.outputs import file_digest
from registry.tracking import metric_names, names
from registry.tracking.columns import ANSWER_COLUMNS, CHECKED
from registry.tracking.names import Artifact, Tag
from registry.tracking.recording import local_folder

__all__ = [
    "CHOSEN",
    "accuracies",
    "outcomes_file",
    "outcomes_problem",
    "recorded_accuracies",
    "recorded_scores",
    "same_outcomes",
]

#: The column of an outcomes file that says which option each accuracy takes as chosen.
CHOSEN = {"acc": "chosen", "acc_norm": "chosen_norm"}

#: Largest difference between a recorded accuracy, a proportion, and that of the answers that rounding may explain.
_TOLERANCE = 1e-9


def accuracies(table: pa.Table, chosen: str) -> dict[Cell, float]:
    """Return by target the share of questions whose chosen option is right; ``chosen`` names the column."""
    picked = table.filter(table[chosen])
    keys = [pc.cast(picked[name], pa.string()) for name in ("task", "language")]
    columns = pa.table([*keys, pc.cast(picked["right"], pa.float64())], names=["task", "language", "right"])
    found = columns.group_by(["task", "language"]).aggregate([("right", "mean")]).to_pylist()
    return {Cell(row["task"], row["language"]): row["right_mean"] for row in found}


def outcomes_problem(path: Path, tags: Mapping[str, str], metrics: Mapping[str, float]) -> str:
    """Say how a file of outcomes contradicts its run; empty for not at all.

    It is held against the digest that the run records, and against the run's accuracies: a store recorded before there
    were digests has those alone.
    """
    recorded = tags.get(Tag.OUTCOMES_DIGEST)
    if recorded and file_digest(path) != recorded:
        return "is not the file that was recorded (another SHA-256)"
    try:
        table = pq.read_table(path, columns=[name for name in ANSWER_COLUMNS if name != "question"], **CHECKED)
        found = {name: accuracies(table, column) for name, column in CHOSEN.items()}
    except (OSError, ValueError, KeyError) as error:  # what pyarrow raises is a ValueError or a KeyError
        return f"cannot be read ({str(error).partition(chr(10))[0]})"
    headlines = names.headlines_of(tags)
    for accuracy, by_cell in found.items():
        for cell, share in by_cell.items():
            for quantity in (accuracy, "score") if headlines.get(cell.task) == accuracy else (accuracy,):
                wanted = metrics.get(metric_names.on_target(quantity, cell))
                if wanted is not None and not abs(share - wanted) <= _TOLERANCE:
                    return f"gives {quantity} {share:.6g} on {cell}, {wanted:.6g} was recorded"
    return ""


def recorded_accuracies(client: MlflowClient, run_id: str, accuracy: str) -> dict[Cell, float]:
    """Return an accuracy of a run on each target, from its outcomes; empty if its file is missing.

    Raises
    ------
    Refused
        If the file contradicts the run.
    """
    run = client.get_run(run_id)
    with outcomes_file(client, run) as path:
        if path is None:
            return {}
        if problem := outcomes_problem(path, run.data.tags, run.data.metrics):
            raise Refused(f"run {run_id}: its {Artifact.SCORING} {problem}; put it back from a backup")
        columns = ["task", "language", "right", CHOSEN[accuracy]]
        return accuracies(pq.read_table(path, columns=columns, **CHECKED), CHOSEN[accuracy])


@contextmanager
def outcomes_file(client: MlflowClient, run: Run) -> Iterator[Path | None]:
    """Give the file of a run's outcomes, downloaded where it is not on this machine; None if there is none."""
    folder = local_folder(run.info.artifact_uri)
    if folder is not None:
        path = folder / Artifact.SCORING
        yield path if path.is_file() else None
        return
    with tempfile.TemporaryDirectory() as name:
        try:
            there = Artifact.SCORING in {file.path for file in client.list_artifacts(run.info.run_id)}
            found = client.download_artifacts(run.info.run_id, Artifact.SCORING, name) if there else None
        except (MlflowException, OSError):
            found = None
        yield None if found is None else Path(found)


def same_outcomes(client: MlflowClient, first: Run, second: Run) -> bool | None:
    """Whether two runs gave the same answers, to the last digit of each log-likelihood; None where a file is missing.

    Files with equal content may differ in their bytes: other versions of the libraries wrote them.
    """
    with outcomes_file(client, first) as one, outcomes_file(client, second) as other:
        if one is None or other is None:
            return None
        if file_digest(one) == file_digest(other):
            return True
        try:
            tables = [_plain(pq.read_table(path, **CHECKED)) for path in (one, other)]
        except (OSError, pa.ArrowException):
            return False
        return bool(tables[0].equals(tables[1]))


def _plain(table: pa.Table) -> pa.Table:
    """Return a table's texts as texts, however they are encoded, and without what its writer noted on it."""
    columns = [
        pc.cast(column, pa.string()) if pa.types.is_dictionary(column.type) else column for column in table.columns
    ]
    return pa.table(columns, names=table.column_names).combine_chunks()


def recorded_scores(run: Run) -> dict[Cell, float]:
    """Read the scores of a baseline or evaluation run back."""
    found = ((metric_names.parse_cell(key, "score"), value) for key, value in run.data.metrics.items())
    return {cell: value for cell, value in found if cell is not None}
