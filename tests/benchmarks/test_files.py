"""Files of the user's: every way of writing items down, and what each mistake is answered with."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.task import TaskConfig

from registry.benchmarks.aligned import align
from registry.benchmarks.items import Item
from registry.benchmarks.kinds import load_benchmark
from registry.benchmarks.templates import OPERATIONS
from registry.cells import Cell
from registry.config.data import BenchmarkSpec, SplitSpec
from registry.config.files import load_study
from registry.errors import Refused

DATA = Path(__file__).parents[3] / "shared" / "data"
CELL = Cell("topic", "en")
TSV = "id\ttext\tlabel\n1\tA goal.\tsports\n2\tA virus.\thealth\n"
Write = Callable[..., Path]


def spec(folder: Path, *, suffix: str = "tsv", languages: tuple[str, ...] = ("en",), **task: Any) -> BenchmarkSpec:
    """A benchmark of one task, by default one that TSV fits."""
    fields: dict[str, Any] = {
        "train": f"{{language}}/train.{suffix}", "test": f"{{language}}/test.{suffix}",
        "id": "id", "question": "text", "choices": ("sports", "health"), "answer": "label", "answer_is": "text",
    }  # fmt: skip
    if "options" in task:
        del fields["choices"]
    tasks: Any = {"topic": fields | task}
    return BenchmarkSpec(kind="files", path=str(folder), languages=languages, tasks=tasks)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write en/train.<suffix>, and return the benchmark's folder."""

    def write(content: str | bytes, suffix: str = "tsv", language: str = "en") -> Path:
        path = tmp_path / language / f"train.{suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path

    return write


def read(folder: Path, **task: Any) -> tuple[Item, ...]:
    return load_benchmark(spec(folder, **task)).pool(CELL, "train")


def refusal(folder: Path, **task: Any) -> str:
    with pytest.raises(Refused) as caught:
        read(folder, **task)
    return str(caught.value)


ITEMS = (Item("1", "A goal.", ("sports", "health"), 0), Item("2", "A virus.", ("sports", "health"), 1))


@pytest.mark.parametrize("content", [TSV, "\ufeff" + TSV, TSV.replace("\n", "\r\n"), TSV + "\n\n", TSV.rstrip("\n")])
def test_tsv_however_it_is_written(write: Write, content: str) -> None:
    assert read(write(content)) == ITEMS


def test_a_quote_in_a_tsv_is_text(write: Write) -> None:
    folder = write(TSV.replace("A goal.", '"A "goal" it was').replace("A virus", '"A virus'))
    assert [item.question for item in read(folder)] == ['"A "goal" it was', '"A virus.']


def test_csv_quotes(write: Write) -> None:
    content = 'id,text,label\n1,"A ""goal"",\nthen rest",sports\n2,A virus.,health\n'
    assert [item.question for item in read(write(content, "csv"), suffix="csv")] == ['A "goal",\nthen rest', "A virus."]


def test_line_separators_inside_a_text_end_no_row(write: Write) -> None:
    text = "one\u2028two\u0085three"
    assert read(write(TSV.replace("A goal.", text)))[0].question == text
    line = json.dumps({"id": 1, "text": text, "label": "sports"}, ensure_ascii=False)
    assert read(write(line, "jsonl"), suffix="jsonl")[0].question == text


def test_options_in_columns_and_fewer_of_them_in_some_rows(write: Write) -> None:
    folder = write("id\ttext\ta\tb\tc\tright\n1\tQ\tx\ty\tz\tC\n2\tQ\tx\ty\t\tb\n")
    first, second = read(folder, options=("a", "b", "c"), answer="right", answer_is="letter")
    assert (first.options, first.answer) == (("x", "y", "z"), 2)
    assert (second.options, second.answer) == (("x", "y"), 1)


def test_options_in_a_list_and_a_template(write: Write) -> None:
    row = {"id": 7, "a": "{b} {0.x}", "b": "why", "endings": ["x", "y"], "label": 1}
    folder = write(json.dumps(row), "jsonl")
    (item,) = read(folder, suffix="jsonl", question="{a}: {b}?", options=("endings",), answer_is="index")
    assert item == Item("7", "{b} {0.x}: why?", ("x", "y"), 1)


