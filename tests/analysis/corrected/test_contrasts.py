"""Differences between regimes against dummy-variable least squares, and on planted effects."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols

from analysis.corrected.regimes import contrasts
from registry.cells import Grid, Regime

from .simulation import EFFECTS, planted_cells

BY_REGIME = {"MT-ML": 3.0, "MT-CL": 1.0, "CT-ML": 0.4}
GRID = Grid(("a", "b", "c"), ("de", "en", "hi", "tr"))


def _cells(seed: int, *, models: int = 6, grid: Grid = GRID) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    cells = planted_cells(random, EFFECTS, models=models, grid=grid, by_regime=BY_REGIME)
    # What a regime adds differs between models.
    own = {(m, r): random.normal(0, 0.3) for m in cells["model"].unique() for r in map(str, Regime)}
    extra = [own[key] for key in zip(cells["model"], cells["regime"], strict=True)]
    return cells.assign(delta=cells["truth"] + extra + random.normal(0, 0.9, len(cells)))


def test_estimates_and_errors_are_those_of_dummy_variables() -> None:
    cells = _cells(0).sample(frac=0.8, random_state=0).reset_index(drop=True)
    long = cells.assign(
        s=cells["source_task"] + cells["source_language"], t=cells["target_task"] + cells["target_language"]
    )
    fit = ols("delta ~ C(regime, Treatment('CT-CL')) + C(model) + C(s) + C(t)", long).fit()
    model, pair = pd.factorize(long["model"])[0], pd.factorize(long["s"] + long["t"])[0]
    table = contrasts(cells).set_index("contrast")
    row = table.loc["MT-CL − CT-CL"]
    name = "C(regime, Treatment('CT-CL'))[T.MT-CL]"
    assert row["estimate"] == pytest.approx(fit.params[name], abs=1e-9)
    variance = 0.0
    for sign, groups in ((1, model), (1, pair), (-1, np.arange(len(long)))):
        robust = fit.get_robustcov_results("cluster", groups=groups, use_correction=True)
        variance += sign * robust.cov_params()[list(fit.params.index).index(name)][list(fit.params.index).index(name)]
    assert row["se"] == pytest.approx(np.sqrt(variance), rel=1e-9)
    assert row["df"] == 5
    assert row["p"] == pytest.approx(2 * stats.t.sf(abs(row["estimate"]) / row["se"], 5), rel=1e-12)
    assert row["high"] - row["estimate"] == pytest.approx(stats.t.isf(0.025, 5) * row["se"], rel=1e-12)
    assert row["clusters"] == f"6 models, {pair.max() + 1} source:target pairs"
    assert row["note"] == ""
    assert table.loc["MT-ML − MT-CL", "note"] == "only 12 pairs are MT-ML, so the error is too small"


def test_one_model_is_clustered_by_pair_and_says_so() -> None:
    cells = _cells(1, models=1)
    row = contrasts(cells).iloc[0]
    assert row["se"] > 0
    assert row["df"] == 143
    assert "one model: this is a statement on it and on no other" in row["note"]
    assert row["clusters"] == "1 model, 144 source:target pairs"


def test_few_models_are_told() -> None:
    table = contrasts(_cells(1, models=4))
    assert table["note"].str.startswith("only 4 models").all()
    assert table["note"].str.endswith("only 12 pairs are MT-ML, so the error is too small").tolist() == [True] + 3 * [
        False
    ]


def test_a_variance_that_is_not_positive_names_the_clusters() -> None:
    # Two models that are exactly opposite on every pair: no contrast differs, and the sums over pairs vanish.
    one = _cells(2, models=1)
    other = one.assign(model="lab/other", delta=-one["delta"])
    table = contrasts(pd.concat([one, other], ignore_index=True))
    none = table[table["se"].isna()]
    assert len(none)
    assert none["note"].str.contains("as 2 models are too few clusters").all()
    assert none[["low", "high", "p"]].isna().all().all()
    assert none["estimate"].notna().all()


@pytest.mark.parametrize(
    ("cells", "note"),
    [
        (_cells(0, grid=Grid(("a",), ("de",))), "there is only regime MT-ML"),
        (
            _cells(0).query("source_task == 'a' and source_language == 'de'"),
            "regimes follow from model, source and target",
        ),
        (_cells(0, models=1, grid=Grid(("a",), ("de", "en"))), "too few cells: 4 for 4 effects"),
        (_cells(0).iloc[:0], "there is only an empty frame"),
    ],
)
def test_what_cannot_be_told_apart_is_said(cells: pd.DataFrame, note: str) -> None:
    table = contrasts(cells.reset_index(drop=True))
    assert table["note"].str.contains(note).all()
    assert table[["estimate", "se", "low", "high", "p"]].isna().all().all()


def test_a_regime_without_cells_is_named() -> None:
    table = contrasts(_cells(0, grid=Grid(("a",), ("de", "en", "tr")))).set_index("contrast")
    assert table.loc["MT-ML − MT-CL", "estimate"] == pytest.approx(2, abs=1.5)
    assert table.loc["MT-CL − CT-ML", "note"] == "no cell is CT-ML"


@pytest.mark.slow
def test_intervals_cover_the_planted_differences() -> None:
    expected = np.array([2.0, 0.6, 1.0, 0.4])
    covered = np.zeros((200, 4), dtype=bool)
    for seed in range(len(covered)):
        table = contrasts(_cells(seed, models=9, grid=Grid(("a", "b", "c", "d"), tuple("vwxyz"))))
        covered[seed] = (table["low"] <= expected) & (expected <= table["high"])
    assert 0.92 <= covered.mean() <= 0.98
    # MT-ML has but 20 pairs, as its note says.
    assert covered[:, 0].mean() >= 0.86
    assert (covered[:, 1:].mean(axis=0) >= 0.91).all()
