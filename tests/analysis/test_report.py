"""The folder an analysis writes: files, figures and the report, on full and on degenerate grids."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis import Analysis, analyze
from analysis.figures import FIGURES
from analysis.figures.labels import place_labels
from analysis.figures.style import STYLE
from analysis.frame import Frame
from analysis.numerals import fixed, pp

if TYPE_CHECKING:
    from tests.analysis.conftest import FrameMaker

TABLES = {"regimes", "contrasts", "roles", "pareto", "baselines", "task_matrix", "language_matrix"}
VOID = {"meta", "br", "link", "img", "hr", "use", "path"}


class _Page(HTMLParser):
    """Collects what a test asks of a page: addresses, ids, and whether every element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "xlink:href") and value:
                self.addresses.append(value)
            if name == "id" and value:
                self.ids.append(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def small(frame: Frame, tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyze(frame, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def page(small: Analysis) -> str:
    return small.report.read_text(encoding="utf-8")


def test_every_file_is_written(small: Analysis) -> None:
    expected = {f"{name}.csv" for name in TABLES} | {"cells.parquet", "observations.parquet", "report.html"}
    expected |= {f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "svg")}
    assert {str(path.relative_to(small.output)) for path in small.files} == expected
    assert {str(path.relative_to(small.output)) for path in small.output.rglob("*.*")} == expected
    assert all(path.stat().st_size > 20 for path in small.files)
    assert small.left_out == ()


def test_tables_survive_the_disk(small: Analysis, frame: Frame) -> None:
    pd.testing.assert_frame_equal(pd.read_parquet(small.output / "observations.parquet"), frame.observations)
    pd.testing.assert_frame_equal(pd.read_csv(small.output / "regimes.csv"), small.regimes)
    matrix = pd.read_csv(small.output / "language_matrix.csv", index_col=0)
    assert list(matrix.index) == list(matrix.columns) == ["de", "en", "hi"]


def test_the_report_has_every_number_of_the_regime_table(small: Analysis, page: str) -> None:
    start = page.index('<table id="regimes">')
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", page[start : page.index("</table>", start)])[8:]
    rows = [cells[i : i + 8] for i in range(0, len(cells), 8)]
    assert rows == [
        [
            row["regime"],
            f"{row['n']:,}",
            pp(row["mean"]),
            fixed(row["se"]),
            pp(row["median"]),
            fixed(row["positive_pct"], 1),
            fixed(row["harm_pct"], 1),
            row["se_note"],
        ]
        for _, row in small.regimes.iterrows()
    ]


def test_the_report_is_well_formed_and_self_contained(page: str, small: Analysis) -> None:
    parsed = _Page(page)
    assert parsed.open == []
    assert not parsed.tags & {"script", "link", "img", "iframe", "image"}
    assert len(parsed.ids) == len(set(parsed.ids))
    for address in parsed.addresses:
        if address.startswith("#"):
            assert address[1:] in parsed.ids
        else:
            assert (small.output / address).is_file()
    assert "@import" not in page
    assert set(re.findall(r"url\(([^)]*)\)", page)) <= {f"#{name}" for name in parsed.ids}


def test_the_report_warns_of_baselines_below_chance(page: str) -> None:
    warning = page[page.index('id="below-chance"') : page.index("<h2>Regimes")]
    assert "1 of 12 baselines below chance" in warning
    assert re.search(r"lab/two-7b</td><td[^>]*>mmlu/hi</td><td>0.200</td><td>0.250", warning)


def test_names_are_escaped(make_frame: FrameMaker, output: Path) -> None:
    evil = "<script>alert('$x$')</script>"
    frame = make_frame(models=[evil, "b"], family="<b>&$_{", study=evil, seeds=(1, 2))
    page = analyze(replace(frame, store=evil, notes=(evil,)), output).report.read_text(encoding="utf-8")
    parsed = _Page(page)
    assert not parsed.tags & {"script", "b>", "b&"}
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 3


def test_equal_data_give_equal_files(frame: Frame, small: Analysis, output: Path) -> None:
    with mpl.rc_context({"font.size": 30, "svg.fonttype": "none"}):  # a session's own settings do not matter
        again = analyze(frame, output)
    for one, other in zip(small.files, again.files, strict=True):
        assert hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest(), one.name


@pytest.mark.parametrize(
    ("shape", "figures"),
    [
        ({"tasks": ["arc"]}, {"language_roles", "language_matrix"}),
        ({"languages": ["de"]}, {"task_roles", "task_matrix"}),
        ({"tasks": ["arc"], "languages": ["de"]}, set()),
        ({"models": ["a", "b", "c"], "tasks": list("abcdefgh"), "languages": ["x", "y"]}, set(FIGURES)),
        ({"tasks": ["a", "b"], "languages": [f"language-{i:02d}" for i in range(18)]}, set(FIGURES)),
    ],
    ids=["one task", "one language", "one cell", "eight tasks", "eighteen languages"],
)
def test_any_grid_is_drawn_or_left_out_with_a_reason(
    make_frame: FrameMaker, output: Path, shape: dict[str, list[str]], figures: set[str]
) -> None:
    found = analyze(make_frame(**shape), output)
    assert {path.stem for path in found.files if path.suffix == ".svg"} == figures
    assert len(found.left_out) == len(set(FIGURES) - figures)
    page = found.report.read_text(encoding="utf-8")
    assert _Page(page).open == []
    for part in found.left_out:
        assert f"<strong>{part.part}</strong>: {part.reason}" in page
        assert str(part) == f"{part.part}: {part.reason}"


def test_figures_of_an_earlier_analysis_do_not_stay(make_frame: FrameMaker, output: Path) -> None:
    analyze(make_frame(), output)
    analyze(make_frame(tasks=["arc"]), output)
    assert {path.stem for path in (output / "figures").iterdir()} == {"language_roles", "language_matrix"}


def test_a_partial_grid_is_drawn(frame: Frame, output: Path) -> None:
    some = frame.observations[frame.observations["source_language"] == "de"]
    found = analyze(replace(frame, observations=some), output)
    assert {part.part for part in found.left_out} == {"Donor and recipient languages"}


@pytest.mark.parametrize("n", [2, 11, 40])
def test_labels_overlap_neither_each_other_nor_points(n: int) -> None:
    random = np.random.default_rng(n)
    points = random.normal(size=(n, 2))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 4.8), layout="constrained")
        axes = figure.add_subplot()
        axes.scatter(*points.T)
        names = [f"name-{i}" for i in range(n)]
        unplaced = place_labels(axes, points, names)
        figure.draw_without_rendering()
        boxes = {text.get_text(): Text.get_window_extent(text) for text in axes.texts}
    assert set(boxes) == set(names) - set(unplaced)
    assert len(unplaced) <= n // 3
    pixels = axes.transData.transform(points)
    for name, box in boxes.items():
        assert not any(box.overlaps(other) for key, other in boxes.items() if key != name)
        assert not any(box.contains(*pixel) for pixel in pixels)
        assert axes.bbox.containsx(box.x0)
        assert axes.bbox.containsx(box.x1)


def test_negative_zero_is_zero() -> None:
    assert pp(-0.001) == "+0.00"
    assert fixed(-0.001) == "0.00"
    assert pp(-1.5) == "−1.50"
    assert pp(float("nan")) == fixed(float("nan")) == "–"