def test_words_stand_for_values(write: Write) -> None:
    words = {"kind": {"cause": {"en": "because"}, "effect": {"en": "so"}}}
    folder = write("id\ttext\tkind\tlabel\n1\tRain.\tcause\tsports\n")
    assert read(folder, question="{text} {kind}", words=words)[0].question == "Rain. because"
    assert "words.kind for 'cuase'; nearest: cause" in refusal(
        write("id\ttext\tkind\tlabel\n1\tRain.\tcuase\tsports\n"), question="{text} {kind}", words=words
    )


def test_operations_change_what_a_template_holds(write: Write) -> None:
    row = {"id": 7, "a": "It rained.", "kind": "cause", "x": "The street is wet", "y": "Élodie sang", "label": 1}
    words = {"kind": {"cause": {"en": "Because"}}}
    (item,) = read(
        write(json.dumps(row), "jsonl"),
        suffix="jsonl",
        question="{a | drop_last} {kind|lower_first}",
        options=("{x|lower_first}", "{y|lower_first}!"),
        answer_is="index",
        words=words,
    )
    assert item == Item("7", "It rained because", ("the street is wet", "élodie sang!"), 1)


def test_operations_change_listed_options_and_the_answer(write: Write) -> None:
    row = {"id": 7, "text": "Q", "endings": ["The cat.", "A dog。"], "label": "A Dog"}
    (item,) = read(
        write(json.dumps(row), "jsonl"),
        suffix="jsonl",
        options=("{endings|drop_punctuation|lower}",),
        answer="{label|lower}",
    )
    assert (item.options, item.answer) == (("the cat", "a dog"), 1)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_change_an_answer_as_they_change_its_option(write: Write, operation: str) -> None:
    row = {"id": 7, "text": "Q", "endings": ["A dog。", decomposed("Á café")], "label": decomposed("Á café")}
    task = {"options": (f"{{endings|{operation}}}",), "answer": f"{{label|{operation}}}"}
    (item,) = read(write(json.dumps(row), "jsonl"), suffix="jsonl", **task)
    assert item.answer == 1


def test_columns_of_templates_are_found_however_unicode_spells_them(write: Write) -> None:
    row = {"id": 7, "soru_é": "Q.", "són": ["x.", "", "y."], "é": "y."}
    task = {
        "question": f"{{{decomposed('soru_é')}|drop_last}}?",
        "options": (f"({{{decomposed('són')}|drop_last}})",),
        "answer": f"({{{decomposed('é')}|drop_last}})",
    }
    told = refusal(write(json.dumps(row), "jsonl"), suffix="jsonl", **task)
    assert "train.jsonl:1: item '7': an option is empty" in told  # what stands around it makes no option of it
    folder = write(json.dumps(row | {"són": ["x.", "y."]}), "jsonl")
    assert read(folder, suffix="jsonl", **task) == (Item("7", "Q?", ("(x)", "(y)"), 1),)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "\u200b."}, "train.jsonl:1: {text|drop_last} leaves nothing of '\\u200b.'"),  # nothing to be seen
        ({"text": "."}, "train.jsonl:1: {text|drop_last} leaves nothing of '.'"),
        ({"x": "A"}, "train.jsonl:1: {x|drop_last} leaves nothing of 'A'"),
        ({"y": "x"}, "train.jsonl:1: {y|drop_last} leaves nothing of 'x'"),  # not taken for an option that is not there
        ({"x": "", "y": "xx"}, "train.jsonl:1: item '1': an option is empty"),
        ({"x": "ab", "y": "ac"}, "train.jsonl:1: item '1': two options are equal"),
    ],
)
def test_operations_leave_something(write: Write, row: dict[str, str], expected: str) -> None:
    folder = write(json.dumps({"id": 1, "text": "Q?", "x": "one", "y": "two", "label": 0} | row), "jsonl")
    task = {"question": "{text|drop_last}", "options": ("{x|drop_last}", "{y|drop_last}"), "answer_is": "index"}
    assert expected in refusal(folder, suffix="jsonl", **task)


