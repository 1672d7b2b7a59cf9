"""Detectable effects against statsmodels, by simulation with the analyses themselves, and by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from analysis.corrected.cells import adjusted, measured_cells
from analysis.corrected.noise import (
    QuestionNoise,
    assumed_question_noise,
    assumed_variance,
    measured_noise,
    measured_question_noise,
)
from analysis.corrected.power import (
    ASSUMED,
    COLUMNS,
    StudyDesign,
    detectable,
    power,
    power_without_data,
    squared_weights,
)
from analysis.corrected.regimes import contrasts
from analysis.corrected.roles import roles
from analysis.corrected.variance.terms import RESIDUAL, TERMS
from registry.cells import Regime
from registry.errors import Refused

from .planted import Drawn
from .simulation import NONE, simulate

NOISE = assumed_question_noise(0.9)


def _noisy(design: StudyDesign) -> dict[str, float]:
    """Components of deltas as they are seen: what sources share of the noise is part of model:target."""
    sampling = NOISE.sampling(design.items, design.seeds)
    effects = {name: ASSUMED[name] for name in (*TERMS, RESIDUAL)}
    effects["model:target"] += sampling.c
    effects[RESIDUAL] += sampling.own
    return effects


def _row(table: pd.DataFrame, test: str) -> pd.Series:
    return table.set_index("test").loc[test]


@pytest.mark.parametrize(("df", "alpha"), [(1, 0.05), (3, 0.05), (8, 0.05), (20, 0.004), (399, 0.05), (399, 0.004)])
def test_detectable_effects_are_statsmodels(df: int, alpha: float) -> None:
    # Its effect is in standard deviations, ours in standard errors of df + 1 observations.
    effect = TTestPower().solve_power(nobs=df + 1, alpha=alpha, power=0.8, alternative="two-sided")
    assert detectable(0.7, df, alpha=alpha) == pytest.approx(0.7 * effect * np.sqrt(df + 1), rel=1e-4)


def test_detectable_effects_of_few_degrees_and_small_levels_by_drawing() -> None:
    # Statsmodels' answer here, 4.9, has a power of 0.48.
    random, shift = np.random.default_rng(0), detectable(0.7, 3, alpha=0.004) / 0.7
    t = (random.normal(size=100_000) + shift) / np.sqrt(random.chisquare(3, 100_000) / 3)
    assert (np.abs(t) > stats.t.isf(0.002, 3)).mean() == pytest.approx(0.8, abs=0.006)


def test_many_degrees_of_freedom_are_normal() -> None:
    normal = stats.norm.isf(0.025) + stats.norm.isf(0.2)
    assert detectable(1.0, np.inf) == pytest.approx(normal, rel=1e-9)
    assert detectable(1.0, 9_999) == pytest.approx(normal, rel=1e-3)
    assert np.isnan([detectable(np.nan, 5), detectable(1.0, np.nan)]).all()


def test_assumed_noise_is_that_of_runs_that_err_alike() -> None:
    # Any score, its baseline the same, at which 400 items and 3 seeds have a variance of 0.81 pp².
    half = np.array([0.5])
    unit = assumed_variance(half, half, np.array([400]), np.array([3]), correlation=0.0)[0]
    for items, seeds in ((400, 3), (100, 3), (400, 1), (50, 10)):
        expected = assumed_variance(half, half, np.array([items]), np.array([seeds]), correlation=1 - 0.81 / unit)
        assert NOISE.sampling(items, seeds).v == pytest.approx(expected[0], rel=1e-9)
    assert NOISE.sampling(400, 3).c == pytest.approx(0.75 * 0.81)


def test_measured_noise_foretells_that_of_other_sizes() -> None:
    small = [simulate(seed, NONE, models=2, questions=150, seeds=3, mean=0.0).outcomes for seed in range(4)]
    found = [measured_question_noise(outcomes) for outcomes in small]
    assert found[0].note == "noise measured over questions"
    large = measured_noise(simulate(9, NONE, models=4, questions=600, seeds=6, mean=0.0).outcomes).mean()
    foretold = [noise.sampling(600, 6) for noise in found]
    assert np.mean([noise.v for noise in foretold]) == pytest.approx(large.v, rel=0.1)
    assert np.mean([noise.c for noise in foretold]) == pytest.approx(large.c, rel=0.1)
    at_its_own = measured_noise(small[0]).mean()
    assert found[0].sampling(150, 3).v == pytest.approx(at_its_own.v, rel=1e-9)
    assert found[0].sampling(150, 3).c == pytest.approx(at_its_own.c, rel=1e-9)


def test_one_seed_cannot_show_how_seeds_differ() -> None:
    outcomes = simulate(1, NONE, models=1, tasks=1, languages=3, seeds=1).outcomes
    noise = measured_question_noise(outcomes)
    assert "ASSUMED to differ by seed" in noise.note
    assert noise.sampling(400, 1).v == pytest.approx(measured_noise(outcomes).mean().v)
    assert noise.lasting == pytest.approx(noise.by_seed)


def test_a_cell_with_the_detectable_effect_is_found_four_times_out_of_five() -> None:
    quiet = measured_question_noise(simulate(0, NONE, models=4, tasks=2, languages=3, questions=300, mean=0.0).outcomes)
    table = power(StudyDesign(300, 3, 4, 2, 3), None, quiet)
    effect = _row(table, "one cell against 0")["detectable_pp"]
    found = []
    for seed in range(1, 13):
        study = simulate(seed, NONE, models=4, tasks=2, languages=3, questions=300, mean=effect)
        found.append((measured_cells(study.outcomes)["p"] <= 0.05).mean())
    assert np.mean(found) == pytest.approx(0.8, abs=0.05)


def test_a_cell_among_all_is_found_as_often_after_benjamini_and_hochberg() -> None:
    row = _row(power(StudyDesign(400, 3, 9, 4, 11), None, NOISE, differing=0.2), "one cell among all")
    random, found = np.random.default_rng(3), []
    for _ in range(40):
        differs = random.random(5_000) < 0.2
        t = (random.normal(0, 1, 5_000) * row["se"] + row["detectable_pp"] * differs) / row["se"]
        p = pd.Series(2 * stats.norm.sf(np.abs(t)))
        found.append((adjusted(p, pd.Series(True, index=p.index)) <= 0.05)[differs].mean())
    assert np.mean(found) == pytest.approx(0.8, abs=0.02)
    assert (
        row["detectable_pp"]
        > _row(power(StudyDesign(400, 3, 9, 4, 11), None, NOISE), "one cell against 0")["detectable_pp"]
    )


def _found_roles(studies: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return by role how often a language with the detectable effect is found, and the errors over those foretold."""
    design = StudyDesign(400, 3, 9, 4, 11)
    table, drawn, random = power(design, None, NOISE), Drawn(9, 4, 11), np.random.default_rng(8)
    kept = (drawn.frame["regime"] == "MT-CL").to_numpy()
    found: dict[str, list[float]] = {"donor": [], "recipient": []}
    squares: dict[str, list[float]] = {"donor": [], "recipient": []}
    for study in range(studies):
        delta, truth = drawn.with_truth(random, _noisy(design))
        scores, _ = roles(drawn.frame.assign(delta=delta)[kept], draws=200, seed=study)
        for role, end in (("donor", "source"), ("recipient", "target")):
            rows, planned = scores[scores["role"] == role], _row(table, f"a language as {role} against 0")
            true = rows["name"].map(pd.Series(truth[end].mean(axis=0), index=drawn.languages))
            found[role].append((rows["low"] - true + planned["detectable_pp"] > 0).mean())
            squares[role].append((rows["se"] ** 2).mean() / planned["se"] ** 2)
    return {role: np.mean(x) for role, x in found.items()}, {role: np.sqrt(np.mean(x)) for role, x in squares.items()}


