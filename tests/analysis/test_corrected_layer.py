"""The corrected layer as a whole: on any grid, with outcomes of questions and without, and what the report says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.analysis import analyze
from analysis.corrected import Corrected, correct, uncorrected
from analysis.corrected.by_cell import CELL_COLUMNS, by_cell
from analysis.corrected.regimes import regimes
from analysis.measures.answers import StudyOutcomes, TargetOutcomes
from analysis.measures.transfer import language_matrix, task_matrix
from analysis.published.variance import COLUMNS as PUBLISHED_COLUMNS
from analysis.reading.observations import StudyOrigin, adapters
from analysis.report.corrected import parts
from analysis.report.figures.matrices import matrix_drawings
from analysis.report.findings import adapter_count, cautions, facts, findings
from analysis.report.tables import headline_tables
from registry.cells import Regime, regime_of
from registry.errors import Refused
from registry.tracking.columns import CELL_KEY
from tests.analysis.corrected.simulation import EFFECTS, simulate
from tests.analysis.synthetic import synthetic_frame

if TYPE_CHECKING:
    from tests.analysis.conftest import FrameMaker

NAMES = {
    "regimes", "tests", "rates", "contrasts", "variance_components", "roles", "role_pairs", "role_differences",
    "consistency", "linguistic", "power",
}  # fmt: skip


def recorded_cells(outcomes: StudyOutcomes) -> pd.DataFrame:
    """Average the outcomes to cells, as they would have been recorded."""
    rows = []
    for block in outcomes:
        (baseline,) = block.baselines.values()
        for source, changes in block.changes().items():
            names = (block.model, source.task, source.language, block.target.task, block.target.language)
            delta = round(100 * float(changes.mean()), 9)
            regime = str(regime_of(source, block.target))
            rows.append((*names, regime, float(baseline.mean()), delta, len(changes)))
    cells = pd.DataFrame(rows, columns=[*CELL_KEY, "regime", "baseline", "delta", "n_seeds"])
    about = {"model_family": "One", "model_size_b": 1.0, "score": cells["baseline"] + cells["delta"] / 100}
    return cells.assign(**about).sort_values(CELL_KEY, ignore_index=True)


def check(found: Corrected, cells: pd.DataFrame) -> None:
    """Whatever the grid: every table, every part and every sentence is there or left out with a reason."""
    assert set(found.tables) == NAMES == set(uncorrected(cells).tables)  # files of an earlier analysis go by name
    assert len(found.cells) == len(cells)
    assert set(CELL_COLUMNS) <= set(found.cells)
    regime_rows = found.tables["regimes"].set_index("regime")
    assert regime_rows.loc["transfer", "n"] == (cells["regime"] != "MT-ML").sum()
    if len(found.tables["rates"]):
        measured = regime_rows[regime_rows["n"] > 0]
        rates = measured[["positive_posterior_pct", "harm_posterior_pct", "harm_by_chance_pct"]].to_numpy()
        assert (((rates >= 0) & (rates <= 100 + 1e-9)) | np.isnan(rates)).all()
        tested = found.cells.dropna(subset="q")["regime"].unique()
        assert not np.isnan(rates[measured.index.isin(tested)]).any()
    else:
        assert any("noise" in part.reason for part in found.left_out)
    for shown in (*headline_tables(found), *(table for part in parts(found) for table in part.tables)):
        assert all(len(row) == len(shown.headings) for row in shown.rows)
    for sentence in (*findings(found), *(sentence for _, sentence in cautions(found))):
        assert sentence.endswith(".")
        assert "nan" not in sentence


@settings(max_examples=12, deadline=None)
@given(
    n_models=st.integers(1, 3),
    tasks=st.integers(1, 3),
    languages=st.integers(1, 3),
    seed=st.integers(0, 1000),
    missing=st.sampled_from([0.0, 0.4, 0.8]),
    items=st.sampled_from([0, 2, 400]),
    n_seeds=st.integers(1, 3),
    baseless=st.booleans(),
)
def test_any_grid_without_outcomes(baseless: bool, **shape: object) -> None:
    cells = synthetic_frame(**shape)
    if cells.empty:
        return
    if baseless:
        cells = cells.assign(baseline=np.nan)
    found = correct(cells, published_variance=pd.DataFrame(columns=PUBLISHED_COLUMNS))
    check(found, cells)
    assert bool(found.assumed) == (not baseless)


@settings(max_examples=12, deadline=None)
@given(
    models=st.integers(1, 2),
    tasks=st.integers(1, 2),
    languages=st.integers(1, 3),
    seed=st.integers(0, 1000),
    questions=st.sampled_from([1, 2, 30]),
    seeds=st.integers(1, 2),
    kept=st.sampled_from([1.0, 0.6]),
)
def test_any_grid_with_outcomes(kept: float, seed: int, **shape: int) -> None:
    outcomes = simulate(seed, **shape).outcomes
    cells = recorded_cells(outcomes)
    cells = cells[np.random.default_rng(seed).random(len(cells)) <= kept].reset_index(drop=True)
    if cells.empty:
        return
    found = correct(cells, outcomes=outcomes)
    check(found, cells)
    assert not found.assumed
    assert (found.cells["noise"] == "measured over questions").all() == (shape["questions"] > 1)


def test_outcomes_of_a_part_of_the_cells_test_that_part() -> None:
    study = simulate(5, models=2, tasks=2, languages=2, questions=40)
    cells = recorded_cells(study.outcomes)
    some = StudyOutcomes(study.outcomes.blocks[:3])
    found = by_cell(cells.assign(delta=cells["delta"] + 1), some)
    tested = found.cells["p"].notna()
    assert int(tested.sum()) == sum(len(block.changes()) for block in some)
    assert found.cells.loc[~tested, "note"].unique().tolist() == ["not tested: its noise is not known"]
    assert found.notes == (
        f"{len(cells) - int(tested.sum()):,} of {len(cells):,} cells have no outcomes of questions and are not tested.",
        f"The outcomes of questions give {int(tested.sum())} cells another Δ than was recorded, as when a run's files "
        "and its metrics are of different evaluations: the tests of these cells are of the outcomes.",
    )


def test_cells_gain_by_shrinkage_where_the_trained_cell_gains_far_more() -> None:
    study = simulate(2, EFFECTS, models=4, tasks=3, languages=4)
    blocks = [_trained_on(block) for block in study.outcomes]
    cells = recorded_cells(StudyOutcomes(tuple(blocks)))
    assert cells.loc[cells["regime"] == "MT-ML", "delta"].mean() > 8
    found = by_cell(cells, StudyOutcomes(tuple(blocks)))
    both = found.cells.merge(study.cells[[*CELL_KEY, "truth"]], on=CELL_KEY)
    transfer = both[both["regime"] != "MT-ML"]
    errors = {name: math.sqrt(((transfer[name] - transfer["truth"]) ** 2).mean()) for name in ("delta", "shrunken")}
    assert errors["shrunken"] < 0.85 * errors["delta"]
    inside = (transfer["shrunken"] - transfer["truth"]).abs() <= 1.96 * transfer["shrunken_sd"]
    assert 0.9 < inside.mean() < 0.99


def _trained_on(block: TargetOutcomes) -> TargetOutcomes:
    """Let the adapters that were trained on the target answer its first 80 questions of 400 correctly."""
    answers = {key: right.copy() for key, right in block.adapters.items()}
    for key, right in answers.items():
        if key.source == block.target:
            right[:80] = True
    return replace(block, adapters=answers)


@pytest.mark.parametrize("models", [2, 3, 9])
def test_the_interval_of_a_mean_is_a_t_interval_over_models_where_only_they_differ(models: int) -> None:
    random = np.random.default_rng(models)
    cells = synthetic_frame(models, 2, 3, effects={})
    shift = dict(zip(cells["model"].unique(), random.normal(0, 5, models), strict=True))
    cells["delta"] = cells["model"].map(shift) + random.normal(0, 1e-3, len(cells))
    for label, row in regimes(cells, pd.DataFrame()).set_index("regime").iterrows():
        of_regime = cells[(cells["regime"] != "MT-ML") if label == "transfer" else (cells["regime"] == label)]
        means = of_regime.groupby("model")["delta"].mean()
        low, high = stats.ttest_1samp(means, 0).confidence_interval(0.95)
        assert (row["low"], row["high"]) == pytest.approx((low, high), rel=1e-3), label


def test_one_model_speaks_for_itself() -> None:
    found = correct(synthetic_frame(1, 2, 4))
    transfer = found.tables["regimes"].set_index("regime").loc["transfer"]
    assert transfer["low"] < transfer["mean"] < transfer["high"]
    assert transfer["interval_note"].startswith("one model")
    assert "for this model" in findings(found)[0]
    assert "One model" in dict(cautions(found))


def test_noise_that_makes_the_harm_is_said() -> None:
    cells = synthetic_frame(3, 2, 3, effects={"residual": 1.2}, regime_means=dict.fromkeys(map(str, Regime), 0.0))
    assert "Noise dominates the raw rates" in dict(cautions(correct(cells)))
    lost = cells.assign(delta=cells["delta"] - 10, score=cells["score"] - 0.1)
    assert "Noise dominates the raw rates" not in dict(cautions(correct(lost)))


# --- where numbers come from


@pytest.mark.parametrize(
    ("store", "experiment", "run", "model"),
    [
        (
            "https://me:***@host.org/lab/", "3", "https://host.org/lab/#/experiments/3/runs/r1",
            "https://host.org/lab/#/models/m--t--l/versions/2",
        ),
        ("http://host:5000", "", "", "http://host:5000/#/models/m--t--l/versions/2"),
        ("sqlite:///runs.db", "3", "", ""),
        ("javascript:alert(1)", "3", "", ""),
    ],
)  # fmt: skip
def test_links_lead_to_the_servers_pages(store: str, experiment: str, run: str, model: str) -> None:
    origin = StudyOrigin(store, experiment)
    assert (origin.run_url("r1"), origin.model_url("m--t--l/2")) == (run, model)
    assert origin.run_url("") == ""
    assert origin.model_url("") == ""


def test_adapters_are_models_sources_and_seeds(make_frame: FrameMaker) -> None:
    frame = make_frame(models=["a", "b"], seeds=(1, 2, 3))
    # Half of the targets were evaluated by a second run: the adapter is the same.
    seen = frame.observations
    again = seen["target_task"] == "mmlu"
    frame = replace(frame, observations=seen.assign(run_id=seen["run_id"].where(~again, seen["run_id"] + " again")))
    assert adapter_count(frame) == 2 * 6 * 3
    table = adapters(frame.observations.assign(run_id="one"), StudyOrigin())
    assert len(table) == 36
    assert (table["n_targets"] == 6).all()
    averaged = frame.observations[frame.observations["seed"] == 1].assign(seed=-1, delta_sd=1.0, n_seeds=3)
    imported = replace(frame, observations=averaged, seed_averaged=True)
    assert adapter_count(imported) == 36
    assert dict(facts(imported, StudyOrigin()))["Seeds"] == "3 per adapter, averaged before the import"


def test_the_report_links_runs_and_versions(make_frame: FrameMaker, output: Path) -> None:
    frame = make_frame(tasks=["arc"], languages=["de", "en"])
    seen = frame.observations.assign(run_id="ab12", model_version="one--arc--de/7")
    origin = StudyOrigin("https://host.org", "3", {"LoRA rank": "32"})
    page = analyze(replace(frame, observations=seen), output, origin=origin).report.read_text(encoding="utf-8")
    assert '<a href="https://host.org/#/experiments/3/runs/ab12">run</a>' in page
    assert '<a href="https://host.org/#/models/one--arc--de/versions/7">version 7</a>' in page
    assert "<dt>Recipe</dt><dd>LoRA rank 32</dd>" in page


# --- heatmaps


def test_heatmaps_show_what_is_asked_for(tmp_path: Path) -> None:
    cells = correct(synthetic_frame(3, 2, 3)).cells
    embedded = {}
    for shown in ("raw", "shrunken", "significant"):
        drawings = matrix_drawings(tmp_path / shown, task_matrix(cells), language_matrix(cells), cells, shown)
        embedded[shown] = [drawing.png.read_bytes() for drawing in drawings]
        assert {label for label, _, _ in drawings[0].others} == {"raw", "shrunken", "significant"} - {shown}
        others = {label: png.read_bytes() for label, png, _ in drawings[0].others}
        assert all(others[label] == embedded[label][0] for label in others if label in embedded)
    assert len({first for first, _ in embedded.values()}) == 3


def test_a_heatmap_of_nothing_known_is_refused(make_frame: FrameMaker, output: Path) -> None:
    with pytest.raises(Refused, match="shrunken"):
        analyze(make_frame(), output, heatmaps="shrunk")
    assert not output.exists()
