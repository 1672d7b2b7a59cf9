"""What is scored is what lm-evaluation-harness makes of the same data sets, by its own tasks, run here beside ours.

The tasks are those of the installed package; redirected are only the place of the data, its configuration and its
splits.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import pytest
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from registry.benchmarks.hub.sources import source_of
from registry.benchmarks.kinds import load_benchmark
from registry.cells import Cell
from registry.config.data import BenchmarkSpec
from tests.benchmarks.hub_fixture import SENTENCES, Row, rows_of

TASKS = Path(lm_eval.__file__).parent / "tasks"
CONFIGS = {
    "arc_challenge": "okapi/arc_multilingual/_arc_yaml",
    "global_mmlu": "global_mmlu/default/en/_en_template_yaml",
    "hellaswag": "okapi/hellaswag_multilingual/_hellaswag_yaml",
    "truthfulqa": "okapi/truthfulqa_multilingual/_truthfulqa_mc1_yaml",
}
CELLS = [Cell(task, language) for task in CONFIGS for language in SENTENCES]


def in_the_harnesss_schema(cell: Cell, folder: Path) -> Path:
    """Write the rows of the two data sets that stand in for others as those others would have them."""
    rows = rows_of(cell, source_of(cell).test, 16)
    for row in rows:
        if cell.task == "hellaswag":
            row |= {"endings": ast.literal_eval(row["endings"]), "label": str(row["label"])}
        else:
            row |= {f"mc{kind}_targets_{name}": values for kind in (1, 2) for name, values in english(row).items()}
    (folder / "test.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return folder


def english(row: Row) -> dict[str, list[Any]]:
    """Evaluate a printed mapping of arrays as Python does."""
    found = eval(row["mc1_targets"], {"array": np.array, "object": object, "int32": np.int32}, {})
    return {name: values.tolist() for name, values in found.items()}


def harness_task(cell: Cell, folder: Path, cache: Path) -> ConfigurableTask:
    """Return the harness's task on the data sets of a folder."""
    source = source_of(cell)
    config: dict[str, Any] = load_yaml(TASKS / CONFIGS[cell.task], resolve_func=True)
    stands_in = cell in (Cell("hellaswag", "zh"), Cell("truthfulqa", "en"))
    config |= {
        "task": "parity",
        "dataset_path": str(in_the_harnesss_schema(cell, cache) if stands_in else folder / source.repository),
        "dataset_name": None if stands_in else source.config,
        "dataset_kwargs": {"cache_dir": str(cache / "arrow")},
        "training_split": None,
        "validation_split": None,
        "test_split": "test" if stands_in else source.test,
    }
    return ConfigurableTask(config={key: value for key, value in config.items() if key not in ("tag", "include")})


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_queries_are_the_harnesss(hub_folder: Path, tmp_path: Path, cell: Cell) -> None:
    benchmark = load_benchmark(BenchmarkSpec(kind="hub", path=str(hub_folder)))
    queries = [benchmark.prompts[cell.task].query(item) for item in benchmark.pool(cell, "test")]
    task = harness_task(cell, hub_folder, tmp_path)
    documents = list(task.test_docs())
    assert len(documents) == len(queries)
    for document, query in zip(documents, queries, strict=True):
        context = task.fewshot_context(document, num_fewshot=0)
        requests = task.construct_requests(document, context, metadata=("parity", 0, 1))
        assert [request.args for request in requests] == [(query.context, option) for option in query.continuations]
        assert query.lengths == tuple(len(choice) for choice in task.doc_to_choice(document))
        assert query.answer == index_of(task.doc_to_target(document))


def index_of(answer: int | str) -> int:
    """Read the harness's target: an index, one printed, or a letter."""
    return "ABCD".index(answer) if answer in ("A", "B", "C", "D") else int(answer)
