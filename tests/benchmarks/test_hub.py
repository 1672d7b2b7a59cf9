"""The four published benchmarks, from a folder that mirrors the hub: items, texts, manifests and what is in files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.benchmarks.aligned import align
from registry.benchmarks.hub.sources import HUB_TASKS, source_of
from registry.benchmarks.prompts import TrainingText
from registry.cells import Cell
from registry.config.data import BenchmarkSpec, SplitSpec
from registry.errors import Refused
from tests.benchmarks.hub_fixture import (
    ARC,
    HELLASWAG,
    LANGUAGES,
    MMLU,
    TRUTHFULQA,
    aligned,
    hub,
    refusal,
)


def test_the_grid_is_the_published_one(hub_folder: Path) -> None:
    grid = hub(hub_folder).grid
    assert len(grid) == 44
    assert grid.tasks == ("arc_challenge", "global_mmlu", "hellaswag", "truthfulqa")
    assert {len(source_of(cell).revision) for cell in grid} == {40}


def test_all_tasks_in_four_languages_align(hub_folder: Path) -> None:
    benchmark = hub(hub_folder)
    counts = {"global_mmlu": 3, "default": 5}
    items = align(benchmark, benchmark.select(languages=LANGUAGES), SplitSpec(train=counts, test=8))
    for cell in items.grid:
        english = Cell(cell.task, "en")
        assert len(items.train(cell)) == (3 if cell.task == "global_mmlu" else 5)
        assert [item.id for item in items.test(cell)] == [item.id for item in items.test(english)]
        assert [item.answer for item in items.test(cell)] == [item.answer for item in items.test(english)]
        assert items.train(cell) != items.train(english) or cell == english
        assert not {item.id for item in items.train(cell)} & {item.id for item in items.test(cell)}


def test_what_arc_trains_on_and_is_scored_by(hub_folder: Path) -> None:
    item = hub(hub_folder).pool(Cell("arc_challenge", "en"), "train")[4]
    prompt = hub(hub_folder).prompts["arc_challenge"]
    assert len(item.options) == 5
    assert prompt.training(item) == TrainingText(
        "Question: Ola finds 24 shells, then 5 more. How many has she?\n"
        "A) she has 30 \nB) she has 31 \nC) she has 32 \nD) she has 33 \nE) she has 29 \nAnswer:",
        " E",
    )
    assert prompt.query(item).context == "Question: Ola finds 24 shells, then 5 more. How many has she?\nAnswer:"


def test_what_the_others_train_on(hub_folder: Path) -> None:
    benchmark = hub(hub_folder)
    texts = {
        task: benchmark.prompts[task].training(benchmark.pool(Cell(task, "en"), "train")[1]) for task in HUB_TASKS[1:]
    }
    assert texts["global_mmlu"] == TrainingText(
        "What is left of 21 without 2?\nA. 20\nB. 19\nC. 21\nD. 22\nAnswer:", " B"
    )
    assert texts["hellaswag"] == TrainingText(
        "Counting stones: A child lays 21 stones in a row.. 123 Then the child\n"
        "A) takes 3 of them away  quickly\nB) takes 2 of them away  quickly\n"
        "C) takes 4 of them away  quickly\nD) takes 5 of them away  quickly\nAnswer:",
        " B",
    )
    assert texts["truthfulqa"] == TrainingText("", "Question: Is 21 more than 2? \nAnswer: Yes, it's 21.")


def test_the_primer_is_read_from_a_file_that_the_study_names(hub_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "primer.txt").write_text("Q: Is snow black?\nA: No.\n", encoding="utf-8")
    benchmark = hub(hub_folder, primer=str(tmp_path / "primer.txt"))
    query = benchmark.prompts["truthfulqa"].query(benchmark.pool(TRUTHFULQA, "test")[0])
    assert query.context == "Q: Is snow black?\nA: No.\n\nQ: Ist 20 größer als 8?\nA:"


def test_a_primer_that_cannot_be_had(hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match=r"benchmark.primer: .*none.txt cannot be read"):
        hub(hub_folder, primer=str(tmp_path / "none.txt")).prompts["truthfulqa"]
    (tmp_path / "blank.txt").write_text("\n")
    with pytest.raises(Refused, match=r"blank.txt is empty"):
        hub(hub_folder, primer=str(tmp_path / "blank.txt")).prompts["truthfulqa"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Refused, match=r"install lm_eval==0.4.13, or write the primer to a text file"):
        hub(hub_folder).prompts["truthfulqa"]
    assert aligned(hub_folder, "arc_challenge")  # has no need of one


def test_only_what_is_chosen_is_read(hub_folder: Path, tmp_path: Path) -> None:
    arc = source_of(ARC).repository
    shutil.copytree(hub_folder / arc, tmp_path / arc)
    assert aligned(tmp_path, "arc_challenge")
    assert f"{tmp_path / source_of(MMLU).repository} is not there" in refusal(tmp_path, MMLU)
    assert f"hf download --repo-type dataset {source_of(MMLU).repository} --revision 36c2fd75" in refusal(
        tmp_path, MMLU
    )


@pytest.mark.parametrize(
    ("cell", "rows"),
    [
        (ARC, ("train,shells_23", "train,shells_20", "test,shells_20021")),
        (MMLU, ("train,sums/test/22", "test,sums/test/10020")),
        (HELLASWAG, ("train,22", "test,30", "test,21")),
        (TRUTHFULQA, ("train,3", "train,12", "test,0")),
    ],
)
def test_a_published_manifest_fixes_the_items(
    hub_folder: Path, manifest: Callable[..., str], cell: Cell, rows: tuple[str, ...]
) -> None:
    items = aligned(hub_folder, cell.task, LANGUAGES, manifest=manifest(cell.task, *rows))
    for language in LANGUAGES:
        named = Cell(cell.task, language)
        used = [f"train,{item.id}" for item in items.train(named)] + [f"test,{item.id}" for item in items.test(named)]
        assert used == list(rows)


def test_numbers_of_items_for_a_task_that_is_not_there(hub_folder: Path) -> None:
    told = refusal(hub_folder, ARC, train={"global_mlu": 215})
    assert told == "split.train: there is no task 'global_mlu'; nearest: global_mmlu"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"kind": "hub", "languages": ("de",)}, "a hub benchmark has its own languages and tasks"),
        ({"kind": "demo", "primer": "x"}, "primer belongs to a hub benchmark"),
    ],
)
def test_what_a_hub_benchmark_has_no_place_for(spec: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        BenchmarkSpec(**spec)


def test_a_mirror_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"benchmark.path: the folder .*/none is not there"):
        hub(tmp_path / "none")


def copied(hub_folder: Path, tmp_path: Path) -> Path:
    """Copy ARC's data set into a mirror of its own and return its folder."""
    repository = source_of(ARC).repository
    return Path(shutil.copytree(hub_folder / repository, tmp_path / repository))


