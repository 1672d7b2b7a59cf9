"""Intervals of roles: the published scores inside them, coverage of planted truth, comparisons and ranks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.corrected.roles import PAIR_COLUMNS, ROLE_COLUMNS, distinguishable, roles
from analysis.measures.statistics import errors, replicate
from analysis.published.roles import roles as as_published
from registry.errors import Refused
from tests.analysis.synthetic import synthetic_frame

from .planted import Drawn
from .simulation import EFFECTS

NOISY = EFFECTS | {"residual": EFFECTS["residual"] + 0.81}
KEY = ["factor", "name", "role"]


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_scores_are_the_published_ones(missing: float) -> None:
    cells = synthetic_frame(3, 3, 5, seed=2, missing=missing)
    table, _ = roles(cells, draws=100)
    both = table.merge(as_published(cells), on=KEY, suffixes=("", "_published"))
    assert list(table.columns) == ROLE_COLUMNS
    assert len(both) == len(table) == 16
    assert both["score"].to_numpy() == pytest.approx(both["score_published"].to_numpy(), abs=1e-12)
    assert (both["n_models"] == both["n_models_published"]).all()
    assert table["low"].lt(table["score"]).all()
    assert table["high"].gt(table["score"]).all()


def test_errors_are_those_of_a_two_way_table() -> None:
    # Variances of a mean over rows and columns by mean squares: (rows + columns − residual) / cells.
    random = np.random.default_rng(3)
    table = random.normal(0, 1, (9, 1)) + random.normal(0, 0.8, (1, 10)) + random.normal(0, 0.7, (9, 10))
    rows, columns = table.mean(axis=1), table.mean(axis=0)
    rest = ((table - rows[:, None] - columns + table.mean()) ** 2).sum() / 72
    expected = (10 * rows.var(ddof=1) + 9 * columns.var(ddof=1) - rest) / 90
    total = table[:, None, :]
    found = errors(replicate(total, np.ones_like(total), draws=20_000, random=random))
    assert found.se[0] == pytest.approx(np.sqrt(expected), rel=0.03)
    assert 8 < found.df[0] < 17


def test_few_levels_have_unbiased_variances_too() -> None:
    random = np.random.default_rng(4)
    for partners in (2, 3, 4):
        values = random.normal(0, 1, partners)
        total = values[None, None, :]
        found = errors(replicate(total, np.ones_like(total), draws=20_000, random=random))
        assert found.se[0] == pytest.approx(values.std(ddof=1) / np.sqrt(partners), rel=0.05)
        assert found.df[0] == pytest.approx(partners - 1)


def _coverage(drawn: Drawn, studies: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return coverage of intervals, of intervals of cells taken for independent, and of all differences at once."""
    random = np.random.default_rng(11)
    kept = (drawn.frame["regime"] == "MT-CL").to_numpy()
    covered, naive, together = [], [], []
    for study in range(studies):
        delta, truth = drawn.with_truth(random, NOISY)
        cells = drawn.frame.assign(delta=delta)[kept]
        table, pairs = roles(cells, draws=300, seed=study)
        for role, end in (("donor", "source"), ("recipient", "target")):
            true = pd.Series(truth[end].mean(axis=0), index=drawn.languages)
            rows = table[table["role"] == role].set_index("name")
            covered.append((rows["low"] <= true) & (true <= rows["high"]))
            of_name = cells.groupby(f"{end}_language")["delta"]
            naive.append((of_name.mean() - true).abs() <= 1.96 * of_name.sem())
            of_role = pairs[pairs["role"] == role]
            apart = of_role["one"].map(true) - of_role["other"].map(true)
            together.append(((of_role["low"] <= apart) & (apart <= of_role["high"])).all())
    return np.array(covered), np.array(naive), np.array(together)


def test_intervals_cover_the_planted_truth_and_those_of_independent_cells_do_not() -> None:
    covered, naive, together = _coverage(Drawn(9, 4, 11), 100)
    assert 0.92 <= covered.mean() <= 0.98
    assert naive.mean() < 0.7
    assert together.mean() >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 3, 5), (9, 4, 11), (4, 1, 6)])
def test_intervals_cover_in_grids_of_other_sizes(shape: tuple[int, int, int]) -> None:
    covered, naive, together = _coverage(Drawn(*shape), 400)
    assert 0.92 <= covered.mean() <= 0.98
    assert naive.mean() < 0.9
    assert together.mean() >= 0.92


