"""An imported study, recorded and read back: its figures are the file's, and it is told from what was run here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from analysis.analysis import analyze
from analysis.measures.transfer import uplift
from analysis.reading.frame import EmptyStudyError, Frame, InconsistentRunError, MixedStudyError, cells, load
from registry.cells import Cell
from registry.errors import Refused
from registry.imports import read_source, record_import
from registry.tracking.columns import AVERAGED_COLUMNS, CELL_KEY, OBSERVATION_COLUMNS
from registry.tracking.names import Artifact, Kind, Tag
from tests.imports.published_table import published_table

if TYPE_CHECKING:
    from tests.analysis.conftest import Recorder

SMALL = {"models": ("gemma-3-4b-it",), "tasks": ("hellaswag", "truthfulqa"), "languages": ("de", "hi")}


def record(client: MlflowClient, study: str, table: pd.DataFrame, folder: Path) -> tuple[str, bool]:
    path = folder / "cells.csv"
    table.to_csv(path, index=False)
    return record_import(client, study, read_source(path, staging=folder))


@pytest.fixture(scope="module", params=[True, False], ids=["filled", "empty where acc counts"])
def published(request, client: MlflowClient, tmp_path_factory) -> tuple[pd.DataFrame, Frame]:
    """A table of the published size, and the frame it becomes."""
    table, study = published_table(filled=request.param), f"published-{request.param}"
    record(client, study, table, tmp_path_factory.mktemp("published"))
    return table, load(client, study)


def test_the_published_figures_are_those_of_the_column_they_are_defined_on(published) -> None:
    table, frame = published
    assert len(table) == len(frame.observations) == 17_424
    found = uplift(cells(frame.observations)).set_index("regime")
    delta = table["delta_score_norm_mean"]
    groups = {name: delta[table["regime"] == name] for name in ("MT-ML", "MT-CL", "CT-ML", "CT-CL")}
    groups["transfer"] = delta[table["regime"] != "MT-ML"]
    assert [len(rows) for rows in groups.values()] == [396, 3_960, 1_188, 11_880, 17_028]
    for name, rows in groups.items():
        expected = (rows.mean(), rows.median(), 100 * (rows > 0).mean(), 100 * (rows <= -1.0).mean())
        mine = found.loc[name, ["mean", "median", "positive_pct", "harm_pct"]]
        np.testing.assert_allclose(mine.to_numpy(float), expected, rtol=0, atol=1e-9)


def test_noise_of_binary_fractions_is_there_to_be_kept(published) -> None:
    """Rounded, as cells of our own runs are, the same table would give other rates."""
    table, _ = published
    delta = table["delta_score_norm_mean"]
    assert ((delta <= -1.0) != (delta.round(9) <= -1.0)).sum() > 0


def test_cells_keep_deviation_and_number_of_seeds(published) -> None:
    table, frame = published
    assert list(frame.observations.columns) == [*OBSERVATION_COLUMNS, *AVERAGED_COLUMNS]
    assert frame.seed_averaged
    renamed = ["model_name", "fine_tuned_dataset", "fine_tuned_language", "eval_dataset", "eval_language"]
    theirs = table.set_index(renamed).sort_index()
    mine = cells(frame.observations).set_index(CELL_KEY)
    assert list(mine.index) == list(theirs.index)
    np.testing.assert_array_equal(mine["delta_sd"], theirs["delta_score_norm_std"])
    assert set(mine["n_seeds"]) == {3}


def test_notes_say_what_an_import_lacks_and_the_grid_is_whole(published) -> None:
    notes = " ".join(published[1].notes)
    assert "Imported from cells.csv, not measured here." in notes
    assert "a mean over 3 seeds" in notes
    assert "no outcomes of single questions" in notes
    assert "grid is not complete" not in notes
    assert "fewer than" not in notes


def test_the_baselines_come_back(published) -> None:
    table, frame = published
    assert len(frame.baselines) == 9 * 44
    row = frame.baselines.iloc[100]
    rows = table.query(
        f"model_name == '{row.model}' and eval_dataset == '{row.task}' and eval_language == '{row.language}'"
    )
    column = "score_base_mean" if rows["score_norm_base_mean"].isna().all() else "score_norm_base_mean"
    assert set(rows[column]) == {row.score}


def test_one_run_holds_the_import(client: MlflowClient, recorder: Recorder, tmp_path: Path) -> None:
    table = published_table(**SMALL)
    run_id, reused = record(client, recorder.study, table, tmp_path)
    assert not reused
    (run,) = client.search_runs([recorder.experiment])
    assert run.info.run_id == run_id
    assert run.info.status == "FINISHED"
    assert run.data.tags[Tag.KIND] == Kind.IMPORT
    assert run.data.tags[Tag.IMPORT_SOURCE] == "cells.csv"
    assert len(run.data.tags[Tag.IMPORT_DIGEST]) == 64
    assert run.data.metrics["count/observations"] == 16
    assert "SHA-256" in run.data.tags["mlflow.note.content"]
    assert {file.path for file in client.list_artifacts(run_id)} == {
        Artifact.OBSERVATIONS,
        Artifact.BASELINES,
        Artifact.ABOUT,
    }
    frame = load(client, recorder.study)
    assert set(frame.observations["run_id"]) == {run_id}


def test_the_same_file_is_imported_once_and_the_newest_of_others_counts(
    client: MlflowClient, recorder: Recorder, tmp_path: Path
) -> None:
    first, second = published_table(**SMALL), published_table(**SMALL | {"languages": ("de", "en")})
    one, _ = record(client, recorder.study, first, tmp_path)
    assert record(client, recorder.study, first, tmp_path) == (one, True)
    two, reused = record(client, recorder.study, second, tmp_path)
    assert not reused
    frame = load(client, recorder.study)
    assert set(frame.observations["run_id"]) == {two}
    assert set(frame.observations["target_language"]) == {"de", "en"}
    assert "The study was imported 2 times, and only the newest import counts." in frame.notes
    # The first file again is the newest import; of the two imports of that file, which hold the same, the first counts.
    assert not record(client, recorder.study, first, tmp_path)[1]
    again = load(client, recorder.study).observations
    assert set(again["run_id"]) == {one}
    assert set(again["target_language"]) == {"de", "hi"}


def test_gaps_and_unequal_seeds_are_noted(client: MlflowClient, recorder: Recorder, tmp_path: Path) -> None:
    table = published_table(**SMALL)
    table.loc[2, "n_seeds"] = 1
    record(client, recorder.study, table.drop(index=5), tmp_path)
    frame = load(client, recorder.study)
    notes = " ".join(frame.notes)
    assert "15 of 16 model × source × target cells" in notes
    assert "1 of 15 cells average fewer than 3 seeds" in notes
    assert "a mean over 1 or 3 seeds" in notes


def test_own_and_imported_evaluations_do_not_mix(client: MlflowClient, recorder: Recorder, tmp_path: Path) -> None:
    table, target = published_table(**SMALL), Cell("arc", "de")
    imported, _ = record(client, recorder.study, table, tmp_path)
    base = recorder.baseline("lab/one-0.5b", {target: 0.5})
    recorder.evaluation("lab/one-0.5b", target, 17, {target: 0.6}, {target: 0.5}, base)
    with pytest.raises(MixedStudyError, match=f"no mean may mix them.*{imported}"):
        load(client, recorder.study)
    with pytest.raises(Refused, match="import under a name of its own"):
        record(client, recorder.study, published_table(**SMALL | {"languages": ("de",)}), tmp_path)
    client.delete_run(imported)
    assert len(load(client, recorder.study).observations) == 1


def test_an_unfinished_import_does_not_count(client: MlflowClient, recorder: Recorder, tmp_path: Path) -> None:
    run_id, _ = record(client, recorder.study, published_table(**SMALL), tmp_path)
    client.set_terminated(run_id, "KILLED")
    with pytest.raises(EmptyStudyError):
        load(client, recorder.study)


@pytest.mark.parametrize(
    ("artifact", "content", "told"),
    [
        (Artifact.OBSERVATIONS, {"model": ["x"]}, "lacks 16 columns"),
        (Artifact.BASELINES, {"model": ["x"]}, "lacks 5 columns"),
        (Artifact.ABOUT, None, "is not readable"),
    ],
)
def test_artifacts_that_are_not_an_imports_are_refused(
    client: MlflowClient, recorder: Recorder, tmp_path: Path, artifact: str, content: dict | None, told: str
) -> None:
    run_id, _ = record(client, recorder.study, published_table(**SMALL), tmp_path)
    broken = tmp_path / artifact
    if content is None:
        broken.write_text(json.dumps({"notes": []}), encoding="utf-8")
    else:
        pd.DataFrame(content).to_parquet(broken)
    client.log_artifact(run_id, str(broken))
    with pytest.raises(InconsistentRunError, match=f"run {run_id} .*{told}"):
        load(client, recorder.study)


def test_an_imported_study_is_analysed_to_its_report(
    client: MlflowClient, recorder: Recorder, tmp_path: Path, output: Path
) -> None:
    record(client, recorder.study, published_table(**SMALL), tmp_path)
    result = analyze(load(client, recorder.study), output)
    assert result.report.is_file()
    assert list(result.regimes["n"]) == [4, 4, 4, 4, 12]
