"""The hub's data sets in small, for every test here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.benchmarks.hub_fixture import hub_folder

__all__ = ["hub_folder"]


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., str]:
    """Write a task's manifest in the published format, and return its folder."""

    def write(task: str, *rows: str) -> str:
        (tmp_path / f"{task}.csv").write_text("\n".join(("split,id", *rows, "")), encoding="utf-8")
        return str(tmp_path)

    return write