def test_a_role_with_the_detectable_effect_is_found_four_times_out_of_five() -> None:
    # The languages of one study share its models, so 60 studies leave an error of about 0.04.
    found, errors = _found_roles(60)
    assert list(found.values()) == pytest.approx([0.8, 0.8], abs=0.12)
    assert list(errors.values()) == pytest.approx([1, 1], abs=0.08)


@pytest.mark.slow
def test_a_role_with_the_detectable_effect_is_found_four_times_out_of_five_in_many_studies() -> None:
    found, errors = _found_roles(600)
    assert list(found.values()) == pytest.approx([0.8, 0.8], abs=0.04)
    assert list(errors.values()) == pytest.approx([1, 1], abs=0.04)


def test_errors_of_differences_of_roles_are_those_foretold() -> None:
    design = StudyDesign(400, 3, 6, 3, 5)
    table, drawn, random = power(design, None, NOISE), Drawn(6, 3, 5), np.random.default_rng(9)
    found: dict[str, list[float]] = {}
    for study in range(100):
        delta, truth = drawn.with_truth(random, _noisy(design))
        _, pairs = roles(drawn.frame.assign(delta=delta), draws=40, seed=study)
        for factor, names, axis in (("language", drawn.languages, 0), ("task", drawn.tasks, 1)):
            for role, end in (("donor", "source"), ("recipient", "target")):
                true = pd.Series(truth[end].mean(axis=axis), index=names)
                rows = pairs[(pairs["factor"] == factor) & (pairs["role"] == role)]
                wrong = rows["difference"] - (rows["one"].map(true) - rows["other"].map(true))
                found.setdefault(f"two {factor}s as {role}s", []).append((wrong**2).mean())
    for test, squares in found.items():
        assert np.sqrt(np.mean(squares)) == pytest.approx(_row(table, test)["se"], rel=0.1)


