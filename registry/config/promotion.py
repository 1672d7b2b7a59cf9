"""What an adapter must show before it carries an alias: the ``promotion`` section of a study file."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from registry.cells import PATTERN
from registry.config.types import STRICT

__all__ = ["BEST", "PromotionPolicy", "check_aliases"]

#: Policy of every alias ``best-<task>-<language>``; what it wants is the target that the alias names.
BEST = "best"

# MLflow's own rule, and "latest", "v1" and "1", which it or our addresses read as something else.
_ALIAS = re.compile(r"(?!latest$|v?\d+$)[A-Za-z0-9_-]{1,60}")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PromotionPolicy:
    """What a version must show to carry one alias.

    In any case it must have been evaluated on every target of the study, and its weights must be intact.

    Attributes
    ----------
    want
        Targets ``task/language`` that must gain; ``*`` in place of either name stands for all, as in ``kind/*``.
    protect
        Targets, written likewise, that must not be harmed. A target that is in both lists counts as wanted.
    min_gain
        Percentage points that every wanted target must have gained.
    gain_by
        What must reach ``min_gain``: ``delta`` as measured; ``low``, the lower end of its 95% interval; or
        ``shrunken``, the estimate of the source's true effect over all seeds.
    harm_q
        A protected target counts as harmed if its delta is negative and its p, adjusted by Benjamini and Hochberg over
        the protected targets, is below this.
    """

    want: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    min_gain: Annotated[float, Field(ge=-100, le=100)] = 0.0
    gain_by: Literal["delta", "low", "shrunken"] = "delta"
    harm_q: Annotated[float, Field(gt=0, lt=1)] = 0.05

    def __post_init__(self) -> None:
        for name in ("want", "protect"):
            for pattern in getattr(self, name):
                if not PATTERN.fullmatch(pattern):
                    raise ValueError(
                        f"{name}: {pattern!r} is no target: write task/language, such as kind/tr or kind/*"
                    )


def check_aliases(policies: dict[str, PromotionPolicy]) -> None:
    """Refuse names that no alias can have, and policies that ask for nothing.

    Raises
    ------
    ValueError
        With the name of the policy.
    """
    for alias, policy in policies.items():
        if not _ALIAS.fullmatch(alias):
            raise ValueError(
                f"promotion.{alias}: an alias is up to 60 letters, digits, '_' and '-', and not latest or a version"
            )
        if alias == BEST and policy.want:
            raise ValueError(f"promotion.{BEST}: wants the target that the alias names; leave want out")
        if alias != BEST and not (policy.want or policy.protect):
            raise ValueError(f"promotion.{alias}: asks for nothing; name targets to want or to protect")
