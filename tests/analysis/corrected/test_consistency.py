"""The ceiling of the Consistency Index against studies with planted profiles and against Greiner's relation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.corrected.cells import assumed_cells
from analysis.corrected.consistency import COLUMNS, CORRECTED, PUBLISHED, ceiling_profile, with_ceiling
from analysis.published.consistency import consistency, summarise
from registry.errors import Refused
from tests.analysis.synthetic import synthetic_frame

from .planted import Drawn

KEY = ["grouping", "regime"]


def _row(table: pd.DataFrame, grouping: str = "model", regime: str = "CT-CL", layer: str = CORRECTED) -> pd.Series:
    return table[table["layer"] == layer].set_index(KEY).loc[(grouping, regime)]


def test_the_published_layer_is_the_published_summary() -> None:
    cells = synthetic_frame(5, 2, 5, seed=2, missing=0.1)
    table = with_ceiling(cells, 0.9, draws=20)
    assert list(table.columns) == COLUMNS
    expected, _ = summarise(consistency(cells))
    columns = ["regime", "median", "q1", "q3", "n_sources"]
    for layer in (PUBLISHED, CORRECTED):
        found = table[table["layer"] == layer].reset_index(drop=True)
        pd.testing.assert_frame_equal(found[columns], expected[columns])
        assert found["grouping"].tolist() == expected["raters"].tolist()
    of_published = table[table["layer"] == PUBLISHED]
    assert of_published[["ceiling", "ceiling_low", "ceiling_high"]].isna().all(axis=None)
    of_corrected = table[table["layer"] == CORRECTED]
    assert of_corrected["ceiling_low"].le(of_corrected["ceiling_high"]).all()
    # Two tasks leave one other task, and one recipient is no profile.
    assert "CT-ML" not in set(table["regime"])


@pytest.mark.parametrize("ratio", [0.5, 1.1, 2.3])
def test_the_ceiling_is_greiners_relation(ratio: float) -> None:
    # Of normal profiles with the variance s² and noise of variance n² tau is 2/π arcsin(s² / (s² + n²)); from 1.1 to
    # 2.3 it goes from 0.37 to 0.63.
    noise = 0.9
    drawn, random = Drawn(6, 4, 9), np.random.default_rng(1)
    delta = drawn.delta(random, {"source:target": (ratio * noise) ** 2, "residual": noise**2})
    row = _row(with_ceiling(drawn.frame.assign(delta=delta), noise, shared=0.0, draws=40))
    assert row["ceiling"] == pytest.approx(2 / np.pi * np.arcsin(ratio**2 / (1 + ratio**2)), abs=0.03)


def test_identical_profiles_are_at_the_ceiling() -> None:
    # Noise of 0.9 pp of which 3/4 is common to the sources of a (model, target), as with 3 seeds.
    drawn, random, inside, apart = Drawn(6, 2, 5), np.random.default_rng(5), [], []
    noise = {"model:target": 0.75 * 0.81, "residual": 0.25 * 0.81}
    for study in range(20):
        delta = drawn.delta(random, {"model": 0.5, "source": 0.5, "target": 1.0, "source:target": 0.3, **noise})
        table = with_ceiling(drawn.frame.assign(delta=delta), 0.9, draws=40, seed=study)
        row = _row(table)
        inside.append(row["ceiling_low"] <= row["median"] <= row["ceiling_high"])
        assert row["median"] < 0.75
        apart.append(row["ceiling"] - row["median"])
    assert np.mean(inside) >= 0.8
    assert np.mean(apart) == pytest.approx(0, abs=0.05)


def test_profiles_of_single_models_are_below_the_ceiling() -> None:
    drawn, random = Drawn(6, 3, 6), np.random.default_rng(6)
    delta = drawn.delta(random, {"model:target": 1.0 + 0.75 * 0.81, "residual": 0.25 * 0.81})
    row = _row(with_ceiling(drawn.frame.assign(delta=delta), 0.9, draws=60))
    assert row["median"] < 0.1
    assert row["ceiling_low"] > 0.2
    assert row["note"].startswith("below the ceiling: profiles differ by more than noise")
    assert "ASSUMED noise of 0.9 pp per cell" in row["note"]


def test_common_noise_widens_the_range() -> None:
    cells = synthetic_frame(5, 3, 5, effects={"target": 1.0, "residual": 0.9})
    width = {}
    for shared in (0.0, 0.75):
        row = _row(with_ceiling(cells, 0.9, shared=shared))
        width[shared] = row["ceiling_high"] - row["ceiling_low"]
        assert "common" not in row["note"]
    assert width[0.75] > 1.3 * width[0.0]
    assert _row(with_ceiling(cells, 0.9))["ceiling_low"] == _row(with_ceiling(cells, 0.9, shared=0.75))["ceiling_low"]
    assert "75% of the noise's variance ASSUMED common to all sources" in _row(with_ceiling(cells, 0.9))["note"]


def test_without_noise_identical_profiles_agree_wholly() -> None:
    row = _row(with_ceiling(synthetic_frame(4, 2, 4, effects={"source_target": 1.0}), 0.0, draws=10))
    assert (row["median"], row["ceiling"]) == pytest.approx((1, 1))


def test_errors_of_cells_are_taken_from_their_table() -> None:
    cells = synthetic_frame(4, 2, 5, seed=3)
    errors = assumed_cells(cells, n_questions=400)
    equal = errors.assign(se=0.9)
    one, same = with_ceiling(cells, equal.sample(frac=1, random_state=0)), with_ceiling(cells, 0.9)
    numbers = ["ceiling", "ceiling_low", "ceiling_high"]
    pd.testing.assert_frame_equal(one[numbers], same[numbers])
    assert not one["note"].str.contains("0.9 pp").any()
    measured = _row(with_ceiling(cells, errors))
    assert measured["ceiling"] != _row(same)["ceiling"]


def test_groups_of_models_have_less_noise() -> None:
    # A family of three models has a third of the noise's variance, so with equal profiles its ceiling is higher.
    drawn, random = Drawn(9, 2, 8), np.random.default_rng(2)
    delta = drawn.delta(random, {"source:target": 1.0, "residual": 1.0})
    table = with_ceiling(drawn.frame.assign(delta=delta), 1.0, draws=40, shared=0.0)
    greiner = {n: 2 / np.pi * np.arcsin(1 / (1 + 1 / n)) for n in (1, 3)}
    assert _row(table, "model", "MT-CL")["ceiling"] == pytest.approx(greiner[1], abs=0.06)
    assert _row(table, "family", "MT-CL")["ceiling"] == pytest.approx(greiner[3], abs=0.06)


def test_unknown_noise_leaves_the_ceiling_out_with_the_reason() -> None:
    cells = synthetic_frame(3, 1, 4, seed=3)
    errors = cells.assign(se=0.9)
    errors.loc[(errors["source_language"] == "ar") & (errors["target_language"] == "bn"), "se"] = np.nan
    row = _row(with_ceiling(cells, errors, draws=10), regime="MT-CL")
    assert np.isnan(row["ceiling"])
    assert row["note"].startswith("no ceiling: the noise of 3 deltas of it is not known")
    assert np.isfinite(row["median"])


def test_a_profile_by_hand() -> None:
    # Two raters with the profiles (−1, 0, 1) and (−3, 0, 3), each with a variance of noise of 1: within raters the
    # variance is (1 + 9) / 2 = 5, of which 4 is beyond noise, and the mean profile (−2, 0, 2) has 4 already.
    delta = np.array([[4.0, 4.0], [5.0, 7.0], [6.0, 10.0]])
    assert ceiling_profile(delta, np.ones((3, 2))) == pytest.approx([-2, 0, 2])
    assert ceiling_profile(delta, np.full((3, 2), 4.0)) == pytest.approx([-1, 0, 1])
    assert ceiling_profile(delta, np.full((3, 2), 6.0)) == pytest.approx([0, 0, 0])
    gap = np.array([[-1.0, np.nan], [0.0, np.nan], [1.0, 3.0]])
    assert ceiling_profile(gap, np.where(np.isnan(gap), np.nan, 0.0)).std(ddof=1) == pytest.approx(1)


@pytest.mark.parametrize(("noise", "shared"), [(-1.0, 0.0), (float("nan"), 0.0), (0.9, 1.5)])
def test_impossible_noise_is_refused(noise: float, shared: float) -> None:
    with pytest.raises(Refused, match="noise"):
        with_ceiling(synthetic_frame(2, 1, 4), noise, shared=shared)
