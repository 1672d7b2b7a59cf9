"""How hard hostile input is tried: a few hundred cases by default, over ten thousand with the slow tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

_CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


def tried(cases: int) -> Callable[[Any], Any]:
    """Return what a test is decorated with to be given so many cases, the same ones every time."""
    return settings(max_examples=cases, deadline=None, derandomize=True, database=None, suppress_health_check=_CHECKS)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Path]:
    """A folder to work in, beside which nothing may appear and whose witness may not change."""
    inside = tmp_path / "inside"
    inside.mkdir()
    witness = tmp_path / "witness"
    witness.write_text("untouched")
    yield inside
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside", "witness"]
    assert witness.read_text() == "untouched"
