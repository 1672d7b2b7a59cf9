"""Who may import whom: each part keeps to its own, and nothing goes in circles."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
FILES = {
    ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): path
    for part in ("registry", "analysis", "entrypoints")
    for path in sorted((PROJECT / part).rglob("*.py"))
}


def imported(name: str, *, at_once: bool = False) -> set[str]:
    """Modules that a module imports, anywhere or ``at_once``: when it is itself imported."""
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {full if full in FILES else str(node.module) for full in names}
    return found


def within(name: str, *parts: str) -> bool:
    return any(f"{name}.".startswith(f"{part}.") for part in parts)


#: Who never imports whom; docs/architecture.md draws it.
RULES = {
    "registry": ("analysis", "entrypoints"),
    "analysis": ("entrypoints",),
    "registry.cells": ("registry.paths", "registry.config", "registry.tracking", "mlflow", "torch"),
    "registry.errors": ("registry",),
    "registry.paths": ("registry",),
    "registry.config": (
        "registry.runner",
        "registry.planning",
        "registry.lora",
        "torch",
        "mlflow",
    ),
    "registry.lora": ("mlflow", "registry.tracking", "registry.runner", "registry.planning"),
    "registry.tracking": ("torch", "transformers", "peft", "registry.lora", "registry.runner", "registry.planning"),
    "registry.evaluation": ("torch", "transformers", "registry.lora", "registry.runner"),
    "registry.planning": ("registry.runner", "registry.deploy", "registry.serving"),
    "registry.cards": ("registry.deploy", "registry.runner", "registry.serving"),
    "registry.benchmarks": ("mlflow", "registry.tracking", "registry.runner", "registry.planning", "registry.lora"),
    "registry.deploy": ("registry.runner", "registry.planning", "registry.serving"),
    "registry.serving": ("registry.runner", "registry.planning", "registry.deploy"),
    "registry.imports": ("torch", "transformers", "registry.runner", "registry.planning", "registry.lora"),
}
#: The rooms of the registry that an analysis knows: its words and what is recorded.
KNOWN = ("cells", "errors", "files", "paths", "sources", "tracking")


@pytest.mark.parametrize("part", RULES)
def test_a_part_never_imports_what_is_not_its_own(part: str) -> None:
    modules = [name for name in FILES if within(name, part)]
    assert modules
    found = [(name, other) for name in modules for other in imported(name) if within(other, *RULES[part])]
    assert [(name, other) for name, other in found if not within(other, part)] == []


def test_analysis_knows_of_the_registry_its_words_and_what_is_recorded() -> None:
    found = {(name, other) for name in FILES if within(name, "analysis") for other in imported(name)}
    known = [f"registry.{name}" for name in KNOWN]
    assert [pair for pair in found if within(pair[1], "registry") and not within(pair[1], *known)] == []


#: Outside `analysis.reading`: what writes the run of an analysis.
WRITES = ("analysis.record",)


def test_only_the_reading_room_of_analysis_talks_to_a_server() -> None:
    others = [name for name in FILES if within(name, "analysis") and not within(name, "analysis.reading", *WRITES)]
    assert [name for name in others if any(within(other, "mlflow") for other in imported(name))] == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    TopologicalSorter({name: imported(name, at_once=True) for name in FILES}).prepare()
