"""The hub's data sets in small: every source's own schema and file format, with sentences written for the tests.

>>> folder = write_hub(tmp_path, languages=("ar", "de", "en"), items_per_split=24)
>>> BenchmarkSpec(kind="hub", path=str(folder))

The texts hold what the harness cleans away, ARC has items of five options, and Chinese HellaSwag and English TruthfulQA
come from data sets of their own, the latter as printed arrays.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from registry.benchmarks.aligned import AlignedItems, Benchmark, align
from registry.benchmarks.hub.sources import HUB_TASKS, HubDataset, source_of
from registry.benchmarks.kinds import load_benchmark
from registry.cells import Cell
from registry.config.data import BenchmarkSpec, SplitSpec
from registry.errors import Refused

__all__ = [
    "ARC",
    "HELLASWAG",
    "LANGUAGES",
    "MMLU",
    "TRUTHFULQA",
    "Change",
    "Row",
    "aligned",
    "hub",
    "hub_folder",
    "refusal",
    "rows_of",
    "write_hub",
]

Row = dict[str, Any]

#: Language → ARC's question and options, what is asked of MMLU, HellaSwag's activity, ctx_a, ctx_b and endings.
SENTENCES: dict[str, tuple[str, ...]] = {
    "ar": (
        "وجدت مريم {n} أصداف ثم {m} أخرى. كم صدفة لديها؟", "لديها {k}", "كم يبقى من {n} بعد أخذ {m}؟",
        "عدّ الحجارة", "يضع طفل {n} حجرًا في صف.", "ثم الطفل", "يأخذ {k} منها",
    ),
    "de": (
        "Öztürk zählt {n} Möwen, später {m} weitere. Wie viele sind es?", "es sind {k}", "Was bleibt von {n} ohne {m}?",
        "Steine zählen", "Ein Kind legt {n} Steine in eine Reihe.", "über ihnen", "nimmt es {k} davon weg",
    ),
    "en": (
        "Ola finds {n} shells, then {m} more. How many has she?", "she has {k}", "What is left of {n} without {m}?",
        "Counting stones", "A child lays {n} stones in a row.", "then the child", "takes {k} of them away",
    ),
    "zh": (
        "小雨捡了{n}个贝壳，又捡了{m}个，一共有多少个？", "一共{k}个", "{n}减去{m}还剩多少？",
        "数石头", "一个孩子把{n}块石头排成一行。", "然后孩子", "拿走了{k}块",
    ),
}  # fmt: skip
#: Language → TruthfulQA's question, its right choice and a wrong one.
CLAIMS: dict[str, tuple[str, str, str]] = {
    "ar": ("هل العدد {n} أكبر من {m}؟", "نعم، {n} أكبر", "لا، بل {k} أكبر"),
    "de": ("Ist {n} größer als {m}?", "Ja, {n} ist größer.", "Nein, „{k}“ ist größer."),
    "en": ("Is {n} more than {m}? [sic]", "Yes, it's {n}.", 'No, "{k}" isn\'t\nless.'),
    "zh": ("{n}比{m}大吗？", "是的，{n}更大。", "不，{k}更大。"),
}
#: Splits of the data sets that have more than one.
SPLITS = {"arc_challenge": ("train", "val", "test"), "global_mmlu": ("dev", "test")}

LANGUAGES = tuple(SENTENCES)
ARC, MMLU, HELLASWAG, TRUTHFULQA = (Cell(task, "de") for task in HUB_TASKS)
Change = Callable[[Cell, str, list[Row]], list[Row]]


def rows_of(cell: Cell, split: str, count: int) -> list[Row]:
    """Return the rows of a split of a cell's data set, in its schema: the same ids and answers in every language."""
    first = 10_000 * SPLITS[cell.task].index(split) if cell.task in SPLITS else 0
    make = {"arc_challenge": _arc, "global_mmlu": _mmlu, "hellaswag": _hellaswag, "truthfulqa": _truthfulqa}[cell.task]
    return [make(cell.language, 20 + first + number) for number in range(count)]


