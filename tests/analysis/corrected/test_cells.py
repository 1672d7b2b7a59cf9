"""Cells: errors clustered by question and seed, tests, adjusted tests."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.formula.api import ols

from analysis.corrected.cells import adjusted, assumed_cells, change_statistics, measured_cells
from analysis.measures.answers import RunKey, StudyOutcomes, TargetOutcomes
from registry.cells import Cell
from registry.errors import Refused

from .simulation import EFFECTS, NONE, simulate


def _changes(seed: int, seeds: int, *, tilt: float = 0.0, questions: int = 60) -> np.ndarray:
    """Changes of one cell; ``tilt`` makes seeds differ."""
    random = np.random.default_rng(seed)
    shift = 0.1 + tilt * np.linspace(-1, 1, seeds)[:, None]
    changes = np.clip(
        np.round(random.normal(0, 0.4, questions) + random.normal(0, 0.4, (seeds, questions)) + shift), -1, 1
    )
    return changes.astype(np.int8)[None]


def _by_cluster(values: np.ndarray, clusters: np.ndarray) -> float:
    """Variance of a mean: statsmodels, clustered, with the correction G / (G − 1) alone."""
    fit = sm.OLS(values, np.ones(len(values))).fit(
        cov_type="cluster", cov_kwds={"groups": clusters, "use_correction": False}
    )
    groups = len(np.unique(clusters))
    return float(fit.cov_params()[0, 0]) * groups / (groups - 1)


@pytest.mark.parametrize("seed", range(4))
def test_error_by_question_is_statsmodels(seed: int) -> None:
    changes = _changes(seed, 1)
    found = change_statistics(changes)
    values = changes[0].astype(float).ravel()
    assert found.se[0] == pytest.approx(100 * np.sqrt(_by_cluster(values, np.arange(60))), abs=1e-12)
    t = stats.ttest_1samp(values, 0)
    assert found.delta[0] / found.se[0] == pytest.approx(t.statistic, rel=1e-12)
    assert found.df[0] == t.df


@pytest.mark.parametrize("seed", range(4))
def test_error_by_question_and_seed_is_statsmodels(seed: int) -> None:
    changes = _changes(seed, 3, tilt=0.4)
    found = change_statistics(changes)
    long = pd.DataFrame(
        [(change, r, q) for r, row in enumerate(changes[0]) for q, change in enumerate(row)],
        columns=["z", "seed", "question"],
    ).astype({"z": float})
    rest = ols("z ~ C(seed) + C(question)", long).fit()
    terms = [_by_cluster(long["z"].to_numpy(), long[name].to_numpy()) for name in ("question", "seed")]
    intersection = rest.mse_resid / len(long)
    assert bool(found.by_seed[0])
    assert found.se[0] == pytest.approx(100 * np.sqrt(sum(terms) - intersection), abs=1e-12)
    # Satterthwaite from the analysis of variance.
    table = sm.stats.anova_lm(rest)
    squares, df = table["mean_sq"].to_numpy(), table["df"].to_numpy()
    expected = (squares[0] + squares[1] - squares[2]) ** 2 / (squares**2 / df).sum()
    assert found.df[0] == pytest.approx(expected, rel=1e-9)


def test_seeds_that_do_not_vary_leave_the_error_by_question() -> None:
    changes = np.repeat(_changes(0, 1), 3, axis=1)
    found, single = change_statistics(changes), change_statistics(_changes(0, 1))
    assert not found.by_seed[0]
    assert found.se == pytest.approx(single.se, abs=1e-12)
    assert found.df[0] == 59


def _study(changes: dict[Cell, list[int]], target: Cell) -> StudyOutcomes:
    """Outcomes of one model whose baseline knows every second answer."""
    questions = len(next(iter(changes.values())))
    baseline = np.arange(questions) % 2 == 1
    adapters = {RunKey("m", source, 1): baseline + np.array(found) == 1 for source, found in changes.items()}
    return StudyOutcomes((TargetOutcomes("m", target, pd.RangeIndex(questions), adapters, {None: baseline}),))


def test_a_clear_change_agrees_with_mcnemar() -> None:
    # 30 questions newly right, 12 newly wrong, of 400.
    better = [1 if number % 2 == 0 and number < 60 else 0 for number in range(400)]
    worse = [-1 if number % 2 == 1 and number < 24 else 0 for number in range(400)]
    source, target = Cell("a", "de"), Cell("a", "en")
    [row] = measured_cells(_study({source: [b + w for b, w in zip(better, worse, strict=True)]}, target)).itertuples()
    mcnemar = sm.stats.mcnemar([[0, 12], [30, 0]], exact=False, correction=False)
    assert row.delta == 4.5
    assert row.p == pytest.approx(mcnemar.pvalue, rel=0.2)
    assert row.p == row.q  # alone in its family
    assert row.low < 4.5 < row.high
    assert (row.regime, row.n_questions, row.n_seeds, row.clusters) == ("MT-CL", 400, 1, "question")


def test_no_change_at_all_has_an_interval_nevertheless() -> None:
    table = measured_cells(_study({Cell("a", "de"): [0] * 400}, Cell("a", "en")))
    row = table.iloc[0]
    # With 0 of 400 changed, Clopper and Pearson's upper limit of the share that changes.
    limit = 100 * stats.binomtest(0, 400).proportion_ci(0.95, method="exact").high
    assert (row["se"], row["p"]) == (0, 1)
    assert (row["low"], row["high"]) == pytest.approx((-limit, limit))
    assert row["note"] == "every question changed alike"


def test_a_single_question_has_no_error() -> None:
    row = measured_cells(_study({Cell("a", "de"): [1]}, Cell("a", "en"))).iloc[0]
    assert row[["se", "low", "p", "q"]].isna().all()
    assert row["note"] == "a single question: no error"


def test_adjustment_is_that_of_scipy_over_transfer_cells_alone() -> None:
    random = np.random.default_rng(2)
    p = pd.Series(random.random(50) ** 3)
    p[7] = np.nan
    family = pd.Series(random.random(50) < 0.8)
    tested = family & p.notna()
    q = adjusted(p, family)
    assert q[tested] == pytest.approx(stats.false_discovery_control(p[tested]), abs=1e-15)
    assert q[tested] == pytest.approx(sm.stats.multipletests(p[tested], method="fdr_bh")[1], abs=1e-12)
    assert np.isnan(q[~tested]).all()
    assert np.isnan(adjusted(p, family & False)).all()


@pytest.mark.parametrize("seed_sd", [0.0, 1.0, 2.0])
def test_intervals_cover_the_truth(seed_sd: float) -> None:
    covered, by_seed = [], []
    for seed in range(4):
        study = simulate(seed, EFFECTS, models=2, seed_sd=seed_sd)
        table = measured_cells(study.outcomes)
        truth = study.cells["truth"]
        covered.append(((table["low"] <= truth) & (truth <= table["high"])).mean())
        by_seed.append((table["clusters"] == "question + seed").mean())
    assert 0.92 <= np.mean(covered) <= 0.98
    # F(2, many) exceeds 1 in 37 % of cells whose seeds differ by nothing but their questions.
    assert np.mean(by_seed) == pytest.approx(0.37, abs=0.06) if seed_sd == 0 else np.mean(by_seed) > 0.5


def test_false_discoveries_are_rare() -> None:
    # Studies without any effect, and families of which half are such cells and half have an effect.
    any_false, shares, found = [], [], 0
    for seed in range(25):
        none, strong = (
            measured_cells(simulate(s, NONE, models=1, tasks=2, languages=3, questions=200, mean=mean).outcomes)
            for s, mean in ((seed, 0.0), (1000 + seed, 6.0))
        )
        any_false.append((none["q"] <= 0.05).any())
        both = pd.concat([none, strong], ignore_index=True)
        discovered = adjusted(both["p"], both["regime"] != "MT-ML") <= 0.05
        shares.append(discovered[: len(none)].sum() / max(discovered.sum(), 1))
        found += int(discovered[len(none) :].sum())
    assert np.mean(any_false) <= 0.12  # 5 % and twice the error of 25 studies
    assert np.mean(shares) <= 0.05
    assert found > 300  # of 750


def _imported() -> pd.DataFrame:
    rows = [
        ("m", "a", source, "a", target, 0.5 + 0.01 * place)
        for place, source in enumerate(["de", "en"])
        for target in ["de", "en"]
    ]
    cells = pd.DataFrame(
        rows, columns=["model", "source_task", "source_language", "target_task", "target_language", "score"]
    )
    cells["regime"] = np.where(cells["source_language"] == cells["target_language"], "MT-ML", "MT-CL")
    return cells.assign(baseline=0.5, delta=100 * (cells["score"] - 0.5), n_seeds=3)


def test_cells_without_outcomes_say_what_was_assumed() -> None:
    table = assumed_cells(_imported(), n_questions=400)
    assert table["noise"].str.startswith("ASSUMED, not measured").all()
    # A half, correlation 0.9: 100² × 0.25 × 0.1 × (1 + 1/3) / 400.
    assert table.loc[table["delta"] == 0, "se"].iloc[0] == pytest.approx(np.sqrt(0.8333333), rel=1e-6)
    assert table["q"].notna().sum() == 2
    assert list(table.columns) == list(measured_cells(simulate(0, models=1, tasks=1, languages=2).outcomes).columns)


def test_no_outcomes_are_refused() -> None:
    with pytest.raises(Refused, match="no outcome of any adapter"):
        measured_cells(StudyOutcomes(()))
