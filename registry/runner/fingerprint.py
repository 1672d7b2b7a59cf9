"""Fingerprints: what decides a result, hashed, so that a recorded result is reused and never computed again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from registry.lora import ENGINE

__all__ = ["fingerprint"]


def fingerprint(kind: str, **parts: Any) -> str:
    """SHA-256, in hexadecimal, over the engine's version and everything named, dataclasses by their fields."""
    content = {"kind": kind, "engine": ENGINE, **parts}
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, default=dataclasses.asdict)
    return hashlib.sha256(text.encode()).hexdigest()