def test_a_column_taken_from_another_language(write: Write) -> None:
    write("id\ttext\tlabel\n2\tEin Virus.\thealth\n1\tEin Tor.\tsports\n", language="de")
    folder = write(TSV.replace("goal.\tsports", "goal.\thealth"))
    taken = load_benchmark(spec(folder, languages=("de", "en"), columns_from={"label": "de"}))
    assert [item.answer for item in taken.pool(CELL, "train")] == [0, 1]
    write("id\ttext\tlabel\n2\tEin Virus.\thealth\n", language="de")
    with pytest.raises(Refused, match=r"train.tsv:2: id '1' is not in the file of 'de'"):
        taken.pool(CELL, "train")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (TSV.replace("A goal.", " "), "train.tsv:2: column 'text' is empty, so the question is; fill it"),
        (TSV.replace("1\t", "\t", 1), "train.tsv:2: column 'id' is empty; fill it"),
        (TSV.replace("2\t", "1\t", 1), "train.tsv:3: id '1' already stands in line 2"),
        (TSV.replace("\tsports", ""), "train.tsv:2: 2 column(s) where the header has 3; look for a separator"),
        (TSV.replace("\tsports", "\tsports\t"), "train.tsv:2: 4 column(s) where the header has 3"),
        (TSV.replace("\tsports", "\tsport"), "train.tsv:2: there is no option 'sport'; nearest: sports"),
        (TSV.replace("label", "lable"), "train.tsv:1: there is no column 'label'; nearest: lable (named by benchmark."),
        (TSV.replace("text", "id"), "train.tsv:1: the header names column 'id' 2 time(s)"),
        ("", "train.tsv holds no rows"),
        ("id\ttext\tlabel\n", "train.tsv holds no rows"),
        (TSV.encode().replace(b"virus", b"vir\xfcs"), "train.tsv:3: not UTF-8 (byte 0xfc); save it as UTF-8"),
        (TSV.encode("utf-16"), "train.tsv:1: not UTF-8 (byte 0xff)"),
        (TSV.replace("goal", "go\ral"), "train.tsv:2: new-line character seen in unquoted field"),
    ],
)
def test_a_bad_tsv_is_told_with_line_and_remedy(write: Write, content: str | bytes, expected: str) -> None:
    assert expected in refusal(write(content))


GOOD = {"id": 1, "text": "Q", "endings": ["x", "y"], "label": 0}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"id": 1,', "train.jsonl:2: not JSON (Expecting property name"),
        ("[1]", "train.jsonl:2: a JSON list, not an object"),
        ("[" * 100_000, "train.jsonl:2: not JSON"),
        ({"text": None}, "train.jsonl:2: column 'text' is empty"),
        ({"text": ["Q"]}, "train.jsonl:2: column 'text' holds a list; a text or a number is needed"),
        ({"text": "\ud800"}, "train.jsonl:2: column 'text' holds half of a surrogate pair"),
        ({"label": True}, "train.jsonl:2: column 'label' holds a bool"),
        ({"label": 2}, "train.jsonl:2: answer '2' is no index of an option; they count from 0 to 1"),
        ({"label": -1}, "train.jsonl:2: answer '-1' is no index of an option"),
        ({"label": None}, "train.jsonl:2: column 'label' is empty"),
        ({"endings": ["x", "x "]}, "train.jsonl:2: item '2': two options are equal"),
        ({"endings": ["x", ""]}, "train.jsonl:2: item '2': an option is empty"),
        ({"endings": ["x"]}, "train.jsonl:2: item '2': 1 option(s)"),
        ({"endings": "x"}, "train.jsonl:2: column 'endings' is no list of options"),
        ({"endings": list("abcdefghijklmnopqrstuvwxyz?")}, "train.jsonl:2: 27 options; there are letters for 26"),
    ],
)
def test_a_bad_json_line_is_told_with_line_and_remedy(
    write: Write, line: str | dict[str, object], expected: str
) -> None:
    bad = line if isinstance(line, str) else json.dumps(GOOD | {"id": 2} | line)
    folder = write(f"{json.dumps(GOOD)}\n{bad}\n", "jsonl")
    assert expected in refusal(folder, suffix="jsonl", options=("endings",), answer_is="index")


def test_a_key_that_one_json_line_lacks(write: Write) -> None:
    folder = write(f'{json.dumps(GOOD)}\n{{"id": 2, "txet": "Q", "endings": ["x", "y"], "label": 0}}\n', "jsonl")
    told = refusal(folder, suffix="jsonl", options=("endings",), answer_is="index")
    assert "train.jsonl:2: there is no column 'text'; nearest: txet" in told


