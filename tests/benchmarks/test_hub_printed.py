"""Printed lists and mappings: whatever numpy prints reads back, and nothing else is read, least of all run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.benchmarks.hub.rows import listed, unprinted

characters = st.characters(exclude_categories=["Cs"])
texts = st.lists(
    st.text(characters, max_size=90) | st.sampled_from(["it's", '"', "'\"", "a\nb", "\\", "é", "中文", "]) ,"])
)


@given(texts)
def test_what_numpy_prints_reads_back(choices: list[str]) -> None:
    targets = {"choices": np.array(choices, dtype=object), "labels": np.array([1, 0], dtype=np.int32)}
    assert unprinted(str(targets)) == {"choices": choices, "labels": [1, 0]}


@given(texts)
def test_a_printed_list_reads_back(choices: list[str]) -> None:
    assert listed(f" {choices}\n", "endings") == choices
    assert listed(choices, "endings") == choices


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'labels': np.array([1, 0])}", {"labels": [1, 0]}),
        ('{"labels": [1.5, 0, None, True]}', {"labels": [1.5, 0, None, True]}),
        ("('a', 'b')", ["a", "b"]),
        ("array([], dtype=object)", []),
    ],
)
def test_other_ways_of_printing(text: str, value: object) -> None:
    assert unprinted(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').getcwd()", "[print(1)]", "open('x')", "array", "array(x)", "array([1], copy=True)", "[a]",
        "{'a': {**b}}", "{1: 2}", "['a' + 'b']", "[1 for _ in 'ab']", "[...]", "b'a'", "f'{1}'", "lambda: 1", "['a'",
        "", "['a' 'b'; 'c']", "\0", "[" * 500 + "]" * 500, "['\\ud800']", "x.array([y])", "array([1], dtype=z, **k)",
    ],
)  # fmt: skip
def test_what_is_no_printed_value_is_a_fault(text: str) -> None:
    with pytest.raises(ValueError):  # the parser words some of them
        unprinted(text)


def test_a_column_without_a_list() -> None:
    with pytest.raises(ValueError, match="column 'endings' holds no list but None"):
        listed(None, "endings")
    with pytest.raises(ValueError, match="column 'endings' holds no list but '3'"):
        listed("3", "endings")
