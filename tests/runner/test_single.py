"""One adapter or one evaluation at a time ends with the results of the whole grid."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from registry.cells import Cell
from registry.errors import Refused
from registry.runner.single import evaluate_one, finetune_one, narrowed
from registry.tracking.names import Kind, Tag


def test_what_is_not_given_is_the_studys_first(small_study) -> None:
    study = narrowed(small_study())
    assert (study.models[0].name, study.sources, study.seeds) == ("tiny", ("kind/en",), (17,))
    study = narrowed(small_study(("seeds: [17, 42]", "seeds: [42]\nsources: [pair/tr, kind/en]")))
    assert (study.sources, study.seeds) == (("pair/tr",), (42,))


def test_what_is_given_is_taken(small_study, make_base) -> None:
    study = narrowed(small_study(), task="pair", language="tr", seed=0)
    assert (study.models[0].name, study.sources, study.seeds) == ("tiny", ("pair/tr",), (0,))
    folder = make_base(1)
    (model,) = narrowed(small_study(), model=str(folder)).models
    assert (model.name, model.path) == (folder.name, str(folder))
    (model,) = narrowed(small_study(), model="demo-deep").models
    assert (model.name, model.path) == ("demo-deep", None)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"task": "knd"}, "no task 'knd'; nearest: kind"),
        ({"language": "e"}, "no language 'e'; nearest: en"),
        ({"model": "tny"}, "no model 'tny'; nearest: tiny"),
        ({"model": "demo-wid"}, "no model 'demo-wid'; nearest: demo-wide"),
    ],
)
def test_a_name_that_is_not_there_is_answered_with_the_nearest(small_study, given, told: str) -> None:
    with pytest.raises(Refused, match=told):
        narrowed(small_study(), **given)


def test_a_source_that_is_no_cell_is_refused_here_too(small_study) -> None:
    study = small_study(("seeds: [17, 42]", "seeds: [17]\nsources: [kind]"))
    with pytest.raises(Refused, match="sources: 'kind' is not a cell"):
        narrowed(study)


def test_an_adapter_must_be_there_to_be_evaluated(records) -> None:
    with pytest.raises(Refused, match=r"no adapter of tiny pair/tr seed 42 .*'small'.*finetune"):
        evaluate_one(narrowed(records.study, task="pair", language="tr", seed=42))
    assert records.runs() == []


def test_fine_tune_and_evaluation_apart_give_the_results_of_the_grid(records, finished, tmp_path: Path) -> None:
    chosen = narrowed(records.study, task="pair", language="tr", seed=42)
    adapter = finetune_one(chosen)
    assert [run.data.tags[Tag.KIND] for run in records.runs()] == [Kind.FINETUNE]
    result = evaluate_one(chosen)
    assert (adapter.reused, result.reused) == (False, False)
    assert len(records.runs()) == 3, "fine-tune, baseline and evaluation, no more"
    expected = finished.results()
    assert len(records.results()) == 3
    assert records.results() == {key: expected[key] for key in records.results()}
    assert evaluate_one(chosen).reused
    for _ in range(2):  # the second time into a folder that is there
        table = pd.read_csv(result.download(str(tmp_path / "out")) / "scores.csv").set_index(["task", "language"])
    assert len(table) == 4
    metrics = result.run.data.metrics
    for cell in (Cell("kind", "en"), Cell("pair", "tr")):
        row = table.loc[(cell.task, cell.language)]
        assert row.score == metrics[f"score/{cell}"]
        assert row.delta_pp == metrics[f"delta/{row.regime}/{cell}"]
    assert table.regime.tolist() == ["CT-CL", "CT-ML", "MT-CL", "MT-ML"]
    assert result.table().count("mean delta") == 4


def test_a_base_is_scored_alone(records, finished, tmp_path: Path) -> None:
    result = evaluate_one(narrowed(records.study), base=True)
    assert [run.data.tags[Tag.KIND] for run in records.runs()] == [Kind.BASELINE]
    expected = finished.results()
    assert records.results() == {key: expected[key] for key in records.results()}
    table = pd.read_csv(result.download(str(tmp_path)) / "scores.csv")
    assert table.delta_pp.isna().all()
    assert "kind" in result.table()
