"""The shipped studies on published data, through the whole path: files, alignment, training, registry, scoring."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from mlflow.artifacts import download_artifacts

from registry.cells import Cell
from registry.config.data import SplitSpec
from registry.config.files import load_study
from registry.config.study import BaseSpec
from registry.tracking.metric_names import delta_mean, score
from registry.tracking.names import Kind

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize(("name", "languages", "options"), [("sib200", ("en", "sw"), 7), ("xcopa", ("tr", "zh"), 2)])
def test_a_study_of_published_data_runs(name, languages, options, base, records_of, rerun) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is absent: the data is not part of the project; see registry/studies/{name}.yaml")
    study = replace(
        load_study(name, data=str(DATA / name)),
        models=(BaseSpec(name="tiny", path=str(base)),),
        languages=languages,
        seeds=(17,),
        split=SplitSpec(train=16, test=20),
    )
    records = records_of(study)
    assert rerun(records) == []
    records.assert_complete()
    task = records.experiment.grid.tasks[0]
    for run in records.finished(Kind.EVALUATE).values():
        assert {score(Cell(task, language)) for language in languages} <= set(run.data.metrics)
        assert delta_mean("MT-CL") in run.data.metrics
        outcomes = pd.read_parquet(download_artifacts(f"{run.info.artifact_uri}/outcomes.parquet"))
        assert outcomes.groupby(["language", "question"], observed=True).size().eq(options).all()
        assert outcomes["question"].nunique() == 20
