"""Cells of the hub's rows that are no texts: the same rules as for files, told by row."""

from __future__ import annotations

import math

import pytest

from registry.benchmarks.hub.rows import items_of_rows

ARC = {"id": "a", "instruction": "Why?", "answer": "A"} | {f"option_{one}": one for one in "abcd"} | {"option_e": None}
HELLASWAG = {"id": 1, "activity_label": "Run", "ctx_a": "He", "ctx_b": "runs", "endings": list("wxyz"), "label": 1}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (ARC | {"id": math.nan}, {"row 0": "the id is empty (row 0)"}),
        (ARC | {"id": None}, {"row 0": "the id is empty (row 0)"}),
        (ARC | {"id": "\u200b"}, {"row 0": "the id is empty (row 0)"}),
        (ARC | {"id": True}, {"row 0": "column 'id' holds a bool; a text or a number is needed (row 0)"}),
        (ARC | {"option_b": "\u3164"}, {"a": "an option is empty (row 0)"}),
        (ARC | {"option_b": "a\u00ad"}, {"a": "two options are equal but for characters that look the same (row 0)"}),
        (ARC | {"instruction": "\u2060"}, {"a": "the question is empty (row 0)"}),
        (ARC | {"answer": math.nan}, {"a": "answer '' is no letter of an option; there are A, B, C, D (row 0)"}),
    ],
)
def test_a_row_that_is_no_item_is_told(row: dict[str, object], told: dict[str, str]) -> None:
    assert items_of_rows("arc_challenge", [row], row, "here").broken == told


@pytest.mark.parametrize("absent", [None, math.nan, "", "\u200b"])
def test_an_option_may_be_absent_at_the_end(absent: object) -> None:
    (item,) = items_of_rows("arc_challenge", [ARC | {"option_d": absent, "option_e": absent}], ARC, "here").items
    assert item.options == ("a", "b", "c")


@pytest.mark.parametrize(("id", "label"), [(1, 1), (1.0, 1.0), ("1", "1"), ("\ufeff1 ", " 1")])
def test_an_id_and_a_label_are_the_same_however_a_language_holds_them(id: object, label: object) -> None:
    (item,) = items_of_rows("hellaswag", [HELLASWAG | {"id": id, "label": label}], HELLASWAG, "here").items
    assert (item.id, item.answer) == ("1", 1)
