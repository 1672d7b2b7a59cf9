"""Rows of the published data sets that are no items, or no translations: told, left out everywhere, or refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.benchmarks.hub.sources import source_of
from registry.cells import Cell
from tests.benchmarks.hub_fixture import (
    ARC,
    HELLASWAG,
    MMLU,
    TRUTHFULQA,
    Change,
    Row,
    aligned,
    hub,
    refusal,
    rows_of,
    write_hub,
)


def broken(cell: Cell, number: int, **values: Any) -> Change:
    """Put values into one row of a cell's splits."""

    def change(at: Cell, split: str, rows: list[Row]) -> list[Row]:
        return [row | (values if at == cell and place == number else {}) for place, row in enumerate(rows)]

    return change


FAULTS = {
    "answer past the options": (ARC, {"answer": "E"}, "answer 'E' is no letter of an option; there are A, B, C, D"),
    "no answer": (MMLU, {"answer": None}, "answer '' is no letter"),
    "empty option": (ARC, {"option_b": ""}, "an option is empty"),
    "option cleaned away": (ARC, {"option_b": "[x]"}, "an option is empty"),
    "equal options": (MMLU, {"option_a": "7", "option_b": "7"}, "two options are equal"),
    "empty question": (MMLU, {"question": " \n"}, "the question is empty"),
    "no question": (TRUTHFULQA, {"question": None}, "column 'question' holds nothing, no text"),
    "empty id": (ARC, {"id": " "}, "row 2: the id is empty"),
    "no context": (HELLASWAG, {"ctx_a": "", "ctx_b": None}, "ctx_a and ctx_b are empty"),
    "three endings": (HELLASWAG, {"endings": ["a", "b", "c"]}, "3 endings; HellaSwag has 4"),
    "equal endings": (HELLASWAG, {"endings": ["a", "b", "c", "a"]}, "two options are equal"),
    "label past the endings": (HELLASWAG, {"label": "4"}, "label '4' is no index of an ending"),
    "no label": (HELLASWAG, {"label": ""}, "label '' is no index of an ending"),
    "second choice right": (TRUTHFULQA, {"mc1_targets_labels": [0, 1, 0, 0]}, "the mc1 labels are 0, 1, 0, 0"),
    "two choices right": (TRUTHFULQA, {"mc1_targets_labels": [1, 1, 0, 0]}, "the first choice, and no other"),
    "more labels than choices": (TRUTHFULQA, {"mc1_targets_labels": [1, 0]}, "4 mc1 choices and 2 labels"),
    "one choice": (TRUTHFULQA, {"mc1_targets_choices": ["a"], "mc1_targets_labels": [1]}, "at least two"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_row_is_told_and_left_out_of_every_language(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    cell, values, told = FAULTS[name]
    write_hub(tmp_path, ("ar", "de"), 4, broken(cell, 2, **values))
    split = source_of(cell).train
    id = str(rows_of(cell, split, 3)[2].get("id") or rows_of(cell, split, 3)[2].get("sample_id") or 2)
    with caplog.at_level(logging.WARNING):
        items = aligned(tmp_path, cell.task, **({"train": 3} if cell in (HELLASWAG, TRUTHFULQA) else {}))
    assert f"{cell}: 1 of " in caplog.text
    assert "are no items and are left out of every language" in caplog.text
    assert told in caplog.text
    assert "1 ids are not in every language and are left out" in caplog.text
    used = {item.id for language in ("ar", "de") for item in items.train(Cell(cell.task, language))}
    assert used
    assert id not in used


def test_the_english_truthfulqa_has_faults_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cell = Cell("truthfulqa", "en")
    texts = [
        "nothing",
        "{'choices': ['a', 'b']}",
        "{'choices': array(['a' 'b']), 'labels': array([1, 0])}",
        "open('x')",
    ]

    def change(at: Cell, split: str, rows: list[Row]) -> list[Row]:
        return [row | ({"mc1_targets": texts[n]} if at == cell and n < 4 else {}) for n, row in enumerate(rows)]

    pool = hub(write_hub(tmp_path, ("en",), 4, change)).pool
    assert [item.id for item in pool(cell, "train")] == ["4", "5", "6", "7"]
    for told in ("'mc1_targets' does not hold choices and labels", "1 mc1 choices and 2 labels", "has no place"):
        assert told in caplog.text


def test_an_id_that_two_rows_share_is_no_item(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_hub(tmp_path, ("ar", "de"), 4, broken(ARC, 2, id="shells_20"))
    items = aligned(tmp_path, "arc_challenge")
    assert "shells_20: rows 0, 2 share this id" in caplog.text
    assert {item.id for item in items.train(ARC)} == {"shells_21", "shells_23"}


def test_a_data_set_without_a_column_is_refused(tmp_path: Path) -> None:
    def change(cell: Cell, split: str, rows: list[Row]) -> list[Row]:
        return [{key.replace("answer", "solution"): value for key, value in row.items()} for row in rows]

    write_hub(tmp_path, ("ar", "de"), 4, change)
    assert "m_arc (ar) at 69b0991e, split train: there is no column 'answer'" in refusal(tmp_path, ARC)


def test_a_data_set_of_which_no_row_is_an_item_is_refused(tmp_path: Path) -> None:
    write_hub(tmp_path, ("ar", "de"), 4, lambda cell, split, rows: [row | {"answer": "Z"} for row in rows])
    assert "arc_challenge/ar: 4 of 4 rows of alexandrainst/m_arc (ar)" in refusal(tmp_path, ARC)


def test_translations_that_disagree_are_left_out_or_refused_or_allowed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_hub(tmp_path, ("ar", "de"), 4, broken(ARC, 2, answer="A"))
    assert len(aligned(tmp_path, "arc_challenge").train(ARC)) == 3
    assert "train: 1 of 4 ids have another answer or number of options in some language and are left out" in caplog.text
    assert "1 ids have another answer or number of options in de than in ar" in refusal(
        tmp_path, ARC, differing="refuse"
    )
    assert len(aligned(tmp_path, "arc_challenge", differing="allow").train(ARC)) == 4


def shorter(cell: Cell, split: str, rows: list[Row]) -> list[Row]:
    """Take a row out of the middle of the Arabic TruthfulQA, as the published one lacks some."""
    return rows[:3] + rows[4:] if cell == Cell("truthfulqa", "ar") else rows


def test_rows_that_are_only_numbered_are_used_as_published_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_hub(tmp_path, ("ar", "de"), 8, shorter)
    items = aligned(tmp_path, "truthfulqa", train=6)
    assert len(items.train(TRUTHFULQA) + items.test(TRUTHFULQA)) == 15
    assert "15 stay; lacking: ar 1" in caplog.text
    assert "they number rows, so these are different questions" in caplog.text
    few = aligned(tmp_path, "truthfulqa", train=2, differing="drop")
    assert len(few.train(TRUTHFULQA) + few.test(TRUTHFULQA)) < 15


def test_a_manifest_that_names_a_broken_row_is_refused_or_does_without_it(
    tmp_path: Path, manifest: Callable[..., str]
) -> None:
    write_hub(tmp_path, ("ar", "de"), 4, broken(TRUTHFULQA, 2, question=""))
    folder = manifest("truthfulqa", "train,1", "train,2", "test,7")
    told = refusal(tmp_path, TRUTHFULQA, manifest=folder)
    assert "truthfulqa.csv:3: train item '2' is broken in de: the question is empty (row 2); delete the row" in told
    items = aligned(tmp_path, "truthfulqa", manifest=folder, missing="drop")
    assert [item.id for item in items.train(TRUTHFULQA)] == ["1"]
    wrong = manifest("truthfulqa", "train,1", "train,99", "test,7")
    assert "train has no item '99' in any language" in refusal(tmp_path, TRUTHFULQA, manifest=wrong, missing="drop")


def test_a_manifest_is_held_to_translations_that_agree(tmp_path: Path, manifest: Callable[..., str]) -> None:
    write_hub(tmp_path, ("ar", "de"), 4, broken(ARC, 2, answer="A"))
    folder = manifest("arc_challenge", "train,shells_21", "train,shells_22", "test,shells_20021")
    assert "1 ids have another answer" in refusal(tmp_path, ARC, manifest=folder)
    assert len(aligned(tmp_path, "arc_challenge", manifest=folder, differing="drop").train(ARC)) == 1
