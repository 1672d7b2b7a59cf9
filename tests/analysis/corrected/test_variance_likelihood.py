"""The restricted likelihood against dense matrices, and its maximum against the closed form."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal

from analysis.corrected.variance.estimate import complete_cube, cube_of
from analysis.corrected.variance.likelihood import EffectsBlock, likelihood
from analysis.corrected.variance.reml import fit_reml
from analysis.corrected.variance.terms import Crossing, IdentifiedTerms, crossing, identify
from tests.analysis.corrected.lme4.frames import FRAMES, frame

VARIANCES = {
    "all positive": [1.5, 1.0, 0.5, 2.0, 0.3, 0.8, 0.4],
    "some negative": [1.5, 1.0, 0.5, -0.03, 0.3, -0.08, 0.4],
    "eliminated one negative": [1.5, 1.0, 0.5, 2.0, 0.3, 0.8, -0.2],
    "some zero": [1.5, 0.0, 0.5, 2.0, 0.0, 0.8, 0.0],
}


def _design(name: str) -> tuple[Crossing, IdentifiedTerms]:
    rows = crossing(frame(FRAMES[name]))
    return rows, identify(rows)


def _dense(rows: Crossing, identified: IdentifiedTerms) -> list[np.ndarray]:
    """Return the residual's and the terms' covariances."""
    indicators = [np.eye(term.levels)[term.codes] for term in identified.terms]
    return [np.eye(len(rows)), *(z @ z.T for z in indicators)]


@pytest.mark.parametrize("phi", VARIANCES.values(), ids=VARIANCES)
def test_likelihood_is_that_of_dense_matrices(phi: list[float]) -> None:
    rows, identified = _design("small-missing")
    parts = _dense(rows, identified)
    codes = [term.codes for term in identified.terms]
    ours = likelihood(EffectsBlock(rows.delta[:, None], codes[:-1], codes[-1]), np.array(phi))
    assert ours is not None

    covariance = sum(value * part for value, part in zip(phi, parts, strict=True))
    inverse, ones = np.linalg.inv(covariance), np.ones(len(rows))
    precision = ones @ inverse @ ones
    mean = ones @ inverse @ rows.delta / precision
    of_data = -2 * multivariate_normal(mean * ones, covariance).logpdf(rows.delta)
    assert ours.criterion == pytest.approx(of_data + np.log(precision / (2 * np.pi)), abs=1e-5)
    assert (ours.mean, ours.mean_variance) == pytest.approx((mean, 1 / precision), rel=1e-6)

    p = inverse - np.outer(inverse @ ones, inverse @ ones) / precision
    score = [(rows.delta @ p @ part @ p @ rows.delta - np.trace(p @ part)) / 2 for part in parts]
    np.testing.assert_allclose(ours.score, score, rtol=1e-5, atol=1e-5)
    information = [[np.trace(p @ left @ p @ right) / 2 for right in parts] for left in parts]
    np.testing.assert_allclose(ours.information, information, rtol=1e-5, atol=1e-5)


def test_no_likelihood_where_the_covariance_is_not_positive_definite() -> None:
    """Also where an even number of eigenvalues is negative, so that the determinant is positive."""
    rows, identified = _design("small-missing")
    codes, parts = [term.codes for term in identified.terms], _dense(rows, identified)
    block = EffectsBlock(rows.delta[:, None], codes[:-1], codes[-1])
    random, agreed = np.random.default_rng(1), {True: 0, False: 0}
    for _ in range(300):
        phi = np.append(1.0, random.uniform(-0.15, 0.3, len(codes)))
        covariance = sum(value * part for value, part in zip(phi, parts, strict=True))
        definite = bool(np.linalg.eigvalsh(covariance)[0] > 0)
        assert (likelihood(block, phi) is not None) == definite
        agreed[definite] += 1
    assert min(agreed.values()) > 20


@pytest.mark.parametrize("constrained", [False, True])
def test_reml_of_a_cube_is_the_closed_form(constrained: bool) -> None:
    rows, identified = _design("medium-complete")
    cube = cube_of(rows)
    assert cube is not None
    closed, fitted = complete_cube(cube, identified), fit_reml(rows, identified, constrained=constrained)
    assert fitted.names == closed.names
    np.testing.assert_allclose(fitted.variances, closed.variances, rtol=1e-6)
    np.testing.assert_allclose(fitted.degrees, closed.degrees, rtol=1e-6)
    np.testing.assert_allclose(fitted.correlation, closed.correlation, atol=1e-6)
    assert fitted.criterion == pytest.approx(closed.criterion, abs=1e-6)
    assert (fitted.mean, fitted.mean_se) == pytest.approx((closed.mean, closed.mean_se))


def test_negative_estimates_of_reml_are_those_of_the_closed_form() -> None:
    rows, identified = _design("small-near-zero")
    cube = cube_of(rows)
    assert cube is not None
    closed = complete_cube(cube, identified)
    assert closed.variances.min() < 0
    np.testing.assert_allclose(fit_reml(rows, identified).variances, closed.variances, atol=1e-6)


def test_models_with_the_same_cells_are_a_shortcut_of_the_same_likelihood() -> None:
    rows, identified = _design("medium-MT-CL")
    shortcut = fit_reml(rows, identified)
    codes = [term.codes for term in identified.terms]
    at = np.append(shortcut.variances[-1], shortcut.variances[:-1])
    direct = likelihood(EffectsBlock(rows.delta[:, None], codes[:-1], codes[-1]), at)
    assert direct is not None
    assert direct.criterion == pytest.approx(shortcut.criterion, abs=1e-6)
    np.testing.assert_allclose(direct.score, 0, atol=1e-3)
    assert (direct.mean, direct.mean_variance) == pytest.approx((shortcut.mean, shortcut.mean_se**2))


def test_order_of_rows_and_names_do_not_matter() -> None:
    cells = frame(FRAMES["medium-missing"])
    shuffled = cells.sample(frac=1, random_state=3)
    shuffled["model"] = shuffled["model"].map({name: f"z{i}" for i, name in enumerate(sorted(set(cells["model"])))})
    fits = [fit_reml(rows, identify(rows)) for rows in map(crossing, (cells, pd.DataFrame(shuffled)))]
    np.testing.assert_allclose(fits[0].variances, fits[1].variances, rtol=1e-6)
