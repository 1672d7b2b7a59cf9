"""Whatever a data file or a manifest of items holds, it is read or refused with words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.benchmarks.items import Item
from registry.benchmarks.kinds import load_benchmark
from registry.benchmarks.splits import read_manifest
from registry.cells import Cell
from registry.config.data import BenchmarkSpec
from registry.errors import Refused
from tests.fuzz.conftest import tried
from tests.fuzz.hostile import NAMES, VALUES, broken

ROWS = [{"id": str(number), "text": f"Some „text“ {number}.", "label": "ab"[number % 2]} for number in range(4)]
TABLES = {
    "tsv": "\n".join("\t".join(row) for row in (ROWS[0].keys(), *(row.values() for row in ROWS))).encode(),
    "csv": "\n".join(",".join(f'"{cell}"' for cell in row) for row in (ROWS[0].keys(), *(row.values() for row in ROWS)))
    .encode(),
    "jsonl": "\n".join(json.dumps(row) for row in ROWS).encode(),
}  # fmt: skip
MANIFEST = b"split,id\ntrain,1\ntrain,2\ntest,3\n"


def spec(folder: Path, suffix: str, **task: Any) -> BenchmarkSpec:
    fields: dict[str, Any] = {
        "train": f"{{language}}/train.{suffix}", "test": f"{{language}}/train.{suffix}", "id": "id",
        "question": "{text} What?", "choices": ("a", "b"), "answer": "label", "answer_is": "text",
    }  # fmt: skip
    return BenchmarkSpec(kind="files", path=str(folder), languages=("en",), tasks={"topic": fields | task})  # type: ignore[dict-item]


def read(folder: Path, suffix: str, content: bytes, **task: Any) -> None:
    (folder / "en").mkdir(exist_ok=True)
    (folder / "en" / f"train.{suffix}").write_bytes(content)
    try:
        items = load_benchmark(spec(folder, suffix, **task)).pool(Cell("topic", "en"), "train")
    except Refused as error:
        assert f"train.{suffix}" in str(error)
        assert len(str(error)) < 100_000
    else:
        assert all(isinstance(item, Item) and item.id and item.question for item in items)


@st.composite
def tables(draw: Any) -> tuple[str, bytes]:
    """A file's kind and content: spliced, or JSON lines with values of any kind."""
    suffix = draw(st.sampled_from(sorted(TABLES)))
    if suffix == "jsonl" and draw(st.booleans()):
        row = dict(ROWS[0]) | {draw(st.sampled_from(["id", "text", "label", "x"]) | NAMES): draw(VALUES)}
        return suffix, json.dumps(row, default=str).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 3)) == 0:
        name = draw(NAMES).encode("utf-8", "surrogatepass")
        return suffix, TABLES[suffix].replace(draw(st.sampled_from([b"id", b"ab"[:1], b"text", b"label"])), name)
    return suffix, draw(broken(TABLES[suffix]))


@pytest.mark.parametrize("suffix", sorted(TABLES))
def test_the_whole_tables_hold_four_items(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / f"train.{suffix}").write_bytes(TABLES[suffix])
    assert len(load_benchmark(spec(tmp_path, suffix)).pool(Cell("topic", "en"), "train")) == 4


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"\0", b"1", b"[]", b"{}", b"null", b"[" * 20_000, b'{"id": ' + b"9" * 5000 + b"}",
     b'{"id": 1, "text": "\\ud800", "label": "a"}', b'{"id": NaN, "text": Infinity, "label": "a"}',
     b'{"id": 1, "id": 2, "text": "x", "label": "a"}', b'{"id": {"a": 1}, "text": ["x"], "label": true}'],
    ids=lambda content: content[:20].decode("ascii", "replace"),
)  # fmt: skip
@pytest.mark.parametrize("suffix", sorted(TABLES))
def test_known_to_be_broken(watched: Path, suffix: str, content: bytes) -> None:
    read(watched, suffix, content)


@tried(120)
@given(table=tables())
def test_a_broken_table(watched: Path, table: tuple[str, bytes]) -> None:
    read(watched, *table)


@pytest.mark.slow
@tried(4500)
@given(table=tables())
def test_many_broken_tables(watched: Path, table: tuple[str, bytes]) -> None:
    read(watched, *table)


def read_split(folder: Path, content: bytes) -> None:
    (folder / "topic.csv").write_bytes(content)
    items = {str(number): Item(str(number), "What?", ("a", "b"), 0) for number in (1, 2, 3)}
    pools: Any = {"train": {"en": items}, "test": {"en": items}}
    try:
        manifest = read_manifest("topic", folder, pools)
    except Refused as error:
        assert "topic.csv" in str(error)
    else:
        assert {*manifest.train, *manifest.test} <= items.keys()


@tried(60)
@given(content=broken(MANIFEST))
def test_a_broken_manifest_of_items(watched: Path, content: bytes) -> None:
    read_split(watched, content)


@pytest.mark.slow
@tried(3000)
@given(content=broken(MANIFEST))
def test_many_broken_manifests_of_items(watched: Path, content: bytes) -> None:
    read_split(watched, content)


@tried(40)
@given(template=NAMES, column=NAMES)
def test_names_in_a_mapping_reach_no_file_elsewhere(watched: Path, template: str, column: str) -> None:
    (watched / "en").mkdir(exist_ok=True)
    (watched / "en" / "train.tsv").write_bytes(TABLES["tsv"])
    try:
        benchmark = load_benchmark(spec(watched, "tsv", train=template, question=column))
        items = benchmark.pool(Cell("topic", "en"), "train")
    except ValueError as error:  # pydantic's findings are ValueErrors, which the study file's reader words
        assert "untouched" not in str(error)
    else:
        assert all("untouched" not in item.question and "class" not in item.question for item in items)
