"""Cells, regimes and grids: the definitions of the study, and the counts that follow from them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.cells import Cell, Grid, Regime, regime_of

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}", fullmatch=True)
cells = st.builds(Cell, names, names)
grids = st.builds(
    Grid,
    st.lists(names, min_size=1, max_size=5, unique=True).map(tuple),
    st.lists(names, min_size=1, max_size=5, unique=True).map(tuple),
)


@given(cells, cells)
def test_a_regime_says_what_is_shared(source: Cell, target: Cell) -> None:
    regime = regime_of(source, target)
    assert regime.startswith("MT") == (source.task == target.task)
    assert regime.endswith("ML") == (source.language == target.language)
    assert regime.off_task == (source.task != target.task)


@given(cells, cells)
def test_swapping_source_and_target_keeps_the_regime(source: Cell, target: Cell) -> None:
    assert regime_of(source, target) is regime_of(target, source)


@given(grids)
def test_regimes_partition_a_grid(grid: Grid) -> None:
    tasks, languages = len(grid.tasks), len(grid.languages)
    counts = Counter(regime_of(source, target) for source in grid for target in grid)
    assert {regime: counts[regime] for regime in Regime} == {
        Regime.MT_ML: tasks * languages,
        Regime.MT_CL: tasks * languages * (languages - 1),
        Regime.CT_ML: tasks * languages * (tasks - 1),
        Regime.CT_CL: tasks * languages * (tasks - 1) * (languages - 1),
    }
    assert counts.total() == len(grid) ** 2


def test_the_published_grid_has_the_published_counts() -> None:
    grid = Grid(tuple("abcd"), tuple(f"l{number}" for number in range(11)))
    counts = Counter(regime_of(source, target) for source in grid for target in grid)
    assert counts == {"MT-ML": 44, "MT-CL": 440, "CT-ML": 132, "CT-CL": 1320}


@given(cells)
def test_a_cell_reads_back(cell: Cell) -> None:
    assert Cell.parse(str(cell)) == cell


@pytest.mark.parametrize("text", ["arc", "arc/", "/de", "a/b/c", "../x/de", "a b/de", "-a/de", ".a/de", "a\n/de", ""])
def test_what_is_no_cell_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        Cell.parse(text)


@given(grids)
def test_a_grid_lists_its_cells_task_by_task(grid: Grid) -> None:
    assert len(grid) == len(grid.cells) == len(set(grid))
    assert [cell.task for cell in grid][: len(grid.languages)] == [grid.tasks[0]] * len(grid.languages)
    assert all(cell in grid for cell in grid)
    assert Cell(grid.tasks[0], "no-such-language") not in grid
    assert str(grid.cells[0]) not in grid


@pytest.mark.parametrize(
    ("tasks", "languages", "message"),
    [((), ("de",), "tasks"), (("arc",), (), "languages"), (("arc", "arc"), ("de",), "named twice: arc")],
)
def test_a_grid_needs_names_once(tasks: tuple[str, ...], languages: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grid(tasks, languages)
