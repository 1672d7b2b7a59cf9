"""Kendall's tau-b by sign matrices against scipy, and the Consistency Index against a double loop."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import kendalltau

from analysis.published.consistency import FEWEST_RECIPIENTS, consistency, summarise, tau_b
from tests.analysis.synthetic import synthetic_frame


def _scipy(table: np.ndarray) -> np.ndarray:
    """Tau-b of every pair of columns by scipy, over the rows that both have."""
    n = table.shape[1]
    found = np.full((n, n), np.nan)
    for i in range(n):
        for j in range(n):
            shared = np.isfinite(table[:, i]) & np.isfinite(table[:, j])
            x, y = table[shared, i], table[shared, j]
            if len(x) >= FEWEST_RECIPIENTS and np.ptp(x) > 0 and np.ptp(y) > 0:
                found[i, j] = kendalltau(x, y, variant="b").statistic
    return found


# Few distinct values, so that ties are the rule; NaN for what was not measured.
_VALUES = st.sampled_from([-1.0, -0.25, 0.0, 0.25, 0.5, 3.0, np.nan])


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 9), st.integers(1, 5)), elements=_VALUES))
def test_tau_b_is_scipys_with_ties_and_gaps(table: np.ndarray) -> None:
    np.testing.assert_allclose(tau_b(table), _scipy(table), atol=1e-12, equal_nan=True)


def test_tau_b_by_hand() -> None:
    # Pairs of rows: 12 concordant, 13 tied in the second, 23 discordant: (1 - 1) / sqrt(3 * 2) = 0; with row 4 on top
    # of both, three concordant pairs more: (4 - 1) / sqrt(6 * 5).
    table = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 1.0], [4.0, 5.0]])
    assert tau_b(table[:3])[0, 1] == 0
    assert tau_b(table)[0, 1] == pytest.approx(3 / np.sqrt(30))
    assert np.isnan(tau_b(table[:2])[0, 1])


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_the_index_is_the_mean_over_pairs_of_models(missing: float) -> None:
    cells = synthetic_frame(4, 3, 5, seed=3, missing=missing, items=20, n_seeds=1)
    found = consistency(cells).set_index(["raters", "regime", "source_task", "source_language"])
    for task, language in (("arc_challenge", "ar"), ("hellaswag", "de")):
        source = cells[(cells["source_task"] == task) & (cells["source_language"] == language)]
        recipients = {
            "MT-CL": source["target_language"],
            "CT-ML": source["target_task"],
            "CT-CL": source["target_task"] + "/" + source["target_language"],
        }
        for regime, names in recipients.items():
            rows = source.assign(recipient=names)[source["regime"] == regime]
            table = rows.pivot(index="recipient", columns="model", values="delta")
            taus = []
            for one, other in combinations(table.columns, 2):
                both = table[[one, other]].dropna()
                if len(both) >= 3 and both.nunique().min() > 1:
                    taus.append(kendalltau(both[one], both[other]).statistic)
            row = found.loc["model", regime, task, language]
            assert row["n_pairs"] == len(taus)
            assert row["index"] == pytest.approx(np.mean(taus) if taus else np.nan, abs=1e-12, nan_ok=True)


def test_families_and_sizes_take_the_place_of_models() -> None:
    cells = synthetic_frame(9, 2, 5, seed=1)
    found = consistency(cells).set_index(["raters", "regime", "source_task", "source_language"])
    rows = cells[
        (cells["regime"] == "MT-CL") & (cells["source_task"] == "arc_challenge") & (cells["source_language"] == "en")
    ]
    for raters, column in (
        ("family", rows["model_family"]),
        ("size", pd.cut(rows["model_size_b"], [0, 1.5, 6.9, 99], labels=["S", "M", "L"]).astype(str)),
    ):
        table = rows.assign(rater=column).pivot_table(index="target_language", columns="rater", values="delta")
        taus = [kendalltau(table[a], table[b]).statistic for a, b in combinations(table.columns, 2)]
        row = found.loc[raters, "MT-CL", "arc_challenge", "en"]
        assert (row["n_raters"], row["n_pairs"], row["n_recipients"]) == (3, 3, 4)
        assert row["index"] == pytest.approx(np.mean(taus), abs=1e-12)


def test_equal_profiles_agree_and_the_summary_is_median_and_quartiles() -> None:
    same = synthetic_frame(3, 2, 5, effects={"source_target": 1.0})
    table, _ = summarise(consistency(same))
    assert table[table["regime"] != "CT-ML"][["q1", "median", "q3"]].to_numpy() == pytest.approx(1.0)
    drawn = consistency(synthetic_frame(4, 2, 5, seed=2))
    summary, left_out = summarise(drawn)
    row = summary.set_index(["raters", "regime"]).loc["model", "CT-CL"]
    index = drawn[(drawn["raters"] == "model") & (drawn["regime"] == "CT-CL")]["index"]
    assert row[["q1", "median", "q3"]].tolist() == pytest.approx(np.percentile(index, [25, 50, 75]).tolist())
    # Two tasks make one other task: too few recipients for CT-ML, and the report says so.
    assert "CT-ML" not in set(summary["regime"])
    assert any("CT-ML" in part.part for part in left_out)
