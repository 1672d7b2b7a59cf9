"""Uplift, harm, construction, Pareto, roles, matrices and comparisons on grids small enough to work by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.measures.statistics import correlate
from analysis.measures.transfer import language_family, long_form, size_bucket, task_matrix, uplift
from analysis.published import PublishedOptions, publish
from analysis.published.compute import ablation
from analysis.published.harm import construction, harm, on_off_task, pareto
from analysis.published.roles import donors_by_construction, donors_correlation, language_families, roles
from tests.analysis.synthetic import synthetic_frame

# Two base models, two tasks, two languages. Deltas in pp by (model, source) on the targets, in the order
#   arc/de  arc/en  mmlu/de  mmlu/en
TARGETS = [("arc_challenge", "de"), ("arc_challenge", "en"), ("global_mmlu", "de"), ("global_mmlu", "en")]
BY_HAND = {
    ("one", "arc_challenge", "de"): [5.0, 1.0, -1.0, 0.0],
    ("one", "arc_challenge", "en"): [2.0, 4.0, -2.0, 0.5],
    ("one", "global_mmlu", "de"): [0.0, -0.99, 3.0, -1.0],
    ("one", "global_mmlu", "en"): [0.25, 1.0, 3.0, 6.0],
    ("two", "arc_challenge", "de"): [1.0, 3.0, 0.0, 0.0],
    ("two", "arc_challenge", "en"): [0.0, 1.0, 0.0, 2.5],
    ("two", "global_mmlu", "de"): [2.0, 1.0, 1.0, 1.0],
    ("two", "global_mmlu", "en"): [-3.0, 0.0, -1.5, 1.0],
}


@pytest.fixture
def cells() -> pd.DataFrame:
    rows = []
    for (model, task, language), deltas in BY_HAND.items():
        for (to_task, to_language), delta in zip(TARGETS, deltas, strict=True):
            regime = ("MT-" if task == to_task else "CT-") + ("ML" if language == to_language else "CL")
            about = ("Fam", 1.0) if model == "one" else ("Ily", 7.0)
            rows.append((model, task, language, to_task, to_language, regime, *about, delta))
    columns = ["model", "source_task", "source_language", "target_task", "target_language", "regime"]
    return pd.DataFrame(rows, columns=[*columns, "model_family", "model_size_b", "delta"])


def test_uplift(cells: pd.DataFrame) -> None:
    table = uplift(cells).set_index("regime")
    # MT-CL: 1, 2, -1, 3; 3, 0, 1, -1.5. Positive 5 of 8; harmed (at or below -1, not -0.99) 2 of 8.
    assert table.loc["MT-CL"].tolist() == [8, 0.9375, 1.0, 62.5, 25.0]
    # CT-ML: -1, 0.5, 0, 1; 0, 2.5, 2, 0. Exactly 0 is not positive, exactly -1 is harm.
    assert table.loc["CT-ML"].tolist() == [8, 0.625, 0.25, 50.0, 12.5]
    # CT-CL: 0, -2, -0.99, 0.25; 0, 0, 1, -3.
    assert table.loc["CT-CL"].tolist() == pytest.approx([8, -4.74 / 8, 0.0, 25.0, 25.0])
    assert table.loc["transfer"].tolist() == pytest.approx(
        [24, (7.5 + 5.0 - 4.74) / 24, 0.0, 100 * 11 / 24, 100 * 5 / 24]
    )
    assert table.loc["MT-ML", "mean"] == pytest.approx((5 + 4 + 3 + 6 + 1 + 1 + 1 + 1) / 8)


def test_harm_of_mt_cl(cells: pd.DataFrame) -> None:
    table = harm(cells).set_index(["factor", "level"])
    # To German: 2, 3, 0, -1.5; to English: 1, -1, 3, 1.
    assert table.loc[("target_language", "de"), ["n", "mean", "harm_pct"]].tolist() == [4, 0.875, 25.0]
    assert table.loc[("target_language", "en"), ["n", "mean", "harm_pct"]].tolist() == [4, 1.0, 25.0]
    assert table.loc[("target_task", "arc_challenge"), "harm_pct"] == 0
    assert table.loc[("target_task", "global_mmlu"), "harm_pct"] == 50.0
    assert table.loc[("size_bucket", "S"), "mean"] == 1.25
    assert table.loc[("model_family", "Ily"), "mean"] == 0.625
    assert [level for factor, level in table.index if factor == "size_bucket"] == ["S", "L"]
    assert [level for factor, level in table.index if factor == "target_task"] == ["global_mmlu", "arc_challenge"]


def test_construction_leaves_out_what_nobody_told(cells: pd.DataFrame) -> None:
    table, left_out = construction(cells)
    assert table.set_index("construction")["mean"].to_dict() == {"human-translated": 0.375, "machine-translated": 1.5}
    assert left_out == []
    other = cells.assign(source_task=cells["source_task"].replace("arc_challenge", "riddles"))
    table, left_out = construction(other)
    assert table["construction"].tolist() == ["human-translated"]
    assert "riddles" in left_out[0].reason


def test_pareto_and_both_sides_of_the_task(cells: pd.DataFrame) -> None:
    points = pareto(cells).set_index(["model", "source_task", "source_language"])
    row = points.loc["one", "arc_challenge", "de"]
    assert (row["mt_cl_mean"], row["off_task_mean"], row["off_task_harm_pct"]) == (1.0, -0.5, 50.0)
    assert (row["model_family"], row["size_bucket"]) == ("Fam", "S")
    sides = on_off_task(cells).set_index(["source_task", "targets"])
    assert sides.loc[("arc_challenge", "on-task"), ["n", "mean"]].tolist() == [4, 1.5]
    # arc on mmlu: -1, 0, -2, 0.5; 0, 0, 0, 2.5.
    assert sides.loc[("arc_challenge", "off-task"), ["n", "mean", "harm_pct"]].tolist() == [8, 0.0, 25.0]


def test_roles(cells: pd.DataFrame) -> None:
    table = roles(cells).set_index(["factor", "name", "role"])
    # German gives 1, -1 (mean 0) and 3, 1 (mean 2).
    row = table.loc["language", "de", "donor"]
    assert (row["score"], row["n_models"]) == (1.0, 2)
    assert row["se"] == pytest.approx(math.sqrt(2) / math.sqrt(2))
    # arc receives in its own language from mmlu: 0, 1 (mean 0.5) and 2, 0 (mean 1).
    assert table.loc[("task", "arc_challenge", "recipient"), "score"] == 0.75
    families = language_families(roles(cells)).set_index(["family", "role"])
    both = (table.loc[("language", "de", "donor"), "score"] + table.loc[("language", "en", "donor"), "score"]) / 2
    assert families.loc[("Germanic", "donor"), "score"] == both
    assert families.loc[("Germanic", "donor"), "languages"] == "de, en"


def test_families_of_languages() -> None:
    assert [language_family(name) for name in ("fr", "it", "en", "bn", "zh", "tr")] == [
        "Romance", "Romance", "Germanic", "Indic", "zh", "tr",
    ]  # fmt: skip
    assert size_bucket(math.nan) == "unknown"


def test_donors_on_both_kinds_of_test() -> None:
    cells = synthetic_frame(3, 4, 6, seed=5)
    donors = donors_by_construction(cells)
    table, left_out = donors_correlation(donors)
    mt_cl = cells[cells["regime"] == "MT-CL"]
    curated = mt_cl["source_task"] == "global_mmlu"
    scores = [
        part.groupby(["model", "source_language"])["delta"].mean().groupby("source_language").mean()
        for part in (mt_cl[curated], mt_cl[~curated])
    ]
    expected = stats.spearmanr(*scores)
    assert left_out == []
    assert table.iloc[0].tolist() == pytest.approx([6, expected.statistic, expected.pvalue])
    table, left_out = donors_correlation(donors_by_construction(cells[curated.reindex(cells.index, fill_value=False)]))
    assert table.empty
    assert "there are 0" in left_out[0].reason


def test_matrices_in_long_form(cells: pd.DataFrame) -> None:
    matrix = task_matrix(cells)
    # arc to mmlu in the same language: -1, 0.5, 0, 2.5; mmlu to arc: 0, 1, 2, 0.
    assert matrix.loc["arc_challenge", "global_mmlu"] == 0.5
    assert np.isnan(matrix.loc["arc_challenge", "arc_challenge"])
    long = long_form({"task": matrix, "language": matrix.iloc[:0, :0]})
    assert long.to_numpy().tolist() == [
        ["task", "arc_challenge", "global_mmlu", 0.5],
        ["task", "global_mmlu", "arc_challenge", 0.75],
    ]


def test_ablation(cells: pd.DataFrame) -> None:
    other = cells.assign(delta=-2 * cells["delta"] + 1)[cells["model"] == "one"]
    table = ablation(cells, other, names=("r 32", "r 64")).set_index("regime")
    one = cells[(cells["model"] == "one") & (cells["regime"] == "MT-CL")]["delta"]
    assert one.tolist() == [1.0, 2.0, -1.0, 3.0]  # against -1, -3, 3, -5: every sign differs
    row = table.loc["MT-CL"]
    assert (row["n"], row["sign_agreement_pct"]) == (4, 0.0)
    assert (row["pearson"], row["spearman"]) == pytest.approx((-1.0, -1.0))
    assert row["mean_difference"] == pytest.approx((2 + 5 - 4 + 8) / 4)
    # CT-CL: 0, -2, -0.99, 0.25 against 1, 5, 2.98, 0.5: only the last agrees; zero and one do not.
    assert table.loc["CT-CL", "sign_agreement_pct"] == 25.0
    assert table.loc["transfer", "n"] == 12


def test_a_comparison_without_shared_cells_is_left_out(cells: pd.DataFrame) -> None:
    found = publish(cells, PublishedOptions(mixed_models=False, against={"other": cells.assign(model="three")}))
    assert found.tables["ablation"].empty
    assert any(part.part == "Comparison with other" for part in found.left_out)


@pytest.mark.parametrize("ranks", [True, False])
def test_correlations_that_do_not_exist_are_nan(ranks: bool) -> None:
    assert np.isnan(correlate([1, 2], [2, 1], ranks=ranks)).all()
    assert np.isnan(correlate([1, 2, 3], [2, 2, 2], ranks=ranks)).all()
