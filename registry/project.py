"""The project's folder, and paths that start at it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["PROJECT", "located"]

PROJECT = Path(__file__).resolve().parent.parent


def located(path: str) -> Path:
    """Return where a study file's path points: a relative one starts at the project's folder, not at the caller's."""
    return PROJECT / Path(path).expanduser()
