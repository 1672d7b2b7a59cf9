"""Folders in the user's cache that belong to this project."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["checkpoint", "user_cache"]


def user_cache() -> Path:
    """Return the project's folder in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "donors-recipients"


def checkpoint(fingerprint: str) -> Path:
    """Return the file that keeps the finished epochs of a long training, by its fingerprint, on this machine."""
    return user_cache() / "training" / f"{fingerprint}.safetensors"
