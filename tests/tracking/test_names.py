"""Names of metrics and models: what is written reads back, and MLflow takes it."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Metric

from registry.cells import Cell, Grid, Regime
from registry.models.base import BUILT_IN, PAPER
from registry.tracking import metric_names, names
from registry.tracking.names import Kind

words = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,40}", fullmatch=True)
cells = st.builds(Cell, words, words)
QUANTITIES = {
    "score": metric_names.score,
    "acc": metric_names.acc,
    "acc_norm": metric_names.acc_norm,
    "chance": metric_names.chance,
}
RATES = (metric_names.delta_mean, metric_names.positive_rate, metric_names.harm_rate)
PUBLISHED = Grid(("arc_challenge", "global_mmlu", "truthfulqa_mc1", "xstorycloze"), ("en", "de", "zh-Hant", "sw"))


def test_a_delta_reads_back_over_a_whole_grid() -> None:
    for regime, cell in product(Regime, PUBLISHED):
        assert metric_names.parse_delta(metric_names.delta(regime, cell)) == (regime, cell)


@given(cells, st.sampled_from(Regime))
def test_any_delta_reads_back(cell: Cell, regime: Regime) -> None:
    assert metric_names.parse_delta(metric_names.delta(regime, cell)) == (regime, cell)


@given(cells, st.sampled_from(sorted(QUANTITIES)))
def test_any_score_reads_back_as_its_own_quantity_only(cell: Cell, quantity: str) -> None:
    name = QUANTITIES[quantity](cell)
    assert {other: metric_names.parse_cell(name, other) for other in QUANTITIES} == {
        other: cell if other == quantity else None for other in QUANTITIES
    }
    assert metric_names.parse_delta(name) is None


@pytest.mark.parametrize("regime", Regime)
def test_a_rate_is_no_delta(regime: Regime) -> None:
    assert [metric_names.parse_delta(rate(regime)) for rate in RATES] == [None, None, None]


def test_no_two_metrics_of_a_grid_share_a_name() -> None:
    written = [name(cell) for name in QUANTITIES.values() for cell in PUBLISHED]
    written += [metric_names.delta(regime, cell) for regime, cell in product(Regime, PUBLISHED)]
    written += [rate(regime) for rate, regime in product(RATES, Regime)]
    assert len(set(written)) == len(written)


@pytest.fixture(scope="module")
def run(new_store) -> tuple[MlflowClient, str]:
    address = new_store()
    client = MlflowClient(address, address)
    return client, client.create_run("0").info.run_id


@settings(deadline=None, max_examples=50)
@given(cells, st.sampled_from(Regime))
def test_mlflow_takes_every_metric_name(run: tuple[MlflowClient, str], cell: Cell, regime: Regime) -> None:
    client, run_id = run
    written = [*(write(cell) for write in QUANTITIES.values()), metric_names.delta(regime, cell)]
    client.log_batch(run_id, metrics=[Metric(name, 0.0, 0, 0) for name in written])


@pytest.mark.parametrize("model", [*BUILT_IN, *PAPER, "a:b/c"])
def test_mlflow_takes_every_registered_models_name(run: tuple[MlflowClient, str], model: str) -> None:
    for cell in list(PUBLISHED)[:3]:
        run[0].create_registered_model(names.registered_model(model, cell))


def test_registered_models_of_different_bases_or_cells_have_different_names() -> None:
    written = [names.registered_model(model, cell) for model in PAPER for cell in PUBLISHED]
    assert len(set(written)) == len(PAPER) * len(PUBLISHED)
    assert names.registered_model("owner/base", Cell("arc", "de")) == "owner-base--arc--de"


def test_a_run_is_named_by_what_it_did() -> None:
    assert names.run_name(Kind.FINETUNE, "qwen", Cell("arc", "de"), 17) == "finetune qwen arc/de seed 17"
    assert names.run_name(Kind.EVALUATE, "qwen", Cell("arc", "de"), 0) == "evaluate qwen arc/de seed 0"
    assert names.run_name(Kind.BASELINE, "qwen") == "baseline qwen"


def test_no_two_evaluations_of_an_import_share_a_file() -> None:
    one, two = Cell("x--y", "z"), Cell("x", "y--z")
    files = {names.outcomes_file(model, source, 1) for model in ("a/b", "a--b") for source in (None, one, two)}
    assert len(files) == 6
    assert names.outcomes_file("owner/name", Cell("pair", "tr"), 1) == "outcomes/owner--name/pair--tr--seed-1.parquet"
