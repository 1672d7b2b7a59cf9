"""Distances and correlations against scipy; vectors from a file and from an installed package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

from analysis.published import linguistic as module
from analysis.published.linguistic import (
    KINDS,
    LanguageVectors,
    cosine_distances,
    language_pairs,
    linguistic,
    read_vectors,
    uriel_vectors,
)
from registry.errors import Refused
from tests.analysis.synthetic import synthetic_frame

LANGUAGES = ["ar", "bn", "de", "en", "es"]


@pytest.fixture
def table() -> pd.DataFrame:
    random = np.random.default_rng(4)
    names = [f"{prefix}{i}" for prefix in KINDS.values() for i in range(12)]
    return pd.DataFrame(random.integers(0, 2, (5, 36)).astype(float), index=LANGUAGES, columns=names)


@pytest.fixture
def file(table: pd.DataFrame, tmp_path: Path) -> Path:
    path = tmp_path / "vectors.csv"
    table.rename_axis("language").to_csv(path)
    return path


def test_distances_are_scipys(table: pd.DataFrame) -> None:
    found = cosine_distances(table)
    np.testing.assert_allclose(found, cdist(table, table, "cosine"), atol=1e-12)
    assert np.isnan(cosine_distances(table.assign(**dict.fromkeys(table, 0.0)))).all(axis=None)


def test_correlations_are_scipys(file: Path, table: pd.DataFrame) -> None:
    cells = synthetic_frame(3, 2, 5, seed=6)
    found, pairs, left_out = linguistic(cells, read_vectors(file))
    assert left_out == []
    mt_cl = cells[cells["regime"] == "MT-CL"]
    assert len(pairs) == 20
    for row in found.itertuples():
        part = table[[name for name in table if name.startswith(KINDS[row.distance])]]
        x, y = [], []
        for one in LANGUAGES:
            for other in LANGUAGES:
                if one != other:
                    of_pair = mt_cl[(mt_cl["source_language"] == one) & (mt_cl["target_language"] == other)]
                    x.append(of_pair["delta"].mean())
                    y.append(float(cdist(part.loc[[one]], part.loc[[other]], "cosine")[0, 0]))
        spearman, pearson = stats.spearmanr(x, y), stats.pearsonr(x, y)
        assert (row.spearman, row.spearman_p) == pytest.approx(tuple(spearman), abs=1e-9)
        assert (row.pearson, row.pearson_p) == pytest.approx(tuple(pearson), abs=1e-9)
        assert (row.n_pairs, row.vectors) == (20, "vectors.csv")


def test_languages_without_vectors_are_named(table: pd.DataFrame) -> None:
    syntax = table.loc[["ar", "bn", "de"], [name for name in table if name.startswith("S_")]]
    found, pairs, left_out = linguistic(synthetic_frame(1, 1, 5), LanguageVectors({"syntax": syntax}, "some"))
    assert found["n_pairs"].tolist() == [6]
    assert pairs["syntax"].notna().sum() == 6
    assert left_out[0].part == "Linguistic distance of en, es"
    assert {part.part for part in left_out[1:]} == {"Linguistic distance, phonology", "Linguistic distance, inventory"}


def test_without_the_package_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    found, pairs, left_out = linguistic(synthetic_frame(1, 1, 3))
    assert found.empty
    assert pairs[list(KINDS)].isna().all(axis=None)
    assert "pip install -e '.[linguistic]'" in left_out[0].reason


def test_the_package_is_read_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "letter_codes.json").write_text(json.dumps({"de": "deu"}))
    np.savez(
        tmp_path / "data" / "feature_predictions.npz",
        feats=np.array(["S_A", "P_A", "S_B", "INV_A"]),
        langs=np.array(["deu", "tpi"]),
        data=np.array([[[1.0], [0.0], [1.0], [0.0]], [[0.0], [1.0], [1.0], [1.0]]]),
        sources=np.array(["predicted"]),
    )
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(module, "find_spec", lambda name: spec)
    monkeypatch.setattr(module, "version", lambda name: "1")
    found = uriel_vectors(["de", "tpi", "xx"])
    assert found is not None
    assert found.by_kind["syntax"].to_dict("index") == {"de": {"S_A": 1, "S_B": 1}, "tpi": {"S_A": 0, "S_B": 1}}
    assert list(found.by_kind) == list(KINDS)


def test_the_published_languages_have_vectors() -> None:
    languages = sorted(set(synthetic_frame(1, 1, 11)["source_language"]))
    found = uriel_vectors(languages)
    if found is None:
        pytest.skip("the extra `linguistic` is not installed")
    assert {kind: part.shape for kind, part in found.by_kind.items()} == {
        "syntax": (11, 103), "phonology": (11, 28), "inventory": (11, 158),
    }  # fmt: skip
    near = cosine_distances(found.by_kind["syntax"])
    assert near.at["es", "pt"] < near.at["es", "hi"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lang,S_A\nde,1\n", "no column 'language'"),
        ("language,S_A\nde,1\nde,0\n", "twice: de"),
        ("language,S_A\nde,x\n", "'x' for S_A of 'de'"),
        ("language,S_A\nde,\n", "'' for S_A of 'de'"),
        ("language,other\nde,1\n", "begins with S_, P_, INV_"),
        ("", "no CSV table"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "v.csv"
    path.write_text(text)
    with pytest.raises(Refused, match="vectors") as refused:
        read_vectors(path)
    assert words in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="there is no file"):
        read_vectors(tmp_path / "none.csv")


def test_pairs_are_ordered() -> None:
    pairs = language_pairs(synthetic_frame(1, 1, 3), {})
    assert len(pairs) == 6
    assert not pairs.duplicated(["source_language", "target_language"]).any()