@pytest.mark.parametrize("letter", ["C", "AB", "1", "Ä"])
def test_a_letter_of_no_option(write: Write, letter: str) -> None:
    folder = write(f"id\ttext\ta\tb\tlabel\n1\tQ\tx\ty\t{letter}\n")
    assert f"answer '{letter}' is no letter of an option; there are A, B" in refusal(
        folder, options=("a", "b"), answer_is="letter"
    )


def test_an_unclosed_quote_in_a_csv(write: Write) -> None:
    told = refusal(write('id,text,label\n1,A,sports\n2,"A virus,health\n', "csv"), suffix="csv")
    assert "train.csv:3: unexpected end of data; correct the quotes" in told


def test_ten_faults_are_told_and_the_rest_counted(write: Write) -> None:
    told = refusal(write("id\ttext\tlabel\n" + "".join(f"{n}\tQ\tnone\n" for n in range(13)))).splitlines()
    assert len(told) == 11
    assert ":11: there is no option" in told[9]
    assert told[10] == "and 3 more such lines"


def test_a_missing_file_names_the_languages_that_have_it(write: Write) -> None:
    write(TSV, language="en")
    folder = write(TSV, language="id")
    pool = load_benchmark(spec(folder, languages=("en", "de"))).pool
    with pytest.raises(Refused, match=r"de/train.tsv is not there, .*exists for: en, id; add it") as caught:
        pool(Cell("topic", "de"), "train")
    assert "topic/de" in str(caught.value)
    with pytest.raises(Refused, match="exists for: no language"):
        pool(CELL, "test")


def test_a_missing_folder_says_how_to_name_another(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"nowhere is not there; .* -P data="):
        load_benchmark(spec(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({"prompt": "txt"}, "benchmark.tasks.topic.prompt: there is no prompt style 'txt'; nearest: text"),
        ({"question": "{text"}, "benchmark.tasks.topic.question: '{text' has a lone brace"),
        ({"question": "{text.__class__}"}, "there is no column 'text.__class__'; there are: id, label, text"),
        ({"question": "{text!r}"}, "there is no column 'text!r'"),
        ({"question": "{}"}, "there is no column ''"),
        (
            {"question": "{text|shout}"},
            "topic.question: {text|shout}: there is no operation 'shout'; there are: drop_last",
        ),
        ({"question": "{text|lower_frist}"}, "there is no operation 'lower_frist'; nearest: lower_first"),
        ({"question": "{text|}"}, "{text|}: there is no operation ''"),
        ({"question": "{txt|strip}"}, "there is no column 'txt'; nearest: text"),
        ({"options": ("{text|strp}", "label")}, "topic.options: {text|strp}: there is no operation 'strp'"),
        ({"answer": "{label|strp}"}, "topic.answer: {label|strp}: there is no operation 'strp'"),
        ({"words": {"txt": {}}}, "topic.words: there is no column in question or options 'txt'; there is only: text"),
        ({"columns_from": {"lable": "en"}}, "topic.columns_from: there is no column that is read 'lable'"),
    ],
)
def test_a_mapping_that_cannot_be(write: Write, task: dict[str, Any], expected: str) -> None:
    assert expected in refusal(write(TSV), **task)


@pytest.mark.parametrize(("name", "cells", "train", "test"), [("sib200", 8, 701, 204), ("xcopa", 7, 100, 500)])
def test_published_data_align(name: str, cells: int, train: int, test: int) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"the published files are not here: {DATA / name}")
    study = load_study(name, data=str(DATA / name))
    benchmark = load_benchmark(study.benchmark)
    items = align(benchmark, benchmark.grid, SplitSpec())
    assert len(items.grid) == cells
    assert {(len(items.train(cell)), len(items.test(cell))) for cell in items.grid} == {(train, test)}


def test_published_connectives() -> None:
    if not (DATA / "xcopa").is_dir():
        pytest.skip(f"the published files are not here: {DATA / 'xcopa'}")
    benchmark = load_benchmark(load_study("xcopa", data=str(DATA / "xcopa")).benchmark)
    turkish, estonian = (benchmark.pool(Cell("xcopa", language), "train") for language in ("tr", "et"))
    causes = [item.question.endswith(" çünkü") for item in turkish]
    assert causes == [item.question.endswith(" sest") for item in estonian]
    assert sum(causes) == 52  # the Turkish file itself says effect for all 100


