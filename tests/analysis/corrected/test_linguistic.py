"""Permutation p-values against a plain loop, an exact enumeration, and their size where nothing is related."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.corrected.linguistic import COLUMNS, linguistic, qap
from analysis.published import linguistic as vectors_module
from analysis.published.linguistic import KINDS, LanguageVectors
from analysis.published.linguistic import linguistic as as_published
from tests.analysis.synthetic import LANGUAGES, synthetic_frame


def _vectors(random: np.random.Generator, languages: tuple[str, ...], features: int = 20) -> LanguageVectors:
    tables = {
        kind: pd.DataFrame(
            random.integers(0, 2, (len(languages), features)).astype(float),
            index=list(languages),
            columns=[f"{prefix}{i}" for i in range(features)],
        )
        for kind, prefix in KINDS.items()
    }
    return LanguageVectors(tables, "drawn")


def _distances(random: np.random.Generator, n: int) -> np.ndarray:
    """Symmetric distances of languages of which some are far from all others, as real ones are."""
    places = random.standard_t(3, (n, 2))
    return np.linalg.norm(places[:, None] - places, axis=2)


@pytest.mark.parametrize("missing", [0, 3])
def test_all_permutations_of_few_languages_by_a_loop(missing: int) -> None:
    random, n = np.random.default_rng(2), 5
    distance, transfer = _distances(random, n), random.normal(0, 1, (n, n))
    np.fill_diagonal(transfer, np.nan)
    transfer[[0, 1, 3][:missing], [2, 4, 0][:missing]] = np.nan
    there = np.isfinite(transfer)
    coefficients = {stats.spearmanr: [], stats.pearsonr: []}
    for order in permutations(range(n)):
        moved = distance[np.ix_(order, order)]
        for correlate, found in coefficients.items():
            found.append(abs(correlate(transfer[there], moved[there]).statistic))
    expected = [np.mean(np.array(found) >= found[0] - 1e-9) for found in coefficients.values()]
    found = qap(transfer, distance, permutations=9_999, random=random)
    assert (found.permutations, found.exact) == (120, True)
    assert (found.spearman_p, found.pearson_p) == pytest.approx(tuple(expected))
    assert found.spearman == pytest.approx(stats.spearmanr(transfer[there], distance[there]).statistic)
    assert found.pearson == pytest.approx(stats.pearsonr(transfer[there], distance[there]).statistic)


def test_drawn_permutations_come_near_all_of_them_and_count_the_observed_one() -> None:
    random = np.random.default_rng(3)
    distance, transfer = _distances(random, 6), random.normal(0, 1, (6, 6)) + 1.2 * random.normal(0, 1, (6, 1))
    exact = qap(transfer, distance, permutations=720, random=random)
    drawn = qap(transfer, distance, permutations=600, random=random)
    assert (exact.exact, drawn.exact) == (True, False)
    assert drawn.spearman_p == pytest.approx(exact.spearman_p, abs=0.07)
    assert (drawn.pearson_p * 601) == pytest.approx(round(drawn.pearson_p * 601))
    related = qap(-_distances(random, 11), -_distances(random, 11), permutations=99, random=random)
    assert related.spearman_p >= 0.01
    same = _distances(random, 11)
    assert qap(-same, same, permutations=99, random=random).spearman_p == 0.01


def test_size_is_right_where_the_plain_one_is_far_too_large() -> None:
    # Transfer has effects of its source and its target language, of which distance knows nothing.
    random, studies, by_permutation, plain = np.random.default_rng(4), 600, [], []
    off = ~np.eye(11, dtype=bool)
    for _ in range(studies):
        transfer = random.normal(0, 0.7, (11, 1)) + random.normal(0, 0.7, (1, 11)) + random.normal(0, 0.4, (11, 11))
        distance = _distances(random, 11)
        found = qap(transfer, distance, permutations=199, random=random)
        by_permutation.append((found.spearman_p, found.pearson_p))
        x, y = transfer[off], distance[off]
        plain.append((stats.spearmanr(x, y).pvalue, stats.pearsonr(x, y).pvalue))
    size = (np.array(by_permutation) <= 0.05).mean(axis=0)
    assert size == pytest.approx([0.05, 0.05], abs=0.027)
    assert ((np.array(plain) <= 0.05).mean(axis=0) > 0.12).all()


def test_the_table_has_the_published_coefficients_and_both_p_values() -> None:
    cells = synthetic_frame(3, 2, 11, seed=2)
    vectors = _vectors(np.random.default_rng(1), LANGUAGES)
    table, left_out = linguistic(cells, vectors, permutations=199)
    published, _, _ = as_published(cells, vectors)
    assert list(table.columns) == COLUMNS
    assert left_out == []
    for column in ("distance", "n_pairs", "spearman", "pearson", "vectors"):
        assert table[column].tolist() == published[column].tolist()
    assert table["spearman_p_plain"].tolist() == published["spearman_p"].tolist()
    assert table["pearson_p_plain"].tolist() == published["pearson_p"].tolist()
    assert table["spearman_p"].between(1 / 200, 1).all()
    assert table[["n_languages", "permutations"]].eq([11, 199]).all(axis=None)
    again, _ = linguistic(cells, vectors, permutations=199)
    pd.testing.assert_frame_equal(table, again)


def test_a_planted_relation_is_found() -> None:
    cells = synthetic_frame(3, 2, 11, seed=2)
    vectors = _vectors(np.random.default_rng(1), LANGUAGES)
    _, pairs, _ = as_published(cells, vectors)
    near = pairs.set_index(["source_language", "target_language"])["syntax"]
    keys = pd.MultiIndex.from_frame(cells[["source_language", "target_language"]])
    related = cells.assign(delta=cells["delta"] - 8 * near.reindex(keys).fillna(0).to_numpy())
    table, _ = linguistic(related, vectors, permutations=999)
    syntax = table.set_index("distance").loc["syntax"]
    assert syntax["spearman"] < -0.5
    assert syntax["spearman_p"] == syntax["pearson_p"] == 0.001


def test_few_languages_cannot_be_significant_and_the_note_says_so() -> None:
    table, _ = linguistic(synthetic_frame(2, 1, 3), _vectors(np.random.default_rng(1), LANGUAGES[:3]))
    assert table["permutations"].eq(6).all()
    assert table["note"].eq("all 6 permutations of 3 languages: p cannot fall to 0.05, whatever the relation").all()
    table, _ = linguistic(synthetic_frame(2, 1, 5), _vectors(np.random.default_rng(1), LANGUAGES[:5]))
    assert table["note"].eq("all 120 permutations of 5 languages").all()


def test_languages_without_vectors_and_missing_pairs_are_left_out() -> None:
    cells = synthetic_frame(2, 1, 6, seed=4)
    gone = (cells["source_language"] == "ar") & (cells["target_language"] == "bn")
    table, left_out = linguistic(cells[~gone], _vectors(np.random.default_rng(1), LANGUAGES[:5]))
    assert table["n_pairs"].eq(19).all()
    assert table["n_languages"].eq(5).all()
    assert [str(part) for part in left_out] == ["Linguistic distance of fr: drawn has no vectors of them."]


def test_without_vectors_the_published_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors_module, "find_spec", lambda name: None)
    table, left_out = linguistic(synthetic_frame(1, 1, 4))
    assert table.empty
    assert list(table.columns) == COLUMNS
    assert "pip install -e '.[linguistic]'" in left_out[0].reason


def test_equal_distances_have_no_correlation() -> None:
    found = qap(np.arange(16.0).reshape(4, 4), 1.0 - np.eye(4), permutations=99, random=np.random.default_rng(0))
    assert np.isnan([found.spearman, found.spearman_p, found.pearson, found.pearson_p]).all()