def test_a_script_is_refused(hub_folder: Path, tmp_path: Path) -> None:
    folder = copied(hub_folder, tmp_path)
    (folder / "m_arc.py").write_text("raise RuntimeError('nobody runs this')\n")
    assert "Dataset scripts are no longer supported" in refusal(tmp_path, ARC)
    (folder / "README.md").unlink()
    assert "is read by a script, m_arc.py, which the datasets library no longer runs" in refusal(tmp_path, ARC)


def test_a_configuration_or_split_that_is_not_there(hub_folder: Path, tmp_path: Path) -> None:
    card = copied(hub_folder, tmp_path) / "README.md"
    text = card.read_text()
    card.write_text(text.replace("config_name: de", "config_name: dee"))
    assert "there is no configuration 'de'; nearest: dee, " in refusal(tmp_path, ARC)
    card.write_text(text.replace("split: test", "split: exam"))
    assert "the split test of alexandrainst/m_arc (ar) at 69b0991e cannot be read: Unknown split" in refusal(
        tmp_path, ARC
    )
    card.write_text("---\nconfigs: [\n---\n")
    assert f"the YAML at the head of {card} cannot be read" in refusal(tmp_path, ARC)


def test_files_that_are_cut_missing_or_pointers(hub_folder: Path, tmp_path: Path) -> None:
    folder = copied(hub_folder, tmp_path)
    file = folder / "data" / "ar" / "test.jsonl"
    text = file.read_text(encoding="utf-8")
    file.write_text(text[:-20], encoding="utf-8")
    assert "the split train of alexandrainst/m_arc (ar) at 69b0991e cannot be read" in refusal(tmp_path, ARC)
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert f"{file} is a pointer of Git LFS, not the data; in {folder}: git lfs pull" in refusal(tmp_path, ARC)
    file.unlink()
    assert "cannot be read" in refusal(tmp_path, ARC)


def test_fewer_rows_than_the_card_promises(hub_folder: Path, tmp_path: Path) -> None:
    card = copied(hub_folder, tmp_path) / "README.md"
    splits = "".join(
        f"  - name: {split}\n    num_examples: {count}\n" for split, count in (("train", 8), ("val", 8), ("test", 9))
    )
    promise = f"---\ndataset_info:\n- config_name: ar\n  splits:\n{splits}"
    card.write_text(card.read_text().replace("---\n", promise, 1))
    assert "does not have the numbers of rows that its card promises" in refusal(tmp_path, ARC)


def test_a_mirror_of_another_commit_is_refused(hub_folder: Path, tmp_path: Path) -> None:
    folder = copied(hub_folder, tmp_path)
    trees = folder / ".cache" / "huggingface" / "trees"
    trees.mkdir(parents=True)
    (trees / f"{'b' * 40}.json").write_text(json.dumps({"format_version": 1, "files": {}}))
    assert f"{folder} is the data set at bbbbbbbb, not alexandrainst/m_arc (ar) at 69b0991e" in refusal(tmp_path, ARC)
    digests = {"data/ar/train.jsonl": {"size": 1, "blob_id": "0" * 40, "lfs_sha256": "c" * 64}}
    (trees / f"{source_of(ARC).revision}.json").write_text(json.dumps({"format_version": 1, "files": digests}))
    told = refusal(tmp_path, ARC)
    assert f"{folder}/data/ar/train.jsonl is damaged" in told
    assert "delete it and put it there again: hf download --repo-type dataset alexandrainst/m_arc" in told
