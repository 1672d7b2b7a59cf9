"""The decomposition's table: what it holds, what it says it cannot tell, and what it refuses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf

from analysis.corrected.noise import SamplingNoise
from analysis.corrected.variance.estimate import cube_of, mean_squares
from analysis.corrected.variance.model import COLUMNS, SAMPLING, stacked, variance_components
from analysis.corrected.variance.terms import crossing
from registry.errors import Refused
from tests.analysis.corrected.lme4.frames import FRAMES, NEAR_ZERO, SIZEABLE, Planted, frame

COMPONENTS = ["model", "source", "target", "model:source", "model:target", "source:target", "residual", "sampling"]
SCOPES = ["overall", "transfer", "MT-ML", "MT-CL", "CT-ML", "CT-CL"]
MEDIUM = FRAMES["medium-complete"]


def _scope(table: pd.DataFrame, scope: str) -> pd.DataFrame:
    return table[table["scope"] == scope].set_index("component")


def test_mean_squares_are_statsmodels() -> None:
    cells = frame(FRAMES["small-complete"])
    data = pd.DataFrame(
        {
            "y": cells["delta"].to_numpy(),
            "m": cells["model"].to_numpy(dtype=object),
            "s": (cells["source_task"] + cells["source_language"]).to_numpy(dtype=object),
            "t": (cells["target_task"] + cells["target_language"]).to_numpy(dtype=object),
        }
    )
    theirs = sm.stats.anova_lm(smf.ols("y ~ m + s + t + m:s + m:t + s:t", data).fit())
    cube = cube_of(crossing(cells))
    assert cube is not None
    ours, degrees = mean_squares(cube)
    np.testing.assert_allclose(ours, theirs["mean_sq"], rtol=1e-9)
    np.testing.assert_array_equal(degrees, theirs["df"])


def test_a_hand_worked_cube() -> None:
    """Two of each: with effects of ±1 for models alone, the model's mean square is 8 and all else is 0 or noise."""
    cube = np.ones((2, 2, 2)) * np.array([1.0, -1.0])[:, None, None]
    squares, degrees = mean_squares(cube)
    np.testing.assert_allclose(squares, [8, 0, 0, 0, 0, 0, 0], atol=1e-15)
    np.testing.assert_array_equal(degrees, np.ones(7))


def test_table_has_every_scope_and_component() -> None:
    table = variance_components(frame(MEDIUM), noise=SamplingNoise(0.5, 0.2), noise_note="known")
    assert list(table.columns) == COLUMNS
    assert list(table["scope"].unique()) == SCOPES
    assert set(table["layer"]) == {"corrected"}
    for scope in SCOPES:
        rows = _scope(table, scope)
        assert [name for name in rows.index if name != "cell"] == COMPONENTS
        assert rows["share"].sum() == pytest.approx(1)
        known = rows.dropna(subset="low")
        assert ((known["low"] < known["variance"]) & (known["variance"] < known["high"])).all()
        assert ((rows["share_low"] < rows["share"]) == (rows["share"] < rows["share_high"])).all()
    assert set(table.loc[table["component"] == SAMPLING, "note"]) == {"known"}


def test_noise_comes_off_the_mean_squares() -> None:
    """v − c off source, model:source, source:target and residual, v + (S − 1) c off model, target, model:target."""
    cells, v, c = frame(MEDIUM), 0.5, 0.2
    cube = cube_of(crossing(cells))
    assert cube is not None
    models, sources, targets = cube.shape
    m, s, t, ms, mt, st, r = mean_squares(cube)[0]
    m, t, mt = m - v - (sources - 1) * c, t - v - (sources - 1) * c, mt - v - (sources - 1) * c
    s, ms, st, r = s - v + c, ms - v + c, st - v + c, r - v + c
    expected = {
        "model": (m - ms - mt + r) / (sources * targets),
        "source": (s - ms - st + r) / (models * targets),
        "target": (t - mt - st + r) / (models * sources),
        "model:source": (ms - r) / targets,
        "model:target": (mt - r) / sources,
        "source:target": (st - r) / models,
        "residual": r,
        "sampling": v,
    }
    found = _scope(variance_components(cells, noise=SamplingNoise(v, c)), "overall")["variance"].to_dict()
    assert found == {name: pytest.approx(value) for name, value in expected.items()}


def test_without_outcomes_sampling_is_not_separated() -> None:
    rows = _scope(variance_components(frame(MEDIUM)), "overall")
    assert np.isnan(rows.loc["sampling", "variance"])
    assert rows.loc["sampling", "note"].startswith("not separated: without the outcomes of single questions")
    assert rows["share"].sum() == pytest.approx(1)


def test_trained_cells_have_model_cell_and_residual() -> None:
    rows = _scope(variance_components(frame(MEDIUM), noise=SamplingNoise(0.5, 0.2)), "MT-ML")
    assert list(rows.index[rows["variance"].notna()]) == ["model", "cell", "residual", "sampling"]
    for name in ("source", "target", "model:source", "model:target", "source:target"):
        assert rows.loc[name, "note"].startswith("not identified: source and target are the same cell")
    # The two-way table in closed form; all noise of a delta is the residual's, as no two share a (model, target).
    cells = frame(MEDIUM)
    trained = cells[cells["regime"] == "MT-ML"]["delta"].to_numpy().reshape(MEDIUM.models, -1)
    rest = trained - trained.mean(axis=0) - trained.mean(axis=1, keepdims=True) + trained.mean()
    residual = (rest**2).sum() / ((trained.shape[0] - 1) * (trained.shape[1] - 1))
    assert rows.loc["residual", "variance"] == pytest.approx(residual - 0.5)
    cell = trained.mean(axis=0).var(ddof=1) - residual / len(trained)
    assert rows.loc["cell", "variance"] == pytest.approx(cell)


