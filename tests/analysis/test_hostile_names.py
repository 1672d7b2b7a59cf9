"""Whatever a study, its models, runs and store are called, the report has the elements it always has.

Names of tasks and languages are words by :class:`registry.cells.Cell`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from analysis.analysis import analyze
from analysis.published import PublishedOptions
from analysis.reading.frame import Frame
from tests.fuzz.conftest import tried

ATTACKS = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "--><svg/onload=alert(1)>", "]]><b>", "</style><p>",
    "</title><iframe>", '" onmouseover="alert(1)', "' autofocus onfocus='alert(1)", "{{ 7 * 7 }}", "{% raw %}",
    "$\\frac{", "$x$", "&lt;b&gt;", "&#60;b&#62;", "javascript:alert(1)", "%s%n", "\\", "a\nb", "\t", "\u202e",
    "\ufeff", "é", "中", "<!--", "<a href=//x>",
)  # fmt: skip
LETTERS = some.characters(codec="utf-8", exclude_categories=("Cs", "Cc"))
NAME = some.lists(some.sampled_from(ATTACKS) | some.text(LETTERS, max_size=6), min_size=1, max_size=3).map("".join)
NAMES = some.lists(NAME, min_size=8, max_size=8, unique=True)


class _Elements(HTMLParser):
    """Every kind of element of a page, by its name and the names of its attributes; and what it links to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.kinds: set[tuple[str, tuple[str, ...]]] = set()
        self.links: set[str] = set()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.kinds.add((tag, tuple(sorted(name for name, _ in attrs))))
        self.links |= {value or "" for name, value in attrs if name.endswith(("href", "src"))}


def page_of(make_frame, names: Sequence[str]) -> _Elements:
    study, family, *models, store, note, run, version = names
    made: Frame = make_frame(models=models, study=study, family=family, languages=["de", "en"], seeds=(1, 2))
    seen = made.observations
    seen = seen.assign(run_id=run + seen["run_id"], model_version=version, protocol=note)
    frame = replace(made, store=store, notes=(note,), observations=seen)
    with TemporaryDirectory() as folder:
        report = analyze(frame, Path(folder), PublishedOptions(mixed_models=False), corrected=False).report
        return _Elements(report.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def plain(make_frame) -> _Elements:
    return page_of(make_frame, list("abcdefgh"))


@pytest.mark.slow
@tried(30)
@given(NAMES)
@example(list(ATTACKS[:8]))
@example(list(ATTACKS[8:16]))
@example(list(ATTACKS[16:24]))
def test_names_never_become_elements(make_frame, plain: _Elements, names: list[str]) -> None:
    page = page_of(make_frame, names)
    assert page.kinds <= plain.kinds
    assert {link for link in page.links if link not in plain.links and not link.startswith("#")} == set()