def _found_contrasts(studies: int) -> tuple[float, np.ndarray]:
    """Return how often a contrast with the detectable effect is found, and the errors over those foretold."""
    design = StudyDesign(400, 3, 9, 3, 5)
    table, drawn, random = power(design, None, NOISE).set_index("test"), Drawn(9, 3, 5), np.random.default_rng(6)
    regime, model = (pd.factorize(drawn.frame[name])[0] for name in ("regime", "model"))
    names = ["MT-CL − CT-ML", "MT-CL − CT-CL", "CT-ML − CT-CL"]
    found, squares = [], []
    for _ in range(studies):
        own = random.normal(0, np.sqrt(ASSUMED["model:regime"]), (9, 4))[model, regime]
        cells = drawn.frame.assign(delta=drawn.delta(random, _noisy(design)) + own)
        rows = contrasts(cells).set_index("contrast").loc[names]
        found.append(rows["low"] + table.loc[names, "detectable_pp"] > 0)
        squares.append((rows["se"] / table.loc[names, "se"]) ** 2)
    return float(np.mean(found)), np.sqrt(np.mean(squares, axis=0))


def test_a_contrast_with_the_detectable_effect_is_found_four_times_out_of_five() -> None:
    found, errors = _found_contrasts(60)
    assert found == pytest.approx(0.8, abs=0.11)
    assert errors == pytest.approx(np.ones(3), abs=0.15)


@pytest.mark.slow
def test_a_contrast_with_the_detectable_effect_is_found_at_least_four_times_out_of_five_in_many_studies() -> None:
    # In 88 % of 600 studies: clustered errors of 9 models are about 13 % smaller than the true ones planned with.
    found, _ = _found_contrasts(300)
    assert 0.77 <= found <= 0.92


def test_weights_of_a_contrast_are_those_of_least_squares_with_dummies() -> None:
    tasks, languages = 2, 3
    cells = [(task, language) for task in range(tasks) for language in range(languages)]
    rows = [(s, t) for s in range(6) for t in range(6)]
    design = np.zeros((36, 3 + 6 + 6))
    for place, (s, t) in enumerate(rows):
        same_task, same_language = cells[s][0] == cells[t][0], cells[s][1] == cells[t][1]
        regime = {(True, True): 0, (True, False): 1, (False, True): 2}.get((same_task, same_language))
        if regime is not None:
            design[place, regime] = 1
        design[place, [3 + s, 9 + t]] = 1
    pinv = np.linalg.pinv(design)
    found = squared_weights(tasks, languages)
    assert found[Regime.MT_CL, Regime.CT_CL] == pytest.approx((pinv[1] ** 2).sum())
    assert found[Regime.MT_CL, Regime.CT_ML] == pytest.approx(((pinv[1] - pinv[2]) ** 2).sum())
    assert set(squared_weights(1, 4)) == {(Regime.MT_ML, Regime.MT_CL)}
    assert squared_weights(1, 1) == {}


