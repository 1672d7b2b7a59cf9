"""Alignment: the same items in the same order in every language, and the faults that would break it."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.benchmarks.aligned import AlignedItems, Benchmark, align
from registry.benchmarks.items import Item
from registry.benchmarks.kinds import load_benchmark
from registry.benchmarks.prompts import PROMPTS
from registry.benchmarks.splits import Split
from registry.cells import Cell, Grid
from registry.config.data import BenchmarkSpec, SplitSpec
from registry.errors import Refused

GRID = Grid(("task",), ("de", "en", "it"))
DE, EN, IT = GRID.cells
Pools = dict[tuple[Cell, Split], tuple[Item, ...]]


def item(id: str, cell: Cell, split: Split = "train") -> Item:
    return Item(id, f"question {id} of {cell} in {split}", ("yes", "no"), len(id) % 2)


def pools(train: list[str], test: list[str]) -> Pools:
    """The same ids for every cell of the grid."""
    ids: dict[Split, list[str]] = {"train": train, "test": test}
    return {(cell, split): tuple(item(id, cell, split) for id in ids[split]) for cell in GRID for split in ids}


def benchmark(items: Pools, *, one_pool: bool = False) -> Benchmark:
    return Benchmark(
        "test", GRID, {"task": PROMPTS["text"]}, lambda cell, split: items[cell, split],
        frozenset({"task"} if one_pool else ()),
    )  # fmt: skip


def aligned(items: Pools, one_pool: bool = False, **split: object) -> AlignedItems:
    return align(benchmark(items, one_pool=one_pool), GRID, SplitSpec(**split))  # type: ignore[arg-type]


def refusal(items: Pools, **split: object) -> str:
    with pytest.raises(Refused) as caught:
        aligned(items, **split)
    return str(caught.value)


def ids(items: tuple[Item, ...]) -> list[str]:
    return [item.id for item in items]


id_lists = st.lists(st.text("abcdef,\"' 0123456789é", min_size=1).map(str.strip).filter(bool), min_size=1, unique=True)


@given(id_lists, id_lists, st.integers(0, 5), st.integers(0, 5), st.integers(), st.randoms(use_true_random=False))
def test_every_language_has_the_same_items_whatever_the_order_in_its_file(
    train: list[str], test: list[str], many: int, more: int, seed: int, shuffle: random.Random
) -> None:
    items = pools(train, test)
    spec = SplitSpec(train=min(many, len(train)), test=min(more, len(test)), seed=seed)
    before = align(benchmark(items), GRID, spec)
    assert len(before.train(DE)) == spec.train or len(train)
    assert len(before.test(DE)) == spec.test or len(test)
    for cell in GRID:
        assert ids(before.train(cell)) == list(before.manifest("task").train)
        assert ids(before.test(cell)) == list(before.manifest("task").test)
        assert not set(before.train(cell)) & set(before.test(cell))
    shuffled = {key: tuple(shuffle.sample(found, len(found))) for key, found in items.items()}
    assert align(benchmark(shuffled), GRID, spec) == before


@given(st.integers(2, 30), st.integers(0, 30), st.integers(0, 30), st.integers())
def test_splits_of_one_file_are_disjoint(size: int, train: int, test: int, seed: int) -> None:
    both = [str(number) for number in range(size)]
    items = {key: tuple(item(id, key[0]) for id in both) for key in pools([], [])}
    if not (train or test) or train + test > size or size in (train, test):
        with pytest.raises(Refused):
            aligned(items, one_pool=True, train=train, test=test, seed=seed)
        return
    manifest = aligned(items, one_pool=True, train=train, test=test, seed=seed).manifest("task")
    assert not set(manifest.train) & set(manifest.test)
    assert len(manifest.train) == (train or size - test)
    assert len(manifest.test) == (test or size - train)


def test_a_draw_is_the_beginning_of_a_larger_one_and_depends_on_the_seed() -> None:
    items = pools([str(number) for number in range(100)], ["t"])
    draws = ((10, 1), (50, 1), (10, 2))
    small, large, other = (aligned(items, train=count, seed=seed).manifest("task").train for count, seed in draws)
    assert large[:10] == small
    assert other != small


def test_a_draw_stays_what_it_was() -> None:
    """Recorded once: another Python or machine must draw the same items, or old results lose their meaning."""
    manifest = aligned(pools([str(number) for number in range(20)], list("abcdef")), train=5, test=3).manifest("task")
    assert manifest.to_csv() == "split,id\ntrain,9\ntrain,13\ntrain,4\ntrain,12\ntrain,17\ntest,d\ntest,b\ntest,c\n"


def test_more_items_than_there_are() -> None:
    assert "task train: 3 items asked for, 2 available" in refusal(pools(["1", "2"], ["3"]), train=3)


def missing() -> Pools:
    items = pools([str(number) for number in range(30)], ["t"])
    return items | {(IT, "train"): items[IT, "train"][:18], (EN, "train"): items[EN, "train"][1:]}


def test_ids_that_a_language_lacks_are_refused_by_language() -> None:
    told = refusal(missing()).splitlines()
    assert "task train: 13 ids are not in every language" in told[0]
    assert "use the 17 common ids by split.missing: drop" in told[0]
    assert told[1:] == ["  en lacks 1: 0", "  it lacks 12: 18, 19, 20, 21, 22, 23, 24, 25 and 4 more"]


def test_ids_that_a_language_lacks_can_be_dropped() -> None:
    assert sorted(aligned(missing(), missing="drop").manifest("task").train, key=int) == [str(n) for n in range(1, 18)]


def test_languages_without_a_common_id() -> None:
    items = pools(["1"], ["t"]) | {(IT, "train"): (item("2", IT),)}
    assert "all items asked for, 0 available; the languages need common ids" in refusal(items, missing="drop")


@pytest.mark.parametrize("change", [{"answer": 0}, {"options": ("yes", "no", "perhaps")}])
def test_translations_that_disagree(change: dict[str, object]) -> None:
    items = pools(["1", "2"], ["t"])
    first, second = items[IT, "train"]
    told = refusal(items | {(IT, "train"): (first, replace(second, **change))})  # type: ignore[arg-type]
    assert "task train: 1 ids have another answer or number of options in it than in de: 2" in told


def test_an_id_twice_in_a_source() -> None:
    items = pools(["1", "2"], ["t"])
    assert "task/en train: ids used twice: 1" in refusal(items | {(EN, "train"): items[EN, "train"][:1] * 2})


def test_a_question_in_training_and_test() -> None:
    items = pools(["1", "2"], ["1", "3"])
    leaked = items | {(EN, "test"): (items[EN, "test"][0], replace(items[EN, "train"][1], id="3"))}
    assert "task/en: 1 questions are in training and in test (train id = test id): 2 = 3" in refusal(leaked)
    assert ids(aligned(leaked, overlap="allow").train(EN)) == ids(aligned(leaked, overlap="allow").train(DE))


def test_a_question_in_training_and_test_can_be_dropped_from_training_in_every_language() -> None:
    items = pools(["1", "2", "3"], ["4", "5"])
    items[EN, "test"] = (items[EN, "test"][0], replace(items[EN, "train"][1], id="5"))
    found = aligned(items, overlap="drop")
    assert all(sorted(ids(found.train(cell))) == ["1", "3"] for cell in GRID)
    assert all(sorted(ids(found.test(cell))) == ["4", "5"] for cell in GRID)
    published = replace(benchmark(items), published=True)
    assert len(align(published, GRID, SplitSpec()).train(DE)) == 2
    assert len(align(published, GRID, SplitSpec(overlap="allow")).train(DE)) == 3


def test_of_one_question_under_two_ids_of_one_pool_the_first_is_kept() -> None:
    items = pools(["1", "2", "3", "4"], [])
    items[IT, "train"] = (*items[IT, "train"][:3], replace(items[IT, "train"][1], id="4"))
    items |= {(cell, "test"): items[cell, "train"] for cell in GRID}
    found = aligned(items, one_pool=True, train=1, test=2, overlap="drop")
    assert sorted(ids(found.train(DE)) + ids(found.test(DE))) == ["1", "2", "3"]


def test_digests_tell_every_difference() -> None:
    items = pools(["1", "2"], ["t"])
    base = aligned(items)
    changed = aligned(items | {(EN, "test"): (replace(items[EN, "test"][0], question="other"),)})
    assert changed.digest(EN, "test") != base.digest(EN, "test")
    assert changed.digest(DE, "test") == base.digest(DE, "test")
    assert changed.test_digest(GRID) != base.test_digest(GRID)
    assert changed.test_digest([DE, IT]) == base.test_digest([IT, DE])
    styled = align(replace(benchmark(items), prompts={"task": PROMPTS["letter"]}), GRID, SplitSpec())
    assert styled.digest(DE, "test") != base.digest(DE, "test")
    assert len({base.digest(cell, split) for cell in GRID for split in ("train", "test")}) == 6


def test_cells_and_tasks_outside_the_grid() -> None:
    items = aligned(pools(["1"], ["t"]))
    with pytest.raises(Refused, match="there is no cell 'task/dee'; there are: task/de, task/en, task/it"):
        items.train(Cell("task", "dee"))
    with pytest.raises(Refused, match="there is no task 'tsk'; there is only: task"):
        items.manifest("tsk")


def test_select_chooses_from_what_is_offered() -> None:
    source = benchmark(pools(["1"], ["t"]))
    assert source.select() == GRID
    assert source.select(languages=("it", "de")) == Grid(("task",), ("it", "de"))
    with pytest.raises(Refused, match="benchmark test: there is no language 'dd'; nearest: de"):
        source.select(languages=("dd",))


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[[str], str]:
    """Write task.csv, and return its folder."""

    def write(content: str) -> str:
        (tmp_path / "task.csv").write_text(content, encoding="utf-8")
        return str(tmp_path)

    return write


@given(id_lists, id_lists)
def test_a_manifest_reads_back(tmp_path_factory: pytest.TempPathFactory, train: list[str], test: list[str]) -> None:
    folder = tmp_path_factory.mktemp("manifest", numbered=True)
    items = pools(train, test)
    drawn = aligned(items, train=(len(train) + 1) // 2)
    (folder / "task.csv").write_text(drawn.manifest("task").to_csv(), encoding="utf-8")
    assert aligned(items, manifest=str(folder)) == drawn


def test_a_manifest_fixes_items_and_order(manifest: Callable[[str], str]) -> None:
    items = aligned(pools(["1", "2", "3"], ["1", "2"]), manifest=manifest("\ufeffsplit,id\ntrain,3\ntest,1\ntrain,1\n"))
    assert ids(items.train(IT)) == ["3", "1"]
    assert ids(items.test(IT)) == ["1"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("id,split\n1,train\n", "task.csv:1: the header is 'id,split'; a manifest's is 'split,id'"),
        ("train,1\ntest,t\n", "task.csv:1: the header is 'train,1'"),
        ("", "task.csv holds no rows"),
        ("split,id\ntrain,1\ntrain,9\ntest,t\n", "task.csv:3: train has no item '9' in any language; correct the id"),
        ("split,id\ntrain,2\ntest,t\n", "task.csv:2: train has no item '2' in it; correct the id"),
        ("split,id\ntrain,1\ntest,t\ntrain,1\n", "task.csv:4: train,1 already stands in line 2"),
        ("split,id\ntrain,1\ntset,t\n", "task.csv:3: there is no split 'tset'; nearest: test"),
        ("split,id\ntrain,1\ntest\n", "task.csv:3: 1 column(s) where the header has 2"),
        ("split,id\ntrain,1\n", "no row has the split 'test'"),
    ],
)
def test_a_bad_manifest_is_told_with_line(manifest: Callable[[str], str], content: str, expected: str) -> None:
    items = pools(["1", "2"], ["t"])
    assert expected in refusal(items | {(IT, "train"): items[IT, "train"][:1]}, manifest=manifest(content))


def test_a_missing_manifest_names_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "tasks.csv").write_text("split,id\n", encoding="utf-8")
    told = refusal(pools(["1"], ["t"]), manifest=str(tmp_path))
    assert f"{tmp_path}: there is no manifest 'task.csv'; there is only: tasks.csv" in told


def test_the_built_in_grid_aligns() -> None:
    demo = load_benchmark(BenchmarkSpec())
    items = align(demo, demo.select(languages=demo.grid.languages[:2]), SplitSpec(train=8, test=8))
    assert {len(items.train(cell)) for cell in items.grid} == {8}


@pytest.mark.parametrize("spelled", ["NFD", "NFKC"])
def test_a_leak_is_found_however_unicode_spells_it(spelled: str) -> None:
    question, options = "Thể thao １ là gì？", ("được", "không")
    items = pools(["1", "2"], ["3", "4"])
    other = unicodedata.normalize(spelled, question), tuple(unicodedata.normalize(spelled, one) for one in options)
    items[IT, "train"] = (Item("1", question, options, 1), *items[IT, "train"][1:])
    items[IT, "test"] = (Item("3", other[0] + "\u200b", other[1], 1), *items[IT, "test"][1:])
    assert "task/it: 1 questions are in training and in test (train id = test id): 1 = 3" in refusal(items)
    assert ids(aligned(items, overlap="drop").train(IT)) == ["2"]


@pytest.mark.parametrize("other", ["unchanged", "NFD"])
def test_copies_of_a_language_are_found(other: str) -> None:
    items = pools(["1", "2"], ["3", "4"])
    for part in ("train", "test"):
        items[IT, part] = tuple(replace(one, question=f"¿é {one.id}?") for one in items[IT, part])
        form = (lambda text: text) if other == "unchanged" else (lambda text: unicodedata.normalize("NFD", text))
        items[DE, part] = tuple(replace(one, question=form(one.question)) for one in items[IT, part])
    found = aligned(items)
    assert found.copies == {"train": ((DE, IT),), "test": ((DE, IT),)}
    assert found.twins(DE) == ((IT,) if other == "unchanged" else ())
    assert found.twins(EN) == ()
    assert found.overlaps == ()


def test_a_part_of_the_files_may_be_copied() -> None:
    items = pools(["1", "2"], ["3", "4", "5"])
    items[IT, "test"] = items[DE, "test"]
    found = aligned(items)
    assert found.copies == {"train": (), "test": ((DE, IT),)}
    items[IT, "test"] = (*items[DE, "test"][:2], item("5", IT, "test"))
    found = aligned(items)
    assert found.copies == {"train": (), "test": ()}
    assert list(map(str, found.overlaps)) == ["2 of 3 questions of task/de and task/it are the same text"]


def test_tasks_that_ask_the_same_items_in_other_ways_are_no_copies() -> None:
    grid = Grid(("task", "letters", "again"), ("de",))
    items = {(cell, part): tuple(item(n, DE, part) for n in "12") for cell in grid for part in ("train", "test")}
    styles = {"task": PROMPTS["text"], "letters": PROMPTS["letter"], "again": PROMPTS["text"]}
    found = align(Benchmark("x", grid, styles, lambda cell, split: items[cell, split]), grid, SplitSpec())
    assert found.copies["train"] == ((Cell("task", "de"), Cell("again", "de")),)