@pytest.mark.parametrize("language", ["it", "id", "tr", "sw", "zh", "vi", "et"])
def test_xcopa_is_put_as_the_harness_puts_it(language: str, tmp_path: Path) -> None:
    """Every published row, by the functions of the harness's own task, which takes each file's own `question`."""
    if not (DATA / "xcopa").is_dir():
        pytest.skip(f"the published files are not here: {DATA / 'xcopa'}")
    harness = pytest.importorskip("lm_eval.tasks.xcopa.utils")
    doc_to_text = getattr(harness, f"doc_to_text_{language}")
    own = tmp_path / "own.yaml"
    own.write_text("extends: xcopa\nbenchmark: {tasks: {xcopa: {columns_from: null}}}\n", encoding="utf-8")
    benchmark = load_benchmark(load_study(str(own), data=str(DATA / "xcopa")).benchmark)
    delimiter = TaskConfig().target_delimiter
    for split, file in (("train", "val"), ("test", "test")):
        rows = (DATA / "xcopa" / language / f"{file}.jsonl").read_text(encoding="utf-8").split("\n")
        docs = [json.loads(row) for row in rows if row]
        queries = [benchmark.prompts["xcopa"].query(item) for item in benchmark.pool(Cell("xcopa", language), split)]
        assert [query.context for query in queries] == [doc_to_text(doc) for doc in docs]
        expected = [tuple(delimiter + choice for choice in harness.doc_to_choice(doc)) for doc in docs]
        assert [query.continuations for query in queries] == expected
        assert [query.answer for query in queries] == [doc["label"] for doc in docs]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('"text": NaN', "train.jsonl:2: column 'text' is empty (it holds NaN), so the question is; fill it"),
        ('"id": NaN', "train.jsonl:2: column 'id' is empty (it holds NaN); fill it"),
        ('"id": null', "train.jsonl:2: column 'id' is empty (it holds null); fill it"),
        ('"label": NaN', "train.jsonl:2: column 'label' is empty (it holds NaN)"),
        ('"endings": ["x", NaN]', "train.jsonl:2: item '2': an option is empty"),
        ('"endings": ["x", Infinity]', "train.jsonl:2: column 'endings' holds Infinity; a text or a finite number"),
        ('"text": -Infinity', "train.jsonl:2: column 'text' holds Infinity"),
        ('"endings": ["x", true]', "train.jsonl:2: column 'endings' holds a bool"),
        ('"endings": ["x", ["y"]]', "train.jsonl:2: column 'endings' holds a list"),
        ('"text": false', "train.jsonl:2: column 'text' holds a bool"),
        ('"text": "\\u200b\\ufeff"', "column 'text' is empty (it holds only what cannot be seen: U+200B U+FEFF)"),
        ('"endings": ["x", "\\u3164"]', "train.jsonl:2: item '2': an option is empty"),
        ('"endings": ["x", "\\u00adx"]', "two options are equal but for characters that look the same"),
        ('"text": "Q", "te\\u200bxt": "R"', "train.jsonl:2: two columns have names that look the same; name each once"),
        ('"text": "Q", "text": "R"', "train.jsonl:2: not JSON ('text' stands there twice)"),
    ],
)
def test_what_json_calls_a_value_and_is_none(write: Write, line: str, expected: str) -> None:
    keys = [key for key in ("id", "text", "endings", "label") if f'"{key}"' not in line]
    bad = ", ".join([*(f'"{key}": {json.dumps((GOOD | {"id": 2})[key])}' for key in keys), line])
    folder = write(f"{json.dumps(GOOD)}\n{{{bad}}}\n", "jsonl")
    assert expected in refusal(folder, suffix="jsonl", options=("endings",), answer_is="index")


def test_options_that_are_absent_may_be_nan_or_null_or_unseen(write: Write) -> None:
    absent = ["NaN", "null", '""', '"\\u200b"', '"z"']
    row = '{{"id": {0}.0, "text": "Q", "a": 1, "b": 2.5, "c": {1}, "label": {2}.0}}'
    rows = [row.format(n, value, n % 2) for n, value in enumerate(absent)]
    items = read(write("\n".join(rows), "jsonl"), suffix="jsonl", options=("a", "b", "c"), answer_is="index")
    assert [item.options for item in items] == [("1", "2.5")] * 4 + [("1", "2.5", "z")]
    assert [(item.id, item.answer) for item in items] == [(str(n), n % 2) for n in range(5)]


