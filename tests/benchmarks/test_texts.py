"""When a cell is a text, when a text is empty, and when two are the same, whatever Unicode can do."""

from __future__ import annotations

import math
import sys
import unicodedata

import pytest

from registry.benchmarks.items import Item
from registry.benchmarks.texts import cell_id, cell_text, emptiness, find_text, fold_text, is_visible, normalize_text
from registry.errors import unknown

UNSEEN = [0x20, 0xA0, 0xAD, 0x34F, 0x115F, 0x180E, 0x200B, 0x200D, 0x200E, 0x200F, 0x2028, 0x202E, 0x2060, 0x2800]
UNSEEN += [0x3000, 0x3164, 0xFE0F, 0xFEFF, 0xFFA0, 0x1D173, 0xE0020, 0xE0100, 0x00, 0x7F, 0x85]


@pytest.mark.parametrize("point", UNSEEN, ids=lambda point: f"U+{point:04X}")
def test_what_cannot_be_seen_is_no_text(point: int) -> None:
    text = chr(point)
    assert not is_visible(text)
    assert cell_text(f" {text}{text}", "x") == ""
    assert is_visible(f"{text}x")
    for options in (("a", text), ("a", text * 2, "b")):
        with pytest.raises(ValueError, match="an option is empty"):
            Item("1", "Q", options, 0)
    with pytest.raises(ValueError, match="the question is empty"):
        Item("1", text, ("a", "b"), 0)


@pytest.mark.parametrize("text", ["x", "-", "\u0301", "\u0600", "\ufffd", "\U0001f44d", "\u093f", "\u3042"])
def test_what_can_be_seen_is_a_text(text: str) -> None:
    assert is_visible(text)


def test_unicode_agrees_on_what_is_ignorable() -> None:
    regex = pytest.importorskip("regex")
    ignorable = regex.compile(r"\p{Default_Ignorable_Code_Point}|[\p{Zs}\p{Zl}\p{Zp}\p{Cc}]")
    points = "".join(map(chr, range(sys.maxunicode + 1)))
    found = set(ignorable.findall(points))
    assert len(found) > 4000
    assert [f"U+{ord(one):04X}" for one in sorted(found) if is_visible(one)] == []
    beyond = {one for one in points if not is_visible(one)} - found
    assert {unicodedata.category(one) for one in beyond} <= {"Cf", "Cn", "So"}
    assert len(beyond) < 30


@pytest.mark.parametrize(
    ("value", "text", "id"),
    [
        (" a ", "a", "a"), (12, "12", "12"), (12.0, "12.0", "12"), ("12.0", "12.0", "12.0"), (-0.0, "-0.0", "0"),
        (0.5, "0.5", "0.5"), (None, "", ""), (math.nan, "", ""), ("nan", "nan", "nan"), (10**3, "1000", "1000"),
        ("e\u0301", "e\u0301", "\u00e9"), ("\ufeff1", "\ufeff1", "1"),
    ],
)  # fmt: skip
def test_a_cells_value_as_text_and_as_id(value: object, text: str, id: str) -> None:
    assert (cell_text(value, "x"), cell_id(value, "x")) == (text, id)


@pytest.mark.parametrize("value", [True, [1], {"a": 1}, math.inf, -math.inf, "\ud800"])
def test_other_values_are_no_text(value: object) -> None:
    for read in (cell_text, cell_id):
        with pytest.raises(ValueError, match="column 'x' holds"):
            read(value, "x")


def test_an_empty_cell_says_what_it_holds() -> None:
    found = [emptiness(value) for value in ("", None, math.nan, "\u200b\ufeff")]
    assert found == ["", " (it holds null)", " (it holds NaN)", " (it holds only what cannot be seen: U+200B U+FEFF)"]


SAME = [
    ("Thể thao", unicodedata.normalize("NFD", "Thể thao")),
    ("a b", "a\u00a0b"),
    ("ab", "a\u200bb"),
    ("ab", "\ufeffab\u200e"),
    ("\uac00", "\u1100\u1161"),
    ("\u212b", "\u00c5"),
]
APART = [("x²", "x2"), ("a", "\u0430"), ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u062e"), ("a  b", "a b")]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_options_that_look_the_same_are_the_same(one: str, other: str) -> None:
    assert normalize_text(one) == normalize_text(other)
    assert find_text(other, ["x", one]) == one
    with pytest.raises(ValueError, match="two options are equal but for characters that look the same"):
        Item("1", "Q", (one, other), 0)


@pytest.mark.parametrize(("one", "other"), APART)
def test_options_that_do_not_are_not(one: str, other: str) -> None:
    assert find_text(other, ["x", one]) is None
    assert Item("1", "Q", (one, other), 1).options == (one, other)


@pytest.mark.parametrize(
    ("one", "other"), [*SAME, APART[0], APART[2], APART[3], ("\uff12\uff1f", "2?"), ("\ufb01", "fi")]
)
def test_a_leak_is_found_however_it_is_spelled(one: str, other: str) -> None:
    assert fold_text(one) == fold_text(other)
    assert Item("1", one, ("x", "y"), 0).content == Item("2", other, ("y", "x"), 1).content


def test_what_a_model_is_given_stays_as_it_is() -> None:
    item = Item("1", "e\u0301\u200b?", ("\ufeffx", "y\u00a0z"), 0)
    assert (item.question, item.options) == ("e\u0301\u200b?", ("\ufeffx", "y\u00a0z"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sp\u043ert", "nearest: sport (U+043E here is U+006F there)"),
        ("sport\u200d", "nearest: sport (U+200D here is nothing there)"),
        ("sprot", "nearest: sport"),
    ],
)
def test_a_name_that_looks_like_another_is_told_by_code_points(name: str, told: str) -> None:
    assert str(unknown("option", name, ["sport", "health"])).endswith(told)
