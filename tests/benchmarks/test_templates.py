"""Templates of a study file: columns in braces, and the few operations on them."""

from __future__ import annotations

import pytest

from registry.benchmarks.templates import OPERATIONS, Template
from registry.errors import Refused


def filled(template: str, **texts: str) -> str:
    return Template.parse(template, "here").fill(texts)


@pytest.mark.parametrize(
    ("operation", "text", "expected"),
    [
        ("strip", "\u2003 a b \n", "a b"),
        ("lower", "ÀÉ Straße", "àé straße"),
        ("lower_first", "The Dog", "the Dog"),
        ("lower_first", "İyi", "i\u0307yi"),  # the dot is kept, as a mark of its own
        ("lower_first", "猫は", "猫は"),
        ("lower_first", "𐐀𐐀", "𐐨𐐀"),  # a letter outside of the first 65,536 is one character
        ("upper_first", "the dog", "The dog"),
        ("upper_first", "ßa", "Ssa"),
        ("upper_first", "ǆep", "ǅep"),
        ("drop_last", "It rained.", "It rained"),
        ("drop_last", "下雨了。", "下雨了"),
        ("drop_last", "so 😀", "so "),
        ("drop_punctuation", "Really?! ", "Really"),
        ("drop_punctuation", "سقط المطر؟", "سقط المطر"),
        ("drop_punctuation", "下雨了。」", "下雨了"),
        ("drop_punctuation", "نزل المطر.\u200f \u200b", "نزل المطر"),
        ("drop_punctuation", "It cost 5 $", "It cost 5 $"),
        ("drop_punctuation", "e.g. this", "e.g. this"),
    ],
)
def test_an_operation(operation: str, text: str, expected: str) -> None:
    assert OPERATIONS[operation](text) == expected
    assert filled(f"{{a|{operation}}}", a=text) == expected


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_takes_any_text_and_leaves_text(operation: str) -> None:
    for text in ("", "a", "\u0301", "👨‍👩‍👧", "ﬁ", "\U0010ffff"):
        OPERATIONS[operation](text).encode()


def test_operations_go_from_left_to_right() -> None:
    assert filled("{a|drop_last|strip}", a="x .") == "x"
    assert filled("{a|strip|drop_last}", a="x .") == "x "


def test_a_columns_name_alone_and_one_with_text_around_it() -> None:
    assert filled("a", a="x") == "x"
    assert filled("a b", **{"a b": "x"}) == "x"
    assert filled("<{a}> {b|lower} {a}", a="{b}", b="Y") == "<{b}> y {b}"


@pytest.mark.parametrize("text", ["{a", "a}", "{{a}}", "{a}}", "{a{b}"])
def test_a_lone_brace_is_refused(text: str) -> None:
    with pytest.raises(Refused, match=r"here: .* has a lone brace"):
        Template.parse(text, "here")


@pytest.mark.parametrize("name", ["__class__", "format", "title", "drop_last()", "drop_last.x"])
def test_there_are_no_other_operations(name: str) -> None:
    with pytest.raises(Refused, match="there is no operation"):
        Template.parse(f"{{a|{name}}}", "here")
