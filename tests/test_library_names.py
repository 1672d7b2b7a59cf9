"""The project uses only public names of other people's libraries, so that an upgrade cannot break it without notice."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
OWN = {"registry", "analysis", "entrypoints", "tests"}
SOURCES = sorted(path for part in OWN - {"tests"} for path in (PROJECT / part).rglob("*.py"))
TESTS = sorted((PROJECT / "tests").rglob("*.py"))

#: What transformers and accelerate offer no public way for; ``tests/lora/test_internals.py`` tries each.
INTERNALS = PROJECT / "registry" / "lora" / "internals.py"

#: Functions that take a name as a text.
BY_TEXT = ("getattr", "setattr", "hasattr", "delattr", "attrgetter")

#: Methods and fields of named tuples, which Python documents as public.
NAMED_TUPLES = {"_asdict", "_fields", "_make", "_replace"}

#: Private names that tests alone use: of argparse, huggingface_hub, lm_eval and torch.
IN_TESTS = {
    "_actions",
    "_hf_api", "_http", "_tree_cache", "_IN_MEMORY_TREE_CACHE",
    "_encode_pair",
    "_cdata", "_forward_hooks", "_post_accumulate_grad_hooks",
}  # fmt: skip


def library(name: str) -> bool:
    root = name.partition(".")[0]
    return bool(root) and root not in OWN and root not in sys.stdlib_module_names


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def imported(tree: ast.AST) -> Iterator[str]:
    """Names that a module imports from libraries, and what it then reads of those by their dotted names."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [one for one in node.names if library(one.name)]
            known |= {one.asname or root: one.name if one.asname else root
                      for one in names for root in (one.name.partition(".")[0],)}  # fmt: skip
            yield from (one.name for one in names)
        elif isinstance(node, ast.ImportFrom) and not node.level and library(str(node.module)):
            known |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
            yield from (f"{node.module}.{one.name}" for one in node.names)
    for node in ast.walk(tree):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if parts and isinstance(node, ast.Name) and node.id in known:
            yield ".".join([known[node.id], *reversed(parts)])


def attributes(tree: ast.AST) -> Iterator[str]:
    """Names that a module reads of objects other than ``self`` and ``cls``, also by ``getattr`` and its like."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if getattr(node.value, "id", "") not in ("self", "cls"):
                yield node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in BY_TEXT:
            texts = (one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str))
            yield from (part for text in texts for part in text.split("."))


def defined(tree: ast.AST) -> Iterator[str]:
    """Private names that a module of ours defines: functions, classes, variables, fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.asname or node.name
        elif isinstance(node, ast.arg):
            yield node.arg


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in (*SOURCES, *TESTS)}


def private_names(paths: list[Path], allowed: set[str]) -> list[str]:
    found = []
    for path in paths:
        names = {name for name in imported(TREES[path]) if is_private(name)}
        names |= {name for name in attributes(TREES[path]) if is_private(name) and name not in allowed}
        found += [f"{path.relative_to(PROJECT)}: {name}" for name in sorted(names)]
    return found


def test_the_project_imports_from_libraries_at_all() -> None:
    names = {name for path in SOURCES for name in imported(TREES[path])}
    assert {"mlflow.MlflowClient", "torch.no_grad", "pandas.DataFrame"} <= names
    assert len(names) > 300


def test_no_private_name_of_a_library_is_used() -> None:
    own = {name for path in SOURCES for name in defined(TREES[path])}
    assert private_names([path for path in SOURCES if path != INTERNALS], own | NAMED_TUPLES) == []


def test_what_has_no_public_way_is_in_one_module() -> None:
    assert private_names([INTERNALS], set()) == [
        "registry/lora/internals.py: _attn_implementation",
        "registry/lora/internals.py: _hf_hook",
    ]


def test_tests_use_no_private_name_of_mlflow() -> None:
    own = {name for tree in TREES.values() for name in defined(tree)}
    found = private_names(TESTS, own | NAMED_TUPLES | IN_TESTS)
    assert [name for name in found if not re.search(": (huggingface_hub|lm_eval|torch)[.]", name)] == []
