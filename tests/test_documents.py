"""The documents: their links lead somewhere, and the files that they name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
DOCUMENTS = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]
#: Described already and still to be merged; to be empty.
COMING = {
    "entrypoints/commands.py",
    "registry/benchmarks/kinds.py",
    "registry/evaluation/asking.py",
    "registry/recipes/",
    "registry/recipes/maker.py",
    "registry/recipes/train_lora.py",
    "registry/runner/pool.py",
    "registry/sources.py",
    "registry/tracking/metric_names.py",
}
NAMED = re.compile(r"`((?:registry|analysis|entrypoints|tests|docs|requirements)/[\w./-]*)`")


def anchors(text: str) -> set[str]:
    """Return the addresses of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for address in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in address:
            file, _, anchor = address.partition("#")
            target = document.parent / file if file else document
            assert target.exists(), address
            assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), address


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_are_there(document: Path) -> None:
    named = set(NAMED.findall(document.read_text(encoding="utf-8")))
    assert [name for name in sorted(named) if name not in COMING and not (PROJECT / name).exists()] == []


def test_the_readme_fits_one_page() -> None:
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
