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
from markupsafe import escape
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis.analysis import Analysis, analyze
from analysis.measures.numerals import fixed, pp
from analysis.published import PublishedOptions
from analysis.reading.frame import Frame
from analysis.report.figures.draw import FIGURES
from analysis.report.figures.style import STYLE, place_labels

if TYPE_CHECKING:
    from tests.analysis.conftest import FrameMaker

TABLES = {
    "regimes", "rates", "tests", "contrasts", "variance_components", "roles", "role_pairs", "role_differences",
    "power", "baselines", "adapters",
}  # fmt: skip
MATRICES = {f"{name}_{shown}" for name in ("task_matrix", "language_matrix") for shown in ("shrunken", "significant")}
PUBLISHED = {
    "uplift", "harm", "pareto", "on_off_task", "roles", "language_families", "matrices", "variance",
    "consistency_by_source", "language_pairs",
}  # fmt: skip
FAST = PublishedOptions(mixed_models=False)
ONE_FAMILY = set(FIGURES) - {"pareto_families"}
CORRECTED = {"regimes", "variance_shares"}
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
    expected |= {f"published/{name}.csv" for name in PUBLISHED}
    # Each name has one partner only in the other task, so that task scores have no interval.
    drawn = (set(FIGURES) | MATRICES) - {"task_intervals"}
    expected |= {f"figures/{name}.{kind}" for name in drawn for kind in ("png", "svg")}
    # Distances need an optional package: both with and without it, nothing else may differ.
    distances = {"linguistic.csv", "published/linguistic.csv"}
    expected |= distances & {str(path.relative_to(small.output)) for path in small.files}
    assert {str(path.relative_to(small.output)) for path in small.files} == expected
    assert {str(path.relative_to(small.output)) for path in small.output.rglob("*.*")} == expected
    assert all(path.stat().st_size > 20 for path in small.files)
    parts = {part.part.split(" ")[0].rstrip(",") for part in small.left_out}
    # The small grid has tasks of unknown construction and three languages.
    assert parts <= {"MT-CL", "Donor", "Donors", "Consistency", "Linguistic", "Variance"}


def test_tables_survive_the_disk(small: Analysis, frame: Frame) -> None:
    pd.testing.assert_frame_equal(pd.read_parquet(small.output / "observations.parquet"), frame.observations)
    pd.testing.assert_frame_equal(pd.read_csv(small.output / "regimes.csv"), small.regimes)
    matrices = pd.read_csv(small.output / "published" / "matrices.csv")
    assert sorted(set(matrices.loc[matrices["matrix"] == "language", "source"])) == ["de", "en", "hi"]


def test_the_report_has_every_number_of_the_regime_table(small: Analysis, page: str) -> None:
    for name, columns in (("regimes-table", ["mean", "median"]), ("rates-table", ["positive_pct", "harm_pct"])):
        start = page.index(f'<table id="{name}">')
        rows = page[start : page.index("</table>", start)].split("<tr")[2:]
        assert len(rows) == len(small.regimes) == 5
        for html, row in zip(rows, small.regimes.to_dict("records"), strict=True):
            cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", html)
            write = pp if name == "regimes-table" else lambda value: fixed(value, 1)
            assert cells[0] == row["regime"]
            assert set(map(write, (row[column] for column in columns))) <= set(cells)
            if name == "regimes-table":
                assert f"{pp(row['low'])} to {pp(row['high'])}" in cells
            else:
                ends = f"{fixed(row['harm_low_pct'], 1)} to {fixed(row['harm_high_pct'], 1)}"
                assert f"{fixed(row['harm_posterior_pct'], 1)} ({ends})" in cells


def test_the_report_is_well_formed_and_self_contained(page: str, small: Analysis) -> None:
    parsed = _Page(page)
    assert parsed.open == []
    assert not parsed.tags & {"script", "link", "img", "iframe", "image"}
    assert len(parsed.ids) == len(set(parsed.ids))
    for address in parsed.addresses:
        if address.startswith("#"):
            assert address[1:] in parsed.ids
        else:
            assert (small.output / address).is_file(), address
    assert "@import" not in page
    assert set(re.findall(r"url\(([^)]*)\)", page)) <= {f"#{name}" for name in parsed.ids}


def test_the_report_warns_of_baselines_below_chance(page: str) -> None:
    warning = page[page.index('id="below-chance"') : page.index('<h2 id="headline">')]
    assert "1 of 12 baselines below chance" in warning
    assert re.search(r"lab/two-7b</th><td[^>]*>mmlu/hi</td><td>0.200</td><td>0.250", warning)