def test_languages_that_differ_in_nothing_are_rarely_told_apart() -> None:
    # With 5 % of studies in which any pair differs, more than 12 of 100 have a probability of 0.1 %.
    drawn, random, wrong = Drawn(5, 2, 6), np.random.default_rng(7), 0
    kept = (drawn.frame["regime"] == "MT-CL").to_numpy()
    effects = NOISY | {"source": 0.0}
    for study in range(100):
        cells = drawn.frame.assign(delta=drawn.delta(random, effects))[kept]
        _, pairs = roles(cells, draws=300, seed=study)
        wrong += bool((pairs.loc[pairs["role"] == "donor", "p_adjusted"] <= 0.05).any())
    assert wrong <= 12


def test_a_language_that_gives_far_more_is_found_and_ranked_first() -> None:
    cells = synthetic_frame(6, 3, 6, seed=5)
    better = cells.assign(delta=cells["delta"] + 6.0 * (cells["source_language"] == "de"))
    table, pairs = roles(better)
    first = table.set_index(KEY).loc[("language", "de", "donor")]
    assert (first["rank"], first["rank_low"], first["rank_high"]) == (1, 1, 1)
    others = table[(table["factor"] == "language") & (table["role"] == "donor") & (table["name"] != "de")]
    assert (others["rank_low"] >= 2).all()
    assert (others["rank_low"] <= others["rank"]).all()
    assert (others["rank"] <= others["rank_high"]).all()
    donors = pairs[(pairs["factor"] == "language") & (pairs["role"] == "donor")]
    with_first = donors[(donors["one"] == "de") | (donors["other"] == "de")]
    assert (with_first["p_adjusted"] <= 0.05).all()
    assert list(pairs.columns) == PAIR_COLUMNS
    counts = distinguishable(pairs).set_index(["factor", "role"]).loc[("language", "donor")]
    assert counts["n_pairs"] == 15
    assert counts["n_different"] == (donors["p_adjusted"] <= 0.05).sum() >= 5
    assert counts["share"] == counts["n_different"] / 15


def test_intervals_and_p_values_of_pairs_agree() -> None:
    _, pairs = roles(synthetic_frame(9, 4, 11, seed=1))
    excluded = (pairs["low"] > 0) | (pairs["high"] < 0)
    borderline = (pairs["p_adjusted"] - 0.05).abs() < 0.002
    assert (excluded == (pairs["p_adjusted"] <= 0.05))[~borderline].all()
    assert 3 < excluded.sum() < len(pairs) - 3


def test_the_seed_decides() -> None:
    cells = synthetic_frame(3, 2, 4, seed=1)
    for one, same in zip(roles(cells, seed=4), roles(cells, seed=4), strict=True):
        pd.testing.assert_frame_equal(one, same)
    assert not roles(cells, seed=4)[0]["se"].equals(roles(cells, seed=5)[0]["se"])


def test_one_model_has_an_interval_over_partners_and_says_so() -> None:
    cells = synthetic_frame(1, 3, 6, seed=8)
    table, _ = roles(cells, draws=20_000)
    row = table.set_index(KEY).loc[("language", "de", "donor")]
    of_partner = (
        cells[(cells["regime"] == "MT-CL") & (cells["source_language"] == "de")]
        .groupby("target_language")["delta"]
        .mean()
    )
    assert row["se"] == pytest.approx(of_partner.std() / np.sqrt(5), rel=0.03)
    assert "one model: the interval is over partners and holds for this model only" in row["note"]


def test_one_partner_has_no_interval_and_says_so() -> None:
    table, pairs = roles(synthetic_frame(3, 2, 2, seed=8))
    assert table["score"].notna().all()
    assert table[["se", "low", "high", "rank_low", "rank_high"]].isna().all(axis=None)
    assert table["note"].str.startswith("one partner: no interval").all()
    assert pairs[["low", "high", "p_adjusted"]].isna().all(axis=None)
    counts = distinguishable(pairs)
    assert counts["n_pairs"].eq(0).all()
    assert counts["share"].isna().all()


def test_cells_that_agree_exactly_have_no_interval() -> None:
    cells = synthetic_frame(2, 1, 4).assign(delta=0.25)
    table, pairs = roles(cells)
    assert table["note"].eq("all models and partners agree exactly: no interval").all()
    assert table["rank"].eq(1).all()
    assert pairs["p_adjusted"].isna().all()


def test_nothing_to_score_is_an_empty_table_and_too_few_draws_are_refused() -> None:
    cells = synthetic_frame(2, 1, 1)
    table, pairs = roles(cells)
    assert table.empty
    assert distinguishable(pairs).empty
    with pytest.raises(Refused, match="at least 40 draws"):
        roles(cells, draws=10)
