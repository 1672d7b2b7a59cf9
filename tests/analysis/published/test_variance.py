"""The published mixed model against a REML of our own by brute force, and against planted effects."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from analysis.measures.transfer import transfer_rows
from analysis.published import variance as module
from analysis.published.variance import COMPONENTS, VARIANTS, decompose, variance
from analysis.reading.observations import cell_names
from tests.analysis.synthetic import synthetic_frame

NESTED = {"model": 0.9, "model_source": 1.0, "model_target": 1.0, "residual": 1.2}


def _design(names: pd.Series) -> np.ndarray:
    return pd.get_dummies(names).to_numpy(dtype=float)


def _reml(rows: pd.DataFrame, *, intercept: bool) -> np.ndarray:
    """Variances that maximise the restricted likelihood of (1|model) + (1|model:source) + (1|model:target)."""
    y, model = rows["delta"].to_numpy(), rows["model"].astype(str)
    parts = [_design(model + "|" + cell_names(rows, end)) for end in ("source", "target")]
    parts = ([_design(model)] if intercept else []) + parts
    kernels = [part @ part.T for part in parts] + [np.eye(len(y))]
    one = np.ones(len(y))

    def criterion(logs: np.ndarray) -> float:
        covariance = sum(np.exp(log) * kernel for log, kernel in zip(logs, kernels, strict=True))
        _, logdet = np.linalg.slogdet(covariance)
        inverse = np.linalg.inv(covariance)
        weight = one @ inverse @ one
        residual = y - (one @ inverse @ y) / weight
        return float(logdet + np.log(weight) + residual @ inverse @ residual)

    found = optimize.minimize(
        criterion, np.zeros(len(kernels)), method="L-BFGS-B", options={"ftol": 1e-13, "gtol": 1e-9}
    )
    return np.exp(found.x)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_the_fit_is_reml_with_components_nested_in_the_model(variant: str) -> None:
    rows = transfer_rows(synthetic_frame(4, 2, 3, seed=8, effects=NESTED))
    fitted = decompose(rows, variant)
    assert not isinstance(fitted, str)
    found = {row["component"]: row["variance"] for row in fitted}
    intercept = variant == "with model intercept"
    expected = _reml(rows, intercept=intercept)
    names = COMPONENTS if intercept else COMPONENTS[1:]
    assert [found[name] for name in names] == pytest.approx(list(expected), rel=5e-3, abs=2e-3)
    assert np.isnan(found["Model"]) == (not intercept)


def test_shares_are_percent_of_the_sum() -> None:
    table, left_out = variance(synthetic_frame(3, 2, 3, seed=1))
    for (cells, variant), rows in table.groupby(["cells", "variant"]):
        assert rows["share_pct"].sum() == pytest.approx(100), (cells, variant)
        ratio = rows["variance"] / rows["variance"].sum() * 100
        assert ratio.tolist() == pytest.approx(rows["share_pct"].tolist(), nan_ok=True)
    assert {"transfer", "MT-CL", "CT-CL"} <= set(table["cells"])
    about_own_cell = [*table.loc[table["cells"] == "MT-ML", "note"], *(p.reason for p in left_out if "MT-ML" in p.part)]
    assert about_own_cell and all("not identified" in words for words in about_own_cell)


def test_source_takes_in_what_each_model_has_for_itself() -> None:
    # No source effect is common to the models, and the published Source share is far from zero: the report warns of it.
    own = synthetic_frame(5, 2, 4, seed=2, effects={"model_source": 1.0, "residual": 1.0})
    rows = decompose(transfer_rows(own), "with model intercept")
    assert not isinstance(rows, str)
    assert next(row["share_pct"] for row in rows if row["component"] == "Source") > 30


def test_warnings_of_the_optimiser_are_in_the_table() -> None:
    # No model effect at all: its variance is on the boundary, and statsmodels says so.
    flat = synthetic_frame(3, 2, 3, seed=0, effects={"residual": 1.0})
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        table, _ = variance(flat)
    assert not [item for item in leaked if "onvergence" in item.category.__name__]
    of_all = table[table["cells"] == "transfer"]
    assert of_all["warnings"].str.contains("ConvergenceWarning").any()


def test_a_singular_fit_is_left_out_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(rows: pd.DataFrame, re_formula: str | None) -> None:
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr(module, "_fit", fail)
    table, left_out = variance(synthetic_frame(2, 2, 2))
    assert table.empty
    assert all("Singular matrix" in part.reason for part in left_out)


def test_one_model_has_no_decomposition() -> None:
    table, left_out = variance(synthetic_frame(1, 2, 3))
    assert table.empty
    assert [part.reason for part in left_out] == ["it takes at least two base models; there is 1."]
