"""The test of a score against guessing: exact, whatever numbers of options the questions have."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from registry.tracking.chance import chance_p, chance_q, compared_with_chance
from registry.tracking.columns import BASELINE_COLUMNS, TEST_COLUMNS


@pytest.mark.parametrize(
    ("correct", "questions", "chance"), [(0, 1, 0.5), (94, 400, 0.25), (80, 400, 0.25), (3, 9, 0.2)]
)
def test_with_equal_options_it_is_the_binomial_test(correct: int, questions: int, chance: float) -> None:
    expected = stats.binomtest(correct, questions, chance, alternative="less").pvalue
    assert chance_p(correct, np.full(questions, chance)) == pytest.approx(expected, rel=1e-9)


def test_with_unequal_options_every_outcome_is_counted() -> None:
    chances = [1 / 2, 1 / 3, 1 / 5, 1 / 2, 2 / 3]
    for correct in range(6):
        outcomes = (outcome for outcome in product((0, 1), repeat=5) if sum(outcome) <= correct)
        expected = sum(
            np.prod([chance if right else 1 - chance for right, chance in zip(outcome, chances, strict=True)])
            for outcome in outcomes
        )
        assert chance_p(correct, chances) == pytest.approx(expected, rel=1e-12)


def test_a_guessing_base_is_seldom_called_below_chance() -> None:
    """A false alarm over 40 targets of 100 questions in at most 5 of 100 studies, where one lies below in all."""
    random = np.random.default_rng(0)
    known = {correct: chance_p(correct, np.full(100, 0.25)) for correct in range(101)}
    studies = random.binomial(100, 0.25, size=(1000, 40))
    alarms = [min(chance_q([known[correct] for correct in study])) <= 0.05 for study in studies]
    assert np.mean(alarms) < 0.05 + 2 * (0.05 * 0.95 / 1000) ** 0.5
    assert np.mean([min(study) < 25 for study in studies]) == 1


def test_what_is_not_known_is_left_out_of_the_adjustment() -> None:
    assert chance_q([0.01, np.nan, 0.04]).tolist() == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)
    assert np.isnan(chance_q([np.nan])).all()
    assert chance_q([]).size == 0


def test_compared_baselines_have_their_columns() -> None:
    import pandas as pd

    rows = [("m", "t", "en", 0.1, 0.25, 0.001), ("m", "t", "tr", 0.24, 0.25, 0.4), ("m", "t", "de", 0.2, 0.25, np.nan)]
    table = compared_with_chance(pd.DataFrame(rows, columns=[*BASELINE_COLUMNS[:5], "chance_p"]))
    assert list(table) == [*BASELINE_COLUMNS, *TEST_COLUMNS]
    assert table["below_chance"].tolist() == [True, False, False]