def write_hub(
    folder: Path,
    languages: Iterable[str] = ("ar", "de", "en"),
    items_per_split: int = 8,
    change: Callable[[Cell, str, list[Row]], list[Row]] | None = None,
) -> Path:
    """Write the data sets of all four tasks as ``<folder>/<owner>/<name>`` and return the folder.

    Parameters
    ----------
    items_per_split
        Items to train on, and as many to test on; where both come from one split it has twice as many.
    change
        ``change(cell, split, rows)`` returns the rows to write in the place of those.
    """
    cells: dict[str, list[tuple[Cell, HubDataset]]] = defaultdict(list)
    for cell in (Cell(task, language) for task in HUB_TASKS for language in sorted(languages)):
        cells[source_of(cell).repository].append((cell, source_of(cell)))
    for repository, sources in cells.items():
        configs: list[str] = []
        for cell, source in sources:
            splits = SPLITS.get(cell.task, (source.train,))
            configs.append(f"- config_name: {source.config or 'default'}\n  data_files:\n")
            for split in splits:
                rows = rows_of(cell, split, items_per_split * (2 if source.train == source.test else 1))
                rows = change(cell, split, rows) if change else rows
                name = _write(folder / repository, cell, split, rows)
                configs[-1] += f"  - split: {split}\n    path: {name}\n"
        (folder / repository / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\nFor tests.\n")
    return folder


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data sets in four languages, 8 items a split; nothing may write to them."""
    return write_hub(tmp_path_factory.mktemp("hub"), SENTENCES, 8)


def hub(folder: Path, **spec: Any) -> Benchmark:
    """Read the benchmark in a folder."""
    return load_benchmark(BenchmarkSpec(kind="hub", path=str(folder), **spec))


def aligned(folder: Path, task: str, languages: tuple[str, ...] = ("ar", "de"), **split: Any) -> AlignedItems:
    """Return a task's items, aligned over some languages."""
    benchmark = hub(folder)
    return align(benchmark, benchmark.select((task,), languages), SplitSpec(**split))


def refusal(folder: Path, cell: Cell, **split: Any) -> str:
    """Return the words with which a cell's task is refused."""
    with pytest.raises(Refused) as caught:
        aligned(folder, cell.task, **split)
    return str(caught.value)


def _write(folder: Path, cell: Cell, split: str, rows: list[Row]) -> str:
    """Write a split in the format that its data set has, and return its name there, as the card gives it."""
    if cell == Cell("truthfulqa", "en"):
        path = folder / f"{split}.csv"
    elif cell.task == "global_mmlu" or cell == Cell("hellaswag", "zh"):
        path = folder / cell.language / f"{split}-00000-of-00001.parquet"
    else:
        path = folder / "data" / cell.language / f"{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        pd.DataFrame(rows).to_parquet(path)
    name = path.relative_to(folder).as_posix()
    return name.replace("00000-of-00001.parquet", "*")


def _fill(template: str, n: int, k: int = 0) -> str:
    return template.format(n=n, m=n % 7 + 2, k=k)


def _sentences(language: str) -> tuple[str, ...]:
    """A language without sentences of its own gets the English ones, told apart by its name."""
    return SENTENCES.get(language) or tuple(f"{language}: {text}" for text in SENTENCES["en"])


def _options(template: str, n: int, right: int, position: int, count: int) -> list[str]:
    numbers = [right + 1 + other for other in range(count - 1)]
    numbers.insert(position, right)
    return [_fill(template, n, number) for number in numbers]


def _arc(language: str, n: int) -> Row:
    asked, option, *_ = _sentences(language)
    count = 5 if n % 3 == 0 else 4
    options = _options(f"{option} [x]" if n % 4 == 0 else option, n, n + n % 7 + 2, n % count, count)
    texts = {f"option_{letter}": text for letter, text in zip("abcde", [*options, None], strict=False)}
    question = _fill(f" {asked} [figure {n}]  " if n % 2 else asked, n)
    return {"id": f"shells_{n}", "instruction": question, **texts, "answer": "ABCDE"[n % count]}


def _mmlu(language: str, n: int) -> Row:
    asked = _fill(_sentences(language)[2], n)
    options = _options("{k} " if n % 3 else "{k}", n, n - n % 7 - 2, n % 4, 4)
    texts = {f"option_{letter}": text for letter, text in zip("abcd", options, strict=True)}
    question = f"{asked}\n" if n % 2 else asked
    return {"sample_id": f"sums/test/{n}", "question": question, **texts, "answer": "ABCD"[n % 4], "subject": "sums"}


def _hellaswag(language: str, n: int) -> Row:
    activity, begin, on, ending = _sentences(language)[3:]
    endings = _options(f"{ending}  [step] quickly" if n % 3 == 0 else ending, n, n % 7 + 2, n % 4, 4)
    title = " [title] 123" if n % 2 else ""
    row: Row = {"activity_label": activity, "ctx_a": _fill(f"{begin}{title}", n), "ctx_b": on if n % 5 else ""}
    if language == "zh":  # another publisher's data set: endings printed, ids and labels as numbers
        return {"id": n, **row, "endings": str(endings), "label": n % 4}
    return {"id": str(n), **row, "endings": endings, "label": str(n % 4)}


def _truthfulqa(language: str, n: int) -> Row:
    asked, right, wrong = CLAIMS.get(language) or tuple(f"{language}: {text}" for text in CLAIMS["en"])
    choices = [_fill(right, n), *(_fill(wrong, n, n + other) for other in range(1, 2 + n % 4))]
    labels = [1, *[0] * (len(choices) - 1)]
    if language == "en":  # another publisher's data set: a mapping of numpy arrays, printed
        targets = {"choices": np.array(choices, dtype=object), "labels": np.array(labels, dtype=np.int32)}
        return {"question": _fill(asked, n), "mc1_targets": str(targets), "mc2_targets": str(targets)}
    mc2 = {"mc2_targets_choices": choices, "mc2_targets_labels": labels}
    return {"question": _fill(asked, n), "mc1_targets_choices": choices, "mc1_targets_labels": labels, **mc2}
