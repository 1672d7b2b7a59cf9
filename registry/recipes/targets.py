"""Which layers of a base model an adapter goes on: those that a study names exist, and the usual ones reach most."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from registry.config.study import ALL_LINEAR, LoraSpec
from registry.errors import Refused
from registry.models.projections import MatchedModules, matched_modules

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["check_targets", "coverage", "few_reached", "match_targets"]

_log = logging.getLogger(__name__)

_MOST = 0.95  # share of the weights from which on the usual targets reach what they are meant to


def match_targets(model: PreTrainedModel, spec: LoraSpec, base: str) -> MatchedModules:
    """Match the targets of a study to the layers of a base model.

    Raises
    ------
    Refused
        As :func:`check_targets`.
    """
    matched = matched_modules(model, spec.targets)
    check_targets(matched, spec, base)
    if warning := few_reached(matched, spec):
        _log.warning("%s: %s", base, warning)
    return matched


def check_targets(matched: MatchedModules, spec: LoraSpec, base: str) -> None:
    """Refuse targets that a study names and a base does not have; of the usual ones, to have none of them.

    Raises
    ------
    Refused
        With those that it has.
    """
    usual = spec.targets == LoraSpec().targets
    if not matched.absent or (usual and len(matched.absent) < len(matched.counts)):
        return
    lacking = "none of the usual targets" if usual else f"no {', '.join(matched.absent)}"
    raise Refused(
        f"recipe.lora.targets: base {base!r} has {lacking} among its linear layers; it has "
        f"{', '.join(matched.offered)}. Name some of these, or [{ALL_LINEAR[0]}]"
    )


def few_reached(matched: MatchedModules, spec: LoraSpec) -> str:
    """Say that the usual targets reach less of a base than they are meant to; empty where they do not."""
    if spec.targets != LoraSpec().targets or (matched.share >= _MOST and not matched.absent):
        return ""
    said = f"the usual recipe.lora.targets reach {matched.share:.0%} of the weights"
    if matched.absent:
        said += f" ({', '.join(matched.absent)} match nothing)"
    if matched.linear_share > matched.share:
        said += f"; for {matched.linear_share:.0%} set targets: [{', '.join(matched.offered)}], or [{ALL_LINEAR[0]}]"
    if matched.linear_share < _MOST:
        said += f"; the other {1 - matched.linear_share:.0%} are in no linear layer, and no adapter here reaches them"
    return said


def coverage(found: Mapping[str, MatchedModules | None]) -> list[str]:
    """Say which layers of each base an adapter goes on, a line for all bases of which the same is true."""
    alike: dict[tuple[str, tuple[str, ...]], dict[str, MatchedModules]] = {}
    for base, matched in found.items():
        if matched is not None:
            names = tuple(name for name, count in matched.counts.items() if count)
            alike.setdefault((f"{matched.share:.0%}", names), {})[base] = matched
    lines = []
    for (share, names), bases in alike.items():
        one, matched = next(iter(bases.items()))
        several = len(bases) > 1
        listed = ", ".join(name if several else f"{name} ×{matched.counts[name]}" for name in names)
        whose = f"each of {len(bases)} bases" if several else one
        lines.append(f"  adapts        {share} of the weights in the layers of {whose}: {listed}")
    return lines