def test_more_of_anything_lowers_every_error() -> None:
    # Not every detectable effect: where partners are few, more models bring the degrees of freedom nearer to theirs.
    small = power_without_data(StudyDesign(100, 1, 4, 3, 4))
    assert list(small.columns) == COLUMNS
    assert set(small["level"]) == {"cell", "role", "contrast"}
    for larger in (StudyDesign(400, 1, 4, 3, 4), StudyDesign(100, 3, 4, 3, 4), StudyDesign(100, 1, 9, 3, 4)):
        table = power_without_data(larger)
        assert table["se"].le(small["se"] + 1e-12).all()
        scores = ~table["test"].str.startswith("two tasks")
        assert table["detectable_pp"].le(small["detectable_pp"] + 1e-12)[scores].all()


def test_the_dry_run_says_what_it_assumes() -> None:
    table = power_without_data(StudyDesign(400, 3, 9, 4, 11))
    of_cells = table[table["test"] == "one cell against 0"]
    assert of_cells["se"].tolist() == pytest.approx([0.6, 1.25])
    assert of_cells["detectable_pp"].tolist() == pytest.approx([1.685, 3.510], abs=1e-3)
    assert table["assumption"].str.contains("ASSUMED noise").all()
    assert table.loc[table["level"] != "cell", "assumption"].str.contains("ASSUMED components").all()
    assert table["detectable_pp"].gt(0).all()


def test_components_of_a_study_are_used_and_named() -> None:
    measured = dict.fromkeys((*TERMS, RESIDUAL), 0.0)
    noise = QuestionNoise(400.0, 0.0, 0.0, "noise measured over questions")
    design = StudyDesign(100, 2, 5, 3, 4)
    still = power(design, measured | {"model": 0.2, "model:source": -0.1, "target": float("nan")}, noise)
    row = _row(still, "a language as donor against 0")
    # 4 pp² of noise over 5 models × 3 tasks × 3 partners, and the models' variance.
    assert row["se"] ** 2 == pytest.approx(0.2 / 5 + 4 / 45)
    assert row["assumption"] == (
        "noise measured over questions; components of the study, that of model:regime ASSUMED 0.09 pp²"
    )
    told = power(design, measured | {"model:regime": 0.0}, noise)
    assert _row(told, "MT-CL − CT-CL")["se"] ** 2 == pytest.approx(
        squared_weights(3, 4)[Regime.MT_CL, Regime.CT_CL] * 4 / 5
    )
    assert "ASSUMED" not in _row(told, "MT-CL − CT-CL")["assumption"]


def test_what_a_design_does_not_allow_has_no_number_and_a_reason() -> None:
    table = power_without_data(StudyDesign(1, 1, 1, 1, 2))
    assert table["detectable_pp"].notna().sum() == 2
    assert (
        _row(table, "a language as donor against 0")["assumption"].iloc[0].endswith("too few partners for an interval")
    )
    assert "one item: no error" in _row(table, "one cell against 0")["assumption"].iloc[0]
    assert "holds for the one model" in _row(table, "MT-ML − MT-CL")["assumption"].iloc[0]
    assert "do not tell these regimes apart" in _row(table, "MT-CL − CT-CL")["assumption"].iloc[0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: StudyDesign(400, 3, 0, 4, 11), "at least one of its models, not 0"),
        (
            lambda: power(StudyDesign(9, 1, 1, 2, 3), {"modell": 1.0}, NOISE),
            "no variance component 'modell'; nearest: model",
        ),
        (lambda: power(StudyDesign(9, 1, 1, 2, 3), {"model": 1.0}, NOISE), "needs the variance of source"),
        (lambda: power(StudyDesign(9, 1, 1, 2, 3), None, NOISE, differing=0.0), "share of cells"),
        (lambda: assumed_question_noise(-1.0), "impossible"),
        (lambda: QuestionNoise(1.0, 1.0, 2.0, ""), "impossible"),
    ],
)
def test_mistakes_are_refused(call: object, words: str) -> None:
    with pytest.raises(Refused, match=words):
        call()