def test_what_cannot_be_seen_in_a_tsv_is_no_option_and_no_question(write: Write) -> None:
    folder = write("id\ttext\ta\tb\tc\tlabel\n1\tQ\tx\ty\t\u200e\u00ad\tB\n")
    assert read(folder, options=("a", "b", "c"), answer_is="letter")[0].options == ("x", "y")
    assert "column 'text' is empty (it holds only what cannot be seen: U+3164)" in refusal(
        write(TSV.replace("A goal.", "\u3164"))
    )


@pytest.mark.parametrize("suffix", ["tsv", "csv"])
def test_byte_order_marks_are_no_part_of_a_column_or_id(write: Write, suffix: str) -> None:
    text = TSV if suffix == "tsv" else TSV.replace("\t", ",")
    head, *rows = text.splitlines()
    twice = f"\ufeff\ufeff{head}\n\ufeff" + "\n\ufeff".join(rows) + "\n"
    assert read(write(twice, suffix), suffix=suffix) == ITEMS


def test_json_lines_put_together_with_their_byte_order_marks(write: Write) -> None:
    rows = [json.dumps({"id": 1, "text": "A goal.", "label": "sports"})] * 1
    rows.append(json.dumps({"id": 2, "text": "A virus.", "label": "health"}))
    assert read(write("\ufeff" + "\n\ufeff".join(rows), "jsonl"), suffix="jsonl") == ITEMS


def decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def test_columns_answers_words_and_ids_are_found_however_unicode_spells_them(write: Write) -> None:
    task = {"question": "{soru_é} {kind}", "choices": ("Thể thao", "sức khỏe"), "columns_from": {"label": "de"}}
    words = {"kind": {"bởi vì": {"en": "because", "de": "weil"}}}
    table = "id\tsoru_é\tkind\tlabel\ná1\tRain.\tbởi vì\tThể thao\n"
    write(decomposed(table), language="de")
    folder = write(table.replace("Thể thao", "?"))
    benchmark = load_benchmark(spec(folder, languages=("de", "en"), words=words, **task))
    found = {language: benchmark.pool(Cell("topic", language), "train")[0] for language in ("de", "en")}
    assert {item.id for item in found.values()} == {"á1"}
    assert found["en"].question == "Rain. because"
    assert found["en"].options[found["en"].answer] == "Thể thao"
    assert found["de"].options[found["de"].answer] == "Thể thao"


def test_an_answer_that_only_looks_like_an_option_is_told_by_code_points(write: Write) -> None:
    told = refusal(write(TSV.replace("\tsports", "\tsp\u043erts")))
    assert "there is no option 'sp\u043erts'; nearest: sports (U+043E here is U+006F there)" in told
    folder = write("id\ttext\ta\tb\tlabel\n1\tQ\tx\ty\t\u0410\n")
    assert "is no letter of an option; there are A, B (this is U+0410)" in refusal(
        folder, options=("a", "b"), answer_is="letter"
    )
    assert read(write("id\ttext\ta\tb\tlabel\n1\tQ\tx\ty\t\uff22\n"), options=("a", "b"), answer_is="letter")[0].answer


def test_quoting_is_a_setting_of_the_task(write: Write) -> None:
    folder = write(TSV.replace("A goal.", '"A goal."'))
    told = refusal(folder)
    assert "train.tsv:2: the quotes in '\"A goal.\"' may be text or mark a field's ends" in told
    assert read(folder, quoting="minimal") == ITEMS
    assert read(folder, quoting="none")[0].question == '"A goal."'
    with pytest.raises(ValueError, match=r"quoting belongs to \.tsv and \.csv"):
        spec(folder, suffix="jsonl", quoting="none")


def test_a_printed_nan_is_warned_of(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    assert read(write(TSV.replace("A virus.", "nan")))[1].question == "nan"
    assert "train.tsv:3: 1 rows hold the text 'nan', which stands for a missing value" in caplog.text


@pytest.mark.parametrize("name", ["a b%20c?d#e é 100%", "[a-z]*", "{language}", "~", "日本"])
def test_a_folder_of_any_name_is_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    (folder / "en").mkdir(parents=True)
    (folder / "en" / "train.tsv").write_text(TSV, encoding="utf-8")
    assert read(folder) == ITEMS
