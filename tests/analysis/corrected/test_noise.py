"""Sampling noise of deltas, measured and assumed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.corrected.noise import assumed_noise, assumed_variance, measured_noise
from analysis.measures.answers import RunKey, StudyOutcomes, TargetOutcomes
from registry.cells import Cell
from registry.errors import Refused

from .simulation import NONE, simulate

TARGET = Cell("t0", "l0")


def _outcomes(adapters: dict[RunKey, list[bool]], baseline: list[bool]) -> StudyOutcomes:
    arrays = {key: np.array(correct) for key, correct in adapters.items()}
    block = TargetOutcomes("m", TARGET, pd.RangeIndex(len(baseline)), arrays, {None: np.array(baseline)})
    return StudyOutcomes((block,))


def test_a_block_worked_by_hand() -> None:
    first, second = RunKey("m", Cell("t0", "l1"), 1), RunKey("m", Cell("t1", "l1"), 1)
    outcomes = _outcomes(
        {first: [True, True, False, True], second: [True, False, False, False]}, [False, True, False, True]
    )
    # z: (1, 0, 0, 0) and (1, −1, 0, −1). Variances 1/4 and 11/12, covariance 5/12; over 4 questions, in pp².
    noise = measured_noise(outcomes).mean()
    assert noise.v == pytest.approx(1e4 * (1 / 4 + 11 / 12) / 2 / 4, rel=1e-12)
    assert noise.c == pytest.approx(1e4 * 5 / 12 / 4, rel=1e-12)


def test_measured_noise_is_what_deltas_vary_by() -> None:
    # Without effects all that deltas of many studies vary by is noise, and sources share that of their baseline.
    deltas, found = [], []
    for seed in range(120):
        outcomes = simulate(seed, NONE, models=2, tasks=1, languages=3, questions=100, mean=0.0).outcomes
        blocks = [[100 * changes.mean() for changes in block.changes().values()] for block in outcomes]
        deltas += blocks
        found.append(measured_noise(outcomes).mean())
    deltas = np.array(deltas)
    products = deltas.T @ deltas / len(deltas)  # about the true mean, 0
    shared = products[~np.eye(len(products), dtype=bool)].mean()
    assert np.mean([noise.v for noise in found]) == pytest.approx(np.diag(products).mean(), rel=0.1)
    assert np.mean([noise.c for noise in found]) == pytest.approx(shared, rel=0.1)
    assert shared > 0.4 * np.diag(products).mean()


def _cells(scores: list[float], baseline: float) -> pd.DataFrame:
    cells = pd.DataFrame({"score": scores, "baseline": baseline, "n_seeds": 2})
    cells["source_task"] = [f"s{number}" for number in range(len(scores))]
    return cells.assign(model="m", source_language="de", target_task="arc", target_language="de")


def test_assumed_noise_is_that_of_binomial_answers() -> None:
    # Answers of two sources' two adapters each and of the baseline, any two of which correlate alike.
    random, correlation, p, questions, studies = np.random.default_rng(5), 0.7, 0.6, 50, 20_000
    common = random.random((studies, questions, 1)) < p
    keep = random.random((studies, questions, 5)) < np.sqrt(correlation)
    answers = np.where(keep, common, random.random((studies, questions, 5)) < p).mean(axis=1)
    first, second = (100 * (answers[:, pair].mean(axis=1) - answers[:, 4]) for pair in ([0, 1], [2, 3]))
    noise = assumed_noise(_cells([p, p], p), n_questions={"arc": questions}, correlation=correlation)
    assert noise.mean().v == pytest.approx(first.var(), rel=0.03)
    assert noise.mean().c == pytest.approx(np.cov(first, second)[0, 1], rel=0.03)
    assert noise.note.startswith("ASSUMED, not measured")


def test_assumed_variance_without_correlation_is_the_binomial_one() -> None:
    variance = assumed_variance(np.array([0.5]), np.array([0.4]), np.array([400]), np.array([3]), correlation=0.0)
    assert variance == pytest.approx(1e4 * (0.25 / 3 + 0.24) / 400)


def test_unusable_assumptions_are_refused() -> None:
    cells = _cells([0.5, 0.6], 0.4)
    with pytest.raises(Refused, match=r"in \[0, 1\), not 1"):
        assumed_noise(cells, n_questions=400, correlation=1.0)
    with pytest.raises(Refused, match="but not of arc"):
        assumed_noise(cells, n_questions={"mmlu": 400})
    with pytest.raises(Refused, match="at least one test item, not 0"):
        assumed_noise(cells, n_questions=0)


def test_a_cell_without_noise_is_refused() -> None:
    single = measured_noise(_outcomes({RunKey("m", TARGET, 1): [True]}, [False]))
    cells = pd.DataFrame({"model": ["m"], "target_task": ["t0"], "target_language": ["l0"]})
    with pytest.raises(Refused, match="noise of 1 cells is not known, first of m/t0/l0"):
        single.of(cells)


def test_a_single_source_shares_nothing() -> None:
    noise = measured_noise(_outcomes({RunKey("m", TARGET, 1): [True, False]}, [False, False])).mean()
    assert noise.c == 0
    assert noise.v == pytest.approx(1e4 * 0.5 / 2)
