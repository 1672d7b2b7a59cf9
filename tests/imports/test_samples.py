"""Lines of samples that the tiny model's tasks do not bring up: letters, several right options, other tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.errors import Refused
from registry.evaluation.outcomes import choose
from registry.imports.harness_samples import OptionsInContext, read_samples


def sample(values: list[float], options: list[str], target: object, acc: float, **others: Any) -> dict[str, Any]:
    """One line as the harness writes it: everything but numbers of its own as text."""
    arguments = {f"gen_args_{i}": {"arg_0": "Question?", "arg_1": f" {text}"} for i, text in enumerate(options)}
    responses = [[str(value), "False"] for value in values]
    told = {"doc_id": 0, "doc": {}, "target": str(target), "arguments": arguments, "filtered_resps": responses}
    return told | {"filter": "none", "acc": acc} | others


def read(tmp_path: Path, *samples: dict[str, Any]):
    path = tmp_path / "samples_x_2026-01-01T00-00-00.jsonl"
    lines = [json.dumps(line | {"doc_id": number}) for number, line in enumerate(samples)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_samples(path, delimiter=" ", kind="none").outcomes


def test_a_target_may_be_a_letter(tmp_path: Path) -> None:
    found = read(tmp_path, sample([-1, -2, -3], ["A", "B", "C"], "B", 0.0))
    assert list(found["right"]) == [False, True, False]
    assert list(found["length"]) == [1, 1, 1]


def test_a_target_may_be_an_option_that_is_a_number(tmp_path: Path) -> None:
    """As an index, 1 would be the option "2"; the accuracy beside it says that it is the option "1"."""
    found = read(tmp_path, sample([-1, -2], ["1", "2"], "1", 1.0), sample([-2, -1], ["1", "2"], "1", 0.0))
    assert list(found["right"]) == [True, False, True, False]


def test_several_options_may_be_right(tmp_path: Path) -> None:
    found = read(tmp_path, sample([-3, -2, -1], ["a", "b", "c"], [0, 2], 1.0))
    assert list(found["right"]) == [True, False, True]


def test_mutual_information_asks_twice_and_counts_once(tmp_path: Path) -> None:
    line = sample([-1, -2, -9, -8], ["a", "b", "a", "b"], 0, 1.0)
    for key in ("gen_args_2", "gen_args_3"):
        line["arguments"][key]["arg_0"] = ""
    assert list(read(tmp_path, line)["loglikelihood"]) == [-1, -2]


def test_other_filters_do_not_count(tmp_path: Path) -> None:
    plain = sample([-1, -2], ["a", "b"], 0, 1.0)
    assert len(read(tmp_path, plain, plain | {"filter": "custom", "acc": 0.0})) == 2


def test_options_in_the_question_are_told_apart(tmp_path: Path) -> None:
    line = sample([-1, -2], ["same", "same"], 0, 1.0)
    line["arguments"]["gen_args_1"]["arg_0"] = "Another question?"
    with pytest.raises(OptionsInContext):
        read(tmp_path, line)


def test_more_than_ten_options_keep_their_order(tmp_path: Path) -> None:
    options = [f"option {number}" for number in range(12)]
    line = sample([-12.0 + number for number in range(12)], options, 11, 1.0)
    line["arguments"] = dict(sorted(line["arguments"].items()))  # gen_args_10 before gen_args_2
    found = read(tmp_path, line)
    assert list(found["length"]) == [len(option) for option in options]
    assert found["chosen"].to_numpy().argmax() == 11


def test_the_choices_are_those_of_our_scorer(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    values = [np.round(random.normal(-9, 2, size=4)) for _ in range(60)]  # rounded, so that ties occur
    options = [["a" * int(n) for n in random.integers(1, 9, size=4)] for _ in values]
    lengths = [[len(option) for option in texts] for texts in options]
    chosen, normed = choose(values), choose(values, lengths)
    lines = [sample(list(row), texts, int(best), 1.0) for row, texts, best in zip(values, options, chosen, strict=True)]
    found = read(tmp_path, *lines)
    for column, expected in (("chosen", chosen), ("chosen_norm", normed)):
        assert list(found["option"][found[column]]) == list(expected)


def test_questions_keep_the_ids_that_differ(tmp_path: Path) -> None:
    line = sample([-1, -2], ["a", "b"], 0, 1.0)
    named = read(tmp_path, line | {"doc": {"id": "x"}}, line | {"doc": {"id": "y"}})
    assert list(named["question"]) == ["x", "x", "y", "y"]
    alike = read(tmp_path, line | {"doc": {"id": "x"}}, line | {"doc": {"id": "x"}})
    assert list(alike["question"]) == ["0", "0", "1", "1"]


@pytest.mark.parametrize(
    "change",
    [
        {"arguments": "x"},
        {"filtered_resps": [["-1", "False"]]},
        {"filtered_resps": [["nan", "False"], ["-1", "False"]]},
        {"filtered_resps": ["generated text", "more"]},
        {"doc_id": "x"},
        {"acc": "x"},
        {"arguments": {"gen_args_x": {}}},
    ],
    ids=str,
)
def test_a_line_that_is_no_sample_is_told(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "samples_x.jsonl"
    line = sample([-1, -2], ["a", "b"], 0, 1.0)
    path.write_text(json.dumps(line) + "\n" + json.dumps(line | {"doc_id": 1} | change), encoding="utf-8")
    with pytest.raises(Refused, match=r"samples_x\.jsonl:2 is no sample"):
        read_samples(path, delimiter=" ", kind="none")


def test_files_in_other_encodings_are_told(tmp_path: Path) -> None:
    path = tmp_path / "samples_x.jsonl"
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(Refused, match="not UTF-8"):
        read_samples(path, delimiter=" ", kind="none")
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(Refused, match="holds no samples"):
        read_samples(path, delimiter=" ", kind="none")
