"""What a search is given to read: training items, divided, and never a test item."""

from __future__ import annotations

from dataclasses import replace

import pytest
from optuna.trial import TrialState

from registry.benchmarks import demo as demo_items
from registry.benchmarks.aligned import align
from registry.benchmarks.kinds import load_benchmark
from registry.cells import Cell
from registry.config.data import SplitSpec
from registry.config.study import Study
from registry.errors import Refused
from registry.runner import single
from registry.tuning import preparation
from registry.tuning.items import held_out, training_side
from registry.tuning.search import run_search
from tests.tuning.trials import trials_of


@pytest.fixture
def sealed():
    """The built-in grid, its test items out of reach."""

    def pool(cell, split):
        assert split == "train", f"a test item of {cell} was read"
        return demo_items.items(cell, split)

    return replace(load_benchmark(Study(name="x", models=[{"name": "demo-wide"}]).benchmark), pool=pool)


@pytest.mark.parametrize("objective", ["validation_loss", "transfer"])
def test_a_whole_search_reads_no_test_item(study, sealed, uri, monkeypatch, tmp_path, objective) -> None:
    monkeypatch.setattr(preparation, "load_benchmark", lambda spec: sealed)
    monkeypatch.setattr(single, "load_benchmark", lambda spec: sealed)
    with pytest.raises(AssertionError, match="a test item of kind/en was read"):
        align(sealed, sealed.select(study.tasks, study.languages), study.split)
    trials = trials_of(study, uri, objective=objective, trials=2)
    run_search(trials, str(tmp_path))
    assert trials.valid(TrialState.COMPLETE)


def test_the_training_side_is_what_the_study_trains_on(study) -> None:
    benchmark = load_benchmark(study.benchmark)
    grid = benchmark.select(study.tasks, study.languages)
    whole, side = align(benchmark, grid, study.split), training_side(benchmark, grid, study.split)
    divided = held_out(benchmark, grid, study.split, share=0.25)
    for cell in grid:
        trained, judged = ({item.id for item in part(cell)} for part in (divided.train, divided.test))
        assert side.train(cell) == whole.train(cell)
        assert not trained & judged
        assert trained | judged <= {item.id for item in whole.train(cell)}
        assert (len(trained), len(judged)) == (18, 6)
        assert judged == {item.id for item in divided.test(Cell(cell.task, "en"))}


def test_where_one_pool_is_divided_only_its_training_part_is_used(study) -> None:
    benchmark = load_benchmark(study.benchmark)
    one = replace(benchmark, one_pool=frozenset({"kind"}))
    grid = one.select(["kind"], ["en", "tr"])
    split = SplitSpec(test=10)  # all others are trained on
    whole, divided = align(one, grid, split), held_out(one, grid, split, share=0.2)
    tested = {item.id for item in whole.test(Cell("kind", "en"))}
    used = {item.id for part in (divided.train, divided.test) for item in part(Cell("kind", "en"))}
    assert used
    assert not used & tested


def test_a_manifest_keeps_its_training_rows_and_the_lines_of_its_faults(study, tmp_path) -> None:
    benchmark = load_benchmark(study.benchmark)
    grid = benchmark.select(study.tasks, study.languages)
    whole = align(benchmark, grid, study.split)
    for task in grid.tasks:
        (tmp_path / f"{task}.csv").write_text(whole.manifest(task).to_csv(), encoding="utf-8")
    split = SplitSpec(manifest=str(tmp_path))
    side = training_side(benchmark, grid, split)
    assert all(side.train(cell) == whole.train(cell) for cell in grid)
    file = tmp_path / "pair.csv"
    test = whole.manifest("pair").test[0]
    file.write_text(f"split,id\ntest,{test}\ntrain,nowhere\n", encoding="utf-8")
    with pytest.raises(Refused, match=rf"{file}:3: train has no item 'nowhere'"):
        training_side(benchmark, grid, split)


def test_a_question_trained_on_under_another_id_is_not_judged_on(study) -> None:
    benchmark = load_benchmark(study.benchmark)
    grid = benchmark.select(["kind"], ["en", "tr"])
    plain = held_out(benchmark, grid, study.split, share=0.25)
    cell = Cell("kind", "en")
    twin, trained = plain.test(cell)[0], plain.train(cell)[0]

    def pool(cell, split):
        items = {item.id: item for item in benchmark.pool(cell, split)}
        items[twin.id] = replace(items[trained.id], id=twin.id)
        return tuple(items.values())

    found = held_out(replace(benchmark, pool=pool), grid, study.split, share=0.25)
    assert {item.id for item in plain.test(cell)} - {item.id for item in found.test(cell)} == {twin.id}
    assert found.train(cell) == plain.train(cell)
