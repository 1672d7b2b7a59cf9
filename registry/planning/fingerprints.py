"""What earlier versions computed differently, so that results recorded then do not count as the same.

Fingerprints hold what decides a result. Where earlier versions computed a base wrongly, the right way is a part of its
fingerprints now; those of all other bases stay as they were, and their results are found again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from registry.config.study import Recipe
from registry.models.architecture import rope_switches
from registry.models.base import Base

if TYPE_CHECKING:
    from transformers import PreTrainedConfig
import dataclasses
import hashlib
import json

from registry.lora import ENGINE

__all__ = ["changed_dropout", "changed_scoring", "changed_training", "fingerprint"]

#: Limit that was assumed where config.json itself states no ``max_position_embeddings``.
_ASSUMED = 2048

#: Architectures that attend several times in a layer; behind a shared beginning only the last was kept.
_SEVERAL_CALLS = ("diffllama",)


def changed_scoring(base: Base, config: PreTrainedConfig) -> dict[str, Any]:
    """Return what decides a base's scores and was not so before; empty for most bases."""
    changes: dict[str, Any] = {}
    if _former_limit(base) != base.max_positions:
        changes["longest_input"] = base.max_positions
    if switches := [switch for switch in rope_switches(config) if switch < base.max_positions]:
        changes["rope_switches"] = switches
    if config.model_type in _SEVERAL_CALLS:
        changes["attention"] = "by call"
    return changes


def changed_training(base: Base, config: PreTrainedConfig, lengths: Iterable[int]) -> dict[str, Any]:
    """Return what decides a training on texts of at most ``lengths`` tokens and was not so before."""
    changes: dict[str, Any] = {}
    longest = max(lengths)
    if min(longest, _former_limit(base)) != min(longest, base.max_positions):
        changes["longest_input"] = base.max_positions
    if switches := [switch for switch in rope_switches(config) if switch < min(longest, base.max_positions)]:
        changes["rope_switches"] = switches
    return changes


def changed_dropout(recipe: Recipe) -> dict[str, Any]:
    """Return how an adapter's dropout is drawn; earlier versions drew it from Python's ``hash``."""
    return {"dropout_draws": "seed_sequence"} if recipe.method == "lora" and recipe.lora.dropout else {}


def _former_limit(base: Base) -> int:
    """Return the longest input as earlier versions took it from config.json alone."""
    from transformers import PreTrainedConfig

    stated, _ = PreTrainedConfig.get_config_dict(base.location, revision=base.hub_revision)
    limit = stated.get("text_config", stated).get("max_position_embeddings", _ASSUMED)
    return int(limit)


# --- fingerprints: what decides a result, hashed, so that a recorded result is reused and never computed again


def fingerprint(kind: str, **parts: Any) -> str:
    """SHA-256, in hexadecimal, over the engine's version and everything named, dataclasses by their fields."""
    content = {"kind": kind, "engine": ENGINE, **parts}
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, default=dataclasses.asdict)
    return hashlib.sha256(text.encode()).hexdigest()
