"""The hub's data sets in small, for every test here."""

from __future__ import annotations

from tests.benchmarks.hub_fixture import hub_folder

__all__ = ["hub_folder"]