def test_names_are_escaped(make_frame: FrameMaker, output: Path) -> None:
    evil = "<script>alert('$x$')</script>"
    frame = make_frame(models=[evil, "b"], family="<b>&$_{", study=evil, seeds=(1, 2))
    page = analyze(replace(frame, store=evil, notes=(evil,)), output, FAST).report.read_text(encoding="utf-8")
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
        ({"tasks": ["arc"]}, CORRECTED | {"language_intervals", "language_roles", "language_matrix"}),
        ({"languages": ["de"]}, CORRECTED | {"task_roles", "task_matrix"}),
        ({"tasks": ["arc"], "languages": ["de"]}, {"regimes"}),
        ({"models": ["a", "b"], "tasks": list("abcdef"), "languages": ["x", "y"]}, ONE_FAMILY - {"language_intervals"}),
        ({"tasks": ["a", "b"], "languages": [f"language-{i:02d}" for i in range(12)]}, ONE_FAMILY - {"task_intervals"}),
    ],
    ids=["one task", "one language", "one cell", "six tasks", "twelve languages"],
)
def test_any_grid_is_drawn_or_left_out_with_a_reason(
    make_frame: FrameMaker, output: Path, shape: dict[str, list[str]], figures: set[str]
) -> None:
    found = analyze(make_frame(**shape), output, FAST)
    assert {path.stem for path in found.files if path.suffix == ".svg"} - MATRICES == figures
    assert len(found.left_out) >= len(set(FIGURES) - figures)
    page = found.report.read_text(encoding="utf-8")
    assert _Page(page).open == []
    for part in found.left_out:
        assert f"<strong>{part.part}</strong>: {escape(part.reason)}" in page
        assert str(part) == f"{part.part}: {part.reason}"


def test_figures_of_an_earlier_analysis_do_not_stay(make_frame: FrameMaker, output: Path) -> None:
    analyze(make_frame(), output, FAST)
    assert (output / "published" / "on_off_task.csv").exists()
    again = analyze(make_frame(tasks=["arc"], languages=["de", "en"]), output, FAST)
    assert {path.stem for path in (output / "published").iterdir()} == {
        path.stem for path in again.files if path.parent.name == "published"
    }
    assert not (output / "published" / "consistency.csv").exists()
    left = {path.stem for path in (output / "figures").iterdir()} - MATRICES
    assert left == CORRECTED | {"language_roles", "language_matrix"}


def test_a_partial_grid_is_drawn(frame: Frame, output: Path) -> None:
    some = frame.observations[frame.observations["source_language"] == "de"]
    found = analyze(replace(frame, observations=some), output, FAST)
    assert "Donor and recipient languages" in {part.part for part in found.left_out}


def test_variants_are_compared_and_not_mixed(make_frame: FrameMaker, output: Path) -> None:
    frame = make_frame(models=["a", "b"], seeds=(1, 2))
    half = frame.observations[frame.observations["seed"] == 1]
    both = pd.concat(
        [frame.observations.assign(variant="rank 32"), half.assign(variant="rank 64", delta=half["delta"] + 1)]
    )
    found = analyze(replace(frame, observations=both), output, FAST)
    alone = analyze(frame, output.with_name("alone"), FAST)
    pd.testing.assert_frame_equal(found.regimes, alone.regimes)
    table = pd.read_csv(output / "published" / "ablation.csv").set_index("regime")
    assert table[["variant", "against"]].drop_duplicates().to_numpy().tolist() == [["rank 32", "rank 64"]]
    means = frame.observations["delta"].mean() - (half["delta"].mean() + 1)
    weights = table.loc[["MT-ML", "transfer"], "n"]
    assert np.average(table.loc[weights.index, "mean_difference"], weights=weights) == pytest.approx(means)
    assert any("rank 32" in note for note in found.notes)


@pytest.mark.parametrize(("layer", "after"), [("corrected", "published"), ("published", "adapters")])
def test_each_layer_has_a_heading_and_a_file_for_every_table(page: str, layer: str, after: str) -> None:
    section = page[page.index(f'<h2 id="{layer}">') : page.index(f'<h2 id="{after}">')]
    anchors = re.findall(r'<li><a href="#([a-z-]+)">', section)
    assert len(anchors) > 4
    for anchor in anchors:
        assert f'<h3 id="{anchor}">' in section
    files = re.findall(r'<p class="small">(?:[\d,]+ more rows are in )?<a href="([a-z_/]+\.csv)">', section)
    assert len(re.findall(r"<caption>", section)) == len(files) > 5
    assert all(file.startswith("published/") == (layer == "published") for file in files)


def test_the_layers_are_told_apart(page: str) -> None:
    assert "plus model:source" in page[page.index('<h2 id="published">') :]
    assert page.index('<h2 id="corrected">') < page.index('<h2 id="published">')
    assert "ASSUMED, not measured" in page[page.index('id="cautions"') : page.index('<h2 id="headline">')]


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


def test_the_published_layer_alone(frame: Frame, small: Analysis, output: Path) -> None:
    found = analyze(frame, output, FAST, corrected=False)
    alone = {str(path.relative_to(output)) for path in found.files}
    assert alone < {str(path.relative_to(small.output)) for path in small.files}
    assert alone > {f"published/{name}.csv" for name in PUBLISHED - {"variance"}}
    pd.testing.assert_series_equal(found.regimes["mean"], small.regimes["mean"])
    assert found.regimes["harm_posterior_pct"].isna().all()
    page = found.report.read_text(encoding="utf-8")
    parsed = _Page(page)
    assert parsed.open == []
    assert {address[1:] for address in parsed.addresses if address.startswith("#")} <= set(parsed.ids)
    assert "The corrected layer was switched off" in page
    told = {part.part for part in found.left_out} - {part.part for part in small.left_out}
    assert told == {"Corrected statistics", "Variance decomposition"}
