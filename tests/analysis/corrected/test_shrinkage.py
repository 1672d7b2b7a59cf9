"""Shrunken estimates against the equations written out in full, and on planted truth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from analysis.corrected.cells import measured_cells
from analysis.corrected.effects import Posterior, shrink
from analysis.corrected.noise import NoiseTable, measured_noise
from registry.cells import Grid
from registry.errors import Refused

from .simulation import EFFECTS, NONE, Simulated, moments, planted_cells, simulate

KEYS = {
    "model": ["model"],
    "source": ["source_task", "source_language"],
    "target": ["target_task", "target_language"],
}
BLOCK = ["model", *KEYS["target"]]


def _unbalanced(seed: int) -> tuple[pd.DataFrame, NoiseTable]:
    """Deltas of a grid with a third of its cells missing, and a noise of its own for every (model, target)."""
    random = np.random.default_rng(seed)
    cells = planted_cells(random, EFFECTS, models=3, grid=Grid(("a", "b"), ("de", "en", "tr")))
    cells["delta"] = cells["truth"] + random.normal(size=len(cells))
    table = cells[BLOCK].drop_duplicates().reset_index(drop=True)
    v = random.uniform(0.3, 2.0, len(table))
    table = table.assign(n_sources=6, n_questions=400, v=v, c=v * random.uniform(-0.1, 0.9, len(table)))
    return cells.sample(frac=0.67, random_state=seed).reset_index(drop=True), NoiseTable(table, "made")


def _dense(
    cells: pd.DataFrame, components: Mapping[str, float], noise: NoiseTable, means: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Predictor and covariance of its error, with every matrix written out."""
    codes = {name: cells.groupby(columns, sort=False).ngroup().to_numpy() for name, columns in KEYS.items()}
    same = {name: found[:, None] == found[None, :] for name, found in codes.items()}
    identity = np.eye(len(cells))
    effects = components["residual"] * identity
    for name, variance in components.items():
        if name != "residual":
            effects = effects + variance * np.prod([same[part] for part in name.split(":")], axis=0)
    found = cells.merge(noise.table, on=BLOCK, how="left")
    v, c = found["v"].to_numpy(), found["c"].to_numpy()
    sampling = np.where(same["model"] & same["target"], c[:, None], 0.0) * (1 - identity) + np.diag(v)
    inverse = np.linalg.inv(effects + sampling)
    projection = inverse - inverse @ means @ np.linalg.inv(means.T @ inverse @ means) @ means.T @ inverse
    delta = cells["delta"].to_numpy()
    return delta - sampling @ projection @ delta, sampling - sampling @ projection @ sampling


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("zero", [(), ("model", "source", "model:source"), ("target", "model:target")])
def test_predictor_and_its_error_are_the_full_equations(seed: int, zero: tuple[str, ...]) -> None:
    cells, noise = _unbalanced(seed)
    components = EFFECTS | dict.fromkeys(zero, 0.0)
    posterior = shrink(cells, components, noise)
    mean, covariance = _dense(cells, components, noise, np.ones((len(cells), 1)))
    assert posterior.mean == pytest.approx(mean, abs=1e-9)
    assert posterior.sd == pytest.approx(np.sqrt(np.diag(covariance)), abs=1e-9)


def test_regimes_may_have_means_of_their_own() -> None:
    cells, noise = _unbalanced(4)
    means = pd.get_dummies(cells["regime"]).to_numpy(dtype=float)
    posterior = shrink(cells, EFFECTS, noise, means_by="regime")
    mean, covariance = _dense(cells, EFFECTS, noise, means)
    assert posterior.mean == pytest.approx(mean, abs=1e-9)
    assert posterior.sd == pytest.approx(np.sqrt(np.diag(covariance)), abs=1e-9)


def test_one_component_and_own_noise_is_the_textbook_shrinkage() -> None:
    cells, noise = _unbalanced(1)
    own = NoiseTable(noise.table.assign(v=0.8, c=0.0), "made")
    posterior = shrink(cells, NONE | {"residual": 0.2}, own)
    mean = cells["delta"].mean()
    assert posterior.mean == pytest.approx(mean + 0.2 * (cells["delta"] - mean), abs=1e-9)


