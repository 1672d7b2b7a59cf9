"""Clustered standard errors against statsmodels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from analysis.measures.statistics import two_way


def _reference(values: np.ndarray, groups: np.ndarray) -> float:
    """Standard error of a constant's coefficient: statsmodels, cluster covariance, no small-sample correction."""
    options = {"groups": groups, "use_correction": False}
    fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds=options)
    return float(fit.bse[0])


@pytest.mark.parametrize("seed", range(5))
def test_two_way_is_statsmodels(seed: int) -> None:
    random = np.random.default_rng(seed)
    first, second = random.integers(0, 12, 400), random.integers(0, 9, 400)
    values = random.normal(size=12)[first] + random.normal(size=9)[second] + random.normal(size=400)
    se = two_way(values, pd.Series(first), pd.Series(second), names=("source", "target"))
    assert se.value == pytest.approx(_reference(values, np.column_stack([first, second])), abs=1e-12)
    assert se.note == "clustered by source and target; only 9 targets, so probably too small"


def test_equal_factors_give_the_one_way_error() -> None:
    groups = pd.Series(list("aabbccdd"))
    values = np.arange(8.0) ** 2
    both = two_way(values, groups, groups, names=("source", "target"))
    assert both.value == pytest.approx(_reference(values, groups.map(ord).to_numpy()), abs=1e-12)


def test_a_variance_that_is_not_positive_falls_back_to_the_largest() -> None:
    # A pure interaction: row and column sums vanish, so the two-way variance is minus that of the pairs.
    values, rows, columns = np.array([1.0, -1.0, -1.0, 1.0]), pd.Series([0, 0, 1, 1]), pd.Series([0, 1, 0, 1])
    se = two_way(values, rows, columns, names=("source", "target"))
    assert se.value == pytest.approx(0.5)  # sqrt(4 × 1² / 4²)
    assert se.note.startswith("two-way variance not positive")


def test_no_error_for_one_level_or_nothing() -> None:
    one, many = pd.Series([0, 0, 0]), pd.Series([0, 1, 2])
    se = two_way([1.0, 2.0, 3.0], many, one, names=("source", "target"))
    assert np.isnan(se.value)
    assert se.note == "no standard error: only one target"
    empty = two_way([], one[:0], one[:0], names=("source", "target"))
    assert np.isnan(empty.value)
    assert empty.note == "nothing was measured"
