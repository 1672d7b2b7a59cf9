"""The published table: read cell by cell, its figures reproduced, and everything that is wrong with it told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from registry.errors import Refused
from registry.imports import ImportedResults, read_source
from registry.imports.published import COLUMNS
from tests.imports.published_table import published_table

TableMaker = Callable[[], pd.DataFrame]


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., ImportedResults]:
    """Read a table by way of a file, written as given or changed first."""

    def read_it(table: pd.DataFrame, encode: Callable[[str], bytes] = str.encode, **options: object) -> ImportedResults:
        path = tmp_path / "cells.csv"
        path.write_bytes(encode(table.to_csv(index=False)))
        return read_source(path, staging=tmp_path / "staging", **options)

    return read_it


def test_the_columns_are_the_published_ones(small_table: TableMaker) -> None:
    assert sorted(COLUMNS) == sorted(small_table().columns)
    assert len(COLUMNS) == 26


@pytest.mark.parametrize("filled", [True, False])
def test_every_cell_comes_out_as_it_stands(read, filled: bool) -> None:
    table = published_table(("Llama-3.2-1B-Instruct",), filled=filled)
    found = read(table)
    assert found.seed_averaged
    assert len(found.observations) == 44 * 44
    keys = ["fine_tuned_dataset", "fine_tuned_language", "eval_dataset", "eval_language"]
    mine = found.observations.set_index(["source_task", "source_language", "target_task", "target_language"])
    theirs = table.set_index(keys).loc[mine.index]
    normed = theirs["score_norm_mean"].notna()
    expected = {
        "regime": theirs["regime"],
        "score": theirs["score_norm_mean"].where(normed, theirs["score_mean"]),
        "baseline": theirs["score_norm_base_mean"].where(normed, theirs["score_base_mean"]),
        "acc": theirs["score_mean"],
        "acc_norm": theirs["score_norm_mean"],
        "delta": theirs["delta_score_norm_mean"],
        "delta_sd": theirs["delta_score_norm_std"],
        "n_seeds": theirs["n_seeds"],
    }
    for column, values in expected.items():
        np.testing.assert_array_equal(mine[column], values)
    assert set(mine["model_family"]) == {"Llama-3"}
    assert set(mine["model_size_b"]) == {1.0}
    assert normed.all() == filled


def test_baselines_are_one_per_model_and_target_and_flagged_where_chance_is_known(read, small_table) -> None:
    table = small_table()
    mmlu = table["eval_dataset"] == "global_mmlu"
    hindi = mmlu & (table["eval_language"] == "hi") & (table["model_name"] == "gemma-3-4b-it")

    def low(base: float):
        for name in ("", "norm_"):
            table.loc[hindi, f"score_{name}base_mean"] = base
            table.loc[hindi, f"score_{name}mean"] = base + 0.01
            table.loc[hindi, f"delta_score_{name}mean"] = 1.0
        return read(table)

    # 94 of 400 by guessing one in four: less than a standard error below.
    assert not low(0.235).baselines["below_chance"].any()
    assert low(0.235).below_chance() == ""
    found = low(0.17)
    assert len(found.baselines) == 8
    (flagged,) = found.baselines[found.baselines["below_chance"]].itertuples()
    assert flagged.chance_p == pytest.approx(stats.binomtest(68, 400, 0.25, alternative="less").pvalue)
    assert flagged.chance_p < flagged.chance_q < 0.05
    assert (flagged.model, flagged.task, flagged.language, flagged.chance) == (
        "gemma-3-4b-it",
        "global_mmlu",
        "hi",
        0.25,
    )
    assert "gemma-3-4b-it on global_mmlu/hi (0.170)" in found.below_chance()


@pytest.mark.parametrize("name", ["Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct", "Qwen__Qwen2.5-0.5B-Instruct"])
def test_models_of_the_paper_are_known_with_and_without_their_owner(read, small_table, name: str) -> None:
    table = small_table().replace("Qwen2.5-0.5B-Instruct", name)
    found = read(table).observations
    (model,) = found[found["model"] == name][["model_family", "model_size_b"]].drop_duplicates().itertuples(index=False)
    assert tuple(model) == ("Qwen2.5", 0.5)


def test_other_models_take_family_and_size_from_the_table_or_the_parameter(read, small_table) -> None:
    table = small_table().replace("gemma-3-4b-it", "lab/new")
    table["model_size"] = "2.5B"
    with pytest.raises(Refused, match=r"family of model 'lab/new' is not known; give families=lab/new=FAMILY"):
        read(table)
    by_parameter = read(table, families={"lab/new": "New"})
    by_column = read(table.assign(model_family=table["model_name"].map({"lab/new": "New"}).fillna("")))
    for found in (by_parameter, by_column):
        rows = found.observations[found.observations["model"] == "lab/new"]
        assert set(zip(rows["model_family"], rows["model_size_b"], strict=True)) == {("New", 2.5)}
    assert any("gives Qwen2.5-0.5B-Instruct 2.5B billion" in note for note in by_parameter.notes)
    table["model_size"] = "large"
    with pytest.raises(Refused, match="size of model 'lab/new' is not known"):
        read(table, families={"lab/new": "New"})


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("hellaswag,", '"hellaswag",').encode(),
        lambda text: (text + "\n\n").encode(),
    ],
    ids=["byte-order mark", "CRLF", "quotes", "blank lines"],
)
def test_harmless_variants_of_the_file_read_the_same(read, small_table, encode) -> None:
    pd.testing.assert_frame_equal(read(small_table(), encode).observations, read(small_table()).observations)


def test_the_order_of_columns_and_rows_is_free(read, small_table) -> None:
    table = small_table()
    shuffled = table[list(table.columns[::-1])].sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(read(shuffled).observations, read(table).observations)


def test_scores_rounded_to_four_decimals_are_taken(read, small_table) -> None:
    table = small_table()
    numbers = [column for column in table if column.startswith(("score", "delta"))]
    table[numbers] = table[numbers].round(4)
    assert len(read(table).observations) == 32


def put(column: str, value: object, row: int = 3) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Put a value into row 3, which is line 5 of the file."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        table[column] = table[column].astype(object)
        table.loc[row, column] = value
        return table

    return change


MISTAKES = {
    "misspelt column": (lambda t: t.rename(columns={"score_mean": "scor_mean"}), "'scor_mean'; is it score_mean?"),
    "missing column": (lambda t: t.drop(columns=["n_seeds", "regime"]), "missing: regime, n_seeds"),
    "extra column": (lambda t: t.assign(rank=1), "not known: 'rank'; remove it"),
    "no number": (put("score_mean", "0,5"), "line 5: score_mean is not a number (line 5: '0,5')"),
    "underscores": (put("n_seeds", "1_0"), "line 5: n_seeds is not a number"),
    "infinite": (put("score_norm_se", "inf"), "line 5: score_norm_se is not a number"),
    "percent": (put("score_mean", 45.5), "line 5: score_mean is no proportion in [0, 1] (line 5: 45.5)"),
    "below zero": (put("score_base_mean", -0.1), "line 5: score_base_mean is no proportion"),
    "far delta": (put("delta_score_mean", 101), "line 5: delta_score_mean is beyond ±100"),
    "negative deviation": (put("delta_score_norm_std", -1), "line 5: delta_score_norm_std is negative"),
    "no seeds": (put("n_seeds", 0), "line 5: n_seeds is no number of seeds"),
    "half a seed": (put("n_seeds", 2.5), "line 5: n_seeds is no number of seeds"),
    "seeds missing": (put("n_seeds", ""), "line 5: n_seeds is no number of seeds"),
    "score missing": (put("score_mean", ""), "line 5: score_mean is missing"),
    "baseline missing": (put("score_base_mean", "NaN"), "line 5: the baseline is missing: score_base_mean"),
    "norm baseline missing": (put("score_norm_base_mean", ""), "the baseline is missing: score_norm_base_mean"),
    "delta missing": (put("delta_score_norm_mean", ""), "line 5: delta_score_norm_mean is missing"),
    "norm score missing": (put("score_norm_mean", ""), "line 5: score_norm_base_mean is there, score_norm_mean is not"),
    "wrong delta": (put("delta_score_norm_mean", 77), "line 5: delta_score_norm_mean is not 100 × (score − baseline)"),
    "wrong regime": (
        put("regime", "MT-ML"),
        "line 5: regime contradicts the pair of source and target (line 5: 'MT-ML'",
    ),
    "no regime": (put("regime", ""), "line 5: regime contradicts"),
    "another baseline": (
        lambda t: put("delta_score_mean", (t.loc[3, "score_mean"] - 0.5) * 100)(put("score_base_mean", 0.5)(t)),
        "score_base_mean differs within one model and target",
    ),
    "duplicate": (
        lambda t: pd.concat([t, t.iloc[[3]]]),
        "line 34: the cell stands there before (line 34: as in line 5)",
    ),
    "markup": (put("eval_dataset", "<b>x</b>"), "line 5: eval_dataset is not usable; names are letters"),
    "a path": (put("eval_language", "../../etc"), "line 5: eval_language is not usable"),
    "an empty name": (put("fine_tuned_language", ""), "line 5: fine_tuned_language is not usable"),
    "a model's path": (put("model_name", "/etc/passwd"), "line 5: model_name is not usable"),
    "a line break": (put("eval_language", "de\n"), "eval_language is not usable"),
    "two sizes": (put("model_size", 9), "model_size of 'Qwen2.5-0.5B-Instruct' has several values: 0.5, 9"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_its_line(read, small_table, mistake: str) -> None:
    change, told = MISTAKES[mistake]
    with pytest.raises(Refused) as raised:
        read(change(small_table()))
    assert told in str(raised.value)


def test_deltas_given_as_proportions_are_recognised(read, small_table) -> None:
    table = small_table()
    table["delta_score_mean"] /= 100
    with pytest.raises(Refused, match="these are proportions: multiply them by 100"):
        read(table)


def test_every_kind_of_mistake_is_listed_with_its_number(read, small_table) -> None:
    table = put("regime", "MT-ML")(put("score_std", -1, 9)(small_table()))
    table["n_seeds"] = 0
    with pytest.raises(Refused) as raised:
        read(table)
    head, *kinds = str(raised.value).splitlines()
    assert "has 34 faults" in head
    assert len(kinds) == 3
    assert any("line 2, 3, 4, 5, 6 and 27 more: n_seeds" in kind for kind in kinds)


HOSTILE = {
    "semicolons": (lambda text: text.replace(",", ";").encode(), "separated by a semicolon"),
    "tabs": (lambda text: text.replace(",", "\t").encode(), "separated by a tab"),
    "Latin-1": (lambda text: text.replace("gemma-3-4b-it", "gemmä", 1).encode("latin-1"), ":18: not UTF-8"),
    "UTF-16": (lambda text: text.encode("utf-16"), "not UTF-8"),
    "huge field": (lambda text: text.replace("gemma", "x" * 200_000, 1).encode(), "18: model_name is not usable"),
    "open quote": (lambda text: text.replace("gemma", '"gemma', 1).encode(), "correct the quotes"),
    "short row": (lambda text: (text + "a,b\n").encode(), ":34: 2 column(s) where the header has 26"),
    "zero bytes": (lambda text: text.replace("gemma", "gem\0ma", 1).encode(), "model_name is not usable"),
    "header alone": (lambda text: text.splitlines()[0].encode(), "holds no rows"),
    "empty": (lambda text: b"", "holds no rows"),
    "markup": (lambda text: b"<html><body>404</body></html>", "holds no rows"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_is_no_such_table_is_refused(read, small_table, kind: str) -> None:
    encode, told = HOSTILE[kind]
    with pytest.raises(Refused) as raised:
        read(small_table(), encode)
    assert told in str(raised.value)
    assert len(str(raised.value)) < 3_000