def test_draws_have_the_posterior_means_and_covariances() -> None:
    cells, noise = _unbalanced(2)
    posterior = shrink(cells, EFFECTS, noise)
    _, covariance = _dense(cells, EFFECTS, noise, np.ones((len(cells), 1)))
    draws = posterior.draws(40_000, np.random.default_rng(0))
    assert draws.mean(axis=1) == pytest.approx(posterior.mean, abs=5 * posterior.sd.max() / 200)
    assert np.cov(draws) == pytest.approx(covariance, abs=0.04)


def test_no_noise_leaves_deltas_as_they_are() -> None:
    cells, noise = _unbalanced(3)
    posterior = shrink(cells, EFFECTS, NoiseTable(noise.table.assign(v=0.0, c=0.0), "made"))
    assert posterior.mean == pytest.approx(cells["delta"], abs=1e-12)
    assert posterior.sd == pytest.approx(np.zeros(len(cells)), abs=1e-9)


def _estimated(study: Simulated, *, shared: bool = True) -> tuple[pd.DataFrame, Posterior]:
    """Cells and their posterior, components estimated from the same study, with or without the shared noise."""
    cells, noise = measured_cells(study.outcomes), measured_noise(study.outcomes)
    if not shared:
        noise = NoiseTable(noise.table.assign(c=0.0), noise.note)
    mean = noise.mean()
    return cells, shrink(cells, moments(cells, mean.v, mean.c), noise)


@pytest.fixture(scope="module")
def studies() -> list[Simulated]:
    return [simulate(seed, EFFECTS, models=4, tasks=3, languages=4) for seed in range(6)]


def _rmse_cut(studies: list[Simulated], *, shared: bool) -> float:
    """Share of the raw root mean squared error that shrinking takes off."""
    raw, shrunken = [], []
    for study in studies:
        cells, posterior = _estimated(study, shared=shared)
        raw.append(((cells["delta"] - study.cells["truth"]) ** 2).mean())
        shrunken.append(((posterior.mean - study.cells["truth"]) ** 2).mean())
    return 1 - float(np.sqrt(np.mean(shrunken) / np.mean(raw)))


def test_shrinking_takes_off_about_a_quarter_of_the_error(studies: list[Simulated]) -> None:
    assert 0.18 <= _rmse_cut(studies, shared=True) <= 0.35


def test_ignoring_the_shared_noise_fails_that_test(studies: list[Simulated]) -> None:
    assert _rmse_cut(studies, shared=False) < 0.05


def test_posterior_intervals_cover_and_those_that_ignore_the_shared_noise_do_not(studies: list[Simulated]) -> None:
    covered = {True: [], False: []}
    for shared, found in covered.items():
        for study in studies:
            _, posterior = _estimated(study, shared=shared)
            found.append((np.abs(posterior.mean - study.cells["truth"]) <= 1.96 * posterior.sd).mean())
    assert 0.90 <= np.mean(covered[True]) <= 0.98
    assert np.mean(covered[False]) < 0.85


def test_unusable_input_is_refused() -> None:
    cells, noise = _unbalanced(0)
    with pytest.raises(Refused, match="no variance component 'sources'; nearest: source"):
        shrink(cells, EFFECTS | {"sources": 1.0}, noise)
    with pytest.raises(Refused, match="needs the variance of model:target"):
        shrink(cells, {name: value for name, value in EFFECTS.items() if name != "model:target"}, noise)
    with pytest.raises(Refused, match="noise is impossible"):
        shrink(cells, EFFECTS, NoiseTable(noise.table.assign(c=-noise.table["v"]), "made"))


def test_components_below_zero_or_not_identified_count_as_none() -> None:
    cells, noise = _unbalanced(0)
    odd = shrink(cells, EFFECTS | {"source": -0.3, "model": np.nan}, noise)
    none = shrink(cells, EFFECTS | {"source": 0.0, "model": 0.0}, noise)
    assert (odd.mean == none.mean).all()
