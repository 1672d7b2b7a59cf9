"""Manifests: which task of the harness is which cell, and what a manifest may not say."""

from __future__ import annotations

from pathlib import Path

import lm_eval
import pytest

from registry.cells import Cell
from registry.errors import Refused
from registry.imports.manifest import EXAMPLE, Manifest, read_manifest

RUNS = """\
runs:
- {folder: base, model: lab/one, source: null}
- {folder: adapter, model: lab/one, source: arc_challenge/de, seed: 17}
"""


def manifest(tmp_path: Path, text: str, name: str = "manifest.yaml") -> Manifest:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_manifest(path)


def test_runs_are_read_with_their_folders_beside_the_manifest(tmp_path: Path) -> None:
    base, adapter = manifest(tmp_path, RUNS).runs
    assert (base.folder, base.source, base.seed) == (tmp_path / "base", None, None)
    assert (adapter.folder, adapter.source, adapter.seed) == (tmp_path / "adapter", Cell("arc_challenge", "de"), 17)


def test_the_example_that_messages_show_is_a_manifest(tmp_path: Path) -> None:
    found = manifest(tmp_path, EXAMPLE)
    assert len(found.runs) == 2
    assert found.cell_of("my_task_sw") == Cell("my_task", "sw")
    assert found.models["lab/other"] == ("Other", 1.5)


@pytest.mark.parametrize(
    ("task", "cell"),
    [
        ("arc_de", "arc_challenge/de"),
        ("arc_challenge", "arc_challenge/en"),
        ("hellaswag_zh", "hellaswag/zh"),
        ("hellaswag", "hellaswag/en"),
        ("truthfulqa_pt_mc1", "truthfulqa/pt"),
        ("truthfulqa_mc1", "truthfulqa/en"),
        ("global_mmlu_hi", "global_mmlu/hi"),
    ],
)
def test_the_published_tasks_are_recognised(tmp_path: Path, task: str, cell: str) -> None:
    assert manifest(tmp_path, RUNS).cell_of(task) == Cell.parse(cell)
    names = {path.stem.lstrip("_") for path in (Path(lm_eval.__file__).parent / "tasks").rglob("*.yaml")}
    if task not in ("arc_challenge", "truthfulqa_mc1", "hellaswag_zh"):  # files of these are named otherwise
        assert task in names, "the harness has no such task any more"


@pytest.mark.parametrize(
    "task", ["arc_easy", "truthfulqa_de_mc2", "truthfulqa_gen", "global_mmlu_de_stem", "global_mmlu_full_de", "x"]
)
def test_tasks_that_only_look_alike_are_not(tmp_path: Path, task: str) -> None:
    with pytest.raises(KeyError):
        manifest(tmp_path, RUNS).cell_of(task)


def test_own_tasks_go_before_the_known_ones_and_names_before_patterns(tmp_path: Path) -> None:
    tasks = 'tasks: {"arc_{language}": mine, arc_fr: other/fr, "global_mmlu_{language}": null}'
    found = manifest(tmp_path, RUNS + tasks)
    assert found.cell_of("arc_de") == Cell("mine", "de")
    assert found.cell_of("arc_fr") == Cell("other", "fr")
    assert found.cell_of("global_mmlu_de") is None
    assert found.cell_of("hellaswag_de") == Cell("hellaswag", "de")


def test_a_table_is_a_manifest_too(tmp_path: Path) -> None:
    rows = "folder,model,source,seed\nbase,lab/one,,\nadapter,lab/one,arc_challenge/de,17\n"
    from_table, from_yaml = manifest(tmp_path, rows, "runs.csv"), manifest(tmp_path, RUNS)
    assert [(run.folder, run.source, run.seed) for run in from_table.runs] == [
        (run.folder, run.source, run.seed) for run in from_yaml.runs
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("runs:", "rnus:", "there is no key 'rnus'; nearest: runs"),
        ("source: null", "sorce: null", "manifest.yaml:2 in runs[0]: there is no key 'sorce'; nearest: source"),
        ("folder: base, ", "", "manifest.yaml:2: runs[0].folder is missing"),
        ("lab/one, source: null", "'<b>', source: null", "60 at most; a hub owner may precede it (got '<b>')"),
        ("lab/one, source: null", "../one, source: null", "runs[0].model: a model's name is letters, digits"),
        ("arc_challenge/de", "arc_challenge", "manifest.yaml:3: runs[1].source: 'arc_challenge' is not a cell"),
        ("arc_challenge/de", "'arc/../de'", "runs[1].source: language name '../de' is not usable"),
        (", seed: 17", "", "runs[1]: seed is missing"),
        ("seed: 17", "seed: seventeen", "runs[1].seed: a seed is a whole number from 0 (got 'seventeen')"),
        ("seed: 17", "seed: true", "runs[1].seed: a seed is a whole number from 0 (got True)"),
        ("source: null", "source: null, seed: 17", "runs[0]: a baseline has no seed"),
        (
            "- {folder: base",
            "- {folder: base, model: lab/one}\n- {folder: base",
            "runs[1]: lab/one baseline is listed already, as runs[0]",
        ),
        (
            "runs:",
            "protocol: a b\nruns:",
            "protocol: a name is letters, digits, '_', '-' and '.'",
        ),
        ("runs:", "tasks: [a]\nruns:", "tasks: a mapping is needed, such as {a: b} (got ['a'])"),
        ("runs:", "tasks: {x: x}\nruns:", "tasks: 'x': 'x' is not a cell"),
        ("runs:", 'tasks: {"x_{language}": x/de}\nruns:', "tasks: 'x_{language}': 'x/de' is not a task's name"),
        ("runs:", "tasks: {x: 3}\nruns:", "tasks.x: input should be a valid string (got 3)"),
        ("runs:", "models: {a: b}\nruns:", "models.a: a mapping is needed, such as {a: b} (got 'b')"),
        ("runs:", "models: {a: {size: 1}}\nruns:", "in models.a: there is no key 'size'; nearest: size_b"),
        ("runs:", "models: {a: {size_b: -1}}\nruns:", "models.a.size_b: input should be greater than 0 (got -1)"),
        (
            "runs:",
            "models: {a: {family: a b}}\nruns:",
            "models.a.family: a name is letters, digits, '_', '-' and '.'",
        ),
        ("runs:", "[runs", "is not YAML"),
        (RUNS, "runs: []", "a manifest lists runs"),
        (RUNS, "runs: [x]", "runs[0]: a mapping is needed"),
        (RUNS, "a text", "a manifest is a mapping"),
    ],
)
def test_a_mistake_is_reported_with_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in RUNS
    with pytest.raises(Refused) as raised:
        manifest(tmp_path, RUNS.replace(old, new, 1))
    assert message in str(raised.value)
