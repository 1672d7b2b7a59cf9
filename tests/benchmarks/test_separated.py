"""Quotes in separated fields: as pandas writes them, as text, and left to the study where both may be."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.benchmarks.separated import RecordError, quoting_of, records
from registry.benchmarks.tables import read_table
from registry.errors import Refused

DATA = Path(__file__).parents[3] / "shared" / "data"
TEXTS = ['He said "so".', '"Quoted" and more', "a\tb", "a\nb", '"', '"All."', "plain", '5" pipe', 'x ""y"" z']


def read(text: str) -> list[list[str]]:
    return [fields for _, fields in records(text, separator="\t", quoting=quoting_of(text))]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("texts", [TEXTS, ["plain", "words"], ["a\tb", "c"], ["a\nb", "c"], ['"x" y', "c"]])
def test_what_pandas_writes_is_read_as_it_was(texts: list[str], quoting, end: str) -> None:
    table = pd.DataFrame({"id": range(len(texts)), "text": texts, "label": "sports"})
    text = table.to_csv(sep="\t", index=False, quoting=quoting, lineterminator=end)
    assert read(text) == [["id", "text", "label"], *([str(n), one, "sports"] for n, one in enumerate(texts))]


@pytest.mark.parametrize(
    "texts",
    [
        ['A "goal".', "x"], ['"A "goal" it was', '"A virus.'], ['5" pipe', '"Yes."'], ['"', "x"], ['""', '"a'],
        ['"a" b', "c"], ['""x""', "y"],
    ],
)  # fmt: skip
def test_lone_quotes_are_text(texts: list[str]) -> None:
    assert [row[1] for row in read("id\ttext\n" + "".join(f"{n}\t{one}\n" for n, one in enumerate(texts)))[1:]] == texts


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('id\tt\n1\tx\n2\t"Yes."\n', 3),
        ('id\tt\n1\t"abc\n2\tdef"\n', 2),
        ('id\tt\n1\tx\n2\t"a ""b"""\n3\t5" pipe\n', 3),
        ('id\tt\n1\t"a \\"b\\" c"\n', 2),
        ('id\tt\n1\tx\n2\t""\n', 3),
    ],
)
def test_quotes_that_may_be_either_are_refused_with_line_and_setting(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(RecordError) as raised:
        quoting_of(text)
    assert raised.value.line == line
    (tmp_path / "x.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(Refused, match=rf"x.tsv:{line}: .*quoting: none .*quoting: minimal"):
        read_table(tmp_path / "x.tsv")
    assert len(read_table(tmp_path / "x.tsv", quoting="none").rows) == text.count("\n") - 1


@given(st.lists(st.text(alphabet='ab"\t\n ', max_size=6), min_size=1, max_size=5), st.booleans())
def test_no_file_is_read_otherwise_than_it_was_written(texts: list[str], quoted: bool) -> None:
    """It is read as its writer meant, or refused."""
    if quoted:
        file = io.StringIO()
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows(
            [["id", "text", "x"], *(["1", t, "x"] for t in texts)]
        )
        text = file.getvalue()
    else:
        texts = [one.replace("\t", " ").replace("\n", " ") for one in texts]
        text = "id\ttext\tx\n" + "".join(f"1\t{one}\tx\n" for one in texts)
    try:
        found = [row[1] for row in read(text)[1:]]
    except RecordError:
        return
    likely_quoted = any('""' in line for line in text.split("\n"))
    assert found == texts or (not quoted and likely_quoted)


def test_a_space_before_a_quote_in_a_csv_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('id,text\n1,5" pipe\n2, "A goal."\n', encoding="utf-8")
    with pytest.raises(
        Refused, match=r'x\.csv:3: the space before "A goal\." makes its quotes text; remove such spaces'
    ):
        read_table(tmp_path / "x.csv")
    assert read_table(tmp_path / "x.csv", quoting="none").rows[1].values["text"] == ' "A goal."'


@pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl"])
def test_long_fields_are_read(tmp_path: Path, suffix: str) -> None:
    separator, long = {"tsv": "\t", "csv": ",", "jsonl": ""}[suffix], "x" * 300_000
    text = f"id{separator}text\n1{separator}{long}\n" if separator else f'{{"id": 1, "text": "{long}"}}\n'
    (tmp_path / f"x.{suffix}").write_text(text, encoding="utf-8")
    assert read_table(tmp_path / f"x.{suffix}").rows[0].values["text"] == long


def test_published_files_lose_their_quotes_and_keep_those_of_the_text() -> None:
    if not (DATA / "sib200").is_dir():
        pytest.skip(f"the published files are not here: {DATA / 'sib200'}")
    for path in sorted((DATA / "sib200").glob("*/*.tsv")):
        ours = [(str(row.values["index_id"]), row.values["text"]) for row in read_table(path).rows]
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        assert ours == list(zip(table["index_id"], table["text"], strict=True)), path