def test_one_model_cannot_tell_its_own_donors_from_donors() -> None:
    cells = frame(MEDIUM)
    rows = _scope(variance_components(cells[cells["model"] == "lab/0"], noise=SamplingNoise(0.5, 0.2)), "overall")
    assert rows.loc["model", "note"] == "not identified: only one model"
    assert rows.loc["source", "note"] == "holds model:source"
    assert rows.loc["target", "note"] == "holds model:target"
    assert "which holds its variance" in rows.loc["model:source", "note"]
    assert "part of the residual" in rows.loc["source:target", "note"]
    # A baseline's noise is common to a target here.
    without = _scope(variance_components(cells[cells["model"] == "lab/0"]), "overall")["variance"]
    assert without["target"] - rows.loc["target", "variance"] == pytest.approx(0.2)
    assert without["residual"] - rows.loc["residual", "variance"] == pytest.approx(0.3)


def test_one_task_has_no_cross_task_regimes() -> None:
    table = variance_components(frame(Planted(3, 1, 5, SIZEABLE)))
    for regime in ("CT-ML", "CT-CL"):
        rows = _scope(table, regime).drop(index="sampling", errors="ignore")
        assert rows["variance"].isna().all()
        assert set(rows["note"]) == {"not identified: there are no cells"}
    assert _scope(table, "MT-CL").loc["source", "variance"] > 0


def test_two_tasks_give_every_source_one_target_within_a_language() -> None:
    rows = _scope(variance_components(frame(Planted(4, 2, 5, SIZEABLE))), "CT-ML")
    assert rows.loc["source", "note"] == "holds target, source:target"
    assert np.isnan(rows.loc["target", "variance"])


def test_negative_estimates_are_reported_as_such() -> None:
    rows = _scope(variance_components(frame(Planted(3, 2, 3, NEAR_ZERO, seed=3))), "overall")
    below = rows[rows["variance"] < 0]
    assert len(below)
    assert below["note"].str.startswith("negative").all()
    assert (below["low"] < 0).all()


def test_deltas_that_do_not_vary() -> None:
    table = variance_components(frame(MEDIUM).assign(delta=1.0))
    assert table["variance"].isna().all()
    assert "not identified: delta does not vary" in set(table["note"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda cells: pd.concat([cells, cells.head(2)]), "2 cells have more than one row"),
        (lambda cells: cells.assign(delta=cells["delta"].where(cells.index != 3)), "1 of 108 cells have no finite"),
    ],
)
def test_unusable_cells_are_refused(spoil, message: str) -> None:
    with pytest.raises(Refused, match=message):
        variance_components(spoil(frame(FRAMES["small-complete"])))


@pytest.mark.parametrize(("v", "c"), [(-1.0, 0.0), (1.0, 1.5), (float("nan"), 0.0)])
def test_impossible_noise_is_refused(v: float, c: float) -> None:
    with pytest.raises(Refused, match="is impossible"):
        SamplingNoise(v, c)


def test_published_fits_stand_under_the_corrected() -> None:
    published = pd.DataFrame(
        {
            "cells": "transfer",
            "variant": "with model intercept",
            "component": ["Model", "Source", "Target", "Residual"],
            "variance": [0.1, 0.2, 0.3, 0.4],
            "share_pct": [10.0, 20.0, 30.0, 40.0],
            "converged": [True, True, True, False],
            "warnings": "",
            "note": "",
        }
    )
    corrected = variance_components(frame(FRAMES["small-complete"]))
    table = stacked(corrected, published)
    assert list(table.columns) == COLUMNS
    pd.testing.assert_frame_equal(table.head(len(corrected)), corrected)
    rows = _scope(table[table["layer"] == "published"], "transfer")
    assert rows["share"].to_dict() == pytest.approx({"model": 0.1, "source": 0.2, "target": 0.3, "residual": 0.4})
    assert rows.loc["source", "note"] == "with model intercept; holds model:source"
    assert rows.loc["residual", "note"].endswith("did not converge")


@pytest.mark.parametrize("seed", range(16))
def test_hardly_any_cells_give_a_table_and_no_nonsense(seed: int) -> None:
    """Whatever is left of a tiny grid: finite numbers or NaN with a note, and never a warning of the arithmetic."""
    random = np.random.default_rng(seed)
    models, tasks, languages = (int(size) for size in random.integers(1, 4, 3))
    missing = float(random.choice([0.1, 0.4, 0.7, 0.9]))
    cells = frame(Planted(models, tasks, languages, [SIZEABLE, NEAR_ZERO][seed % 2], missing=missing, seed=seed))
    with np.errstate(all="raise", under="ignore"):
        table = variance_components(cells, noise=SamplingNoise(0.2, 0.1))
    told = table["variance"].notna()
    assert not np.isinf(table.loc[told, ["variance", "share"]]).any(axis=None)
    assert (table.loc[~told, "note"] != "").all()
    bare = told & table["low"].isna() & (table["component"] != SAMPLING)
    assert table.loc[bare, "note"].str.contains("no intervals").all()
