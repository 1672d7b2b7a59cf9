"""What a search looks for, as a study file and the command say it; light, so that a mistake is told at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from registry.refusal import Refused, unknown
from registry.study import Study
from registry.studymistakes import worded
from registry.tunespec import TuneSpec

__all__ = ["OBJECTIVES", "spec_of"]

#: Objective → the direction in which Optuna goes.
OBJECTIVES = {"validation_loss": "minimize", "transfer": "maximize"}


def spec_of(study: Study, **given: Any) -> TuneSpec:
    """Return a study's ``tune`` section, what was given beside it (None meaning not given) taking its place.

    Raises
    ------
    Refused
        If a value is out of its range, or there is no such objective; worded as for a study file.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    if chosen.get("objective", "transfer") not in OBJECTIVES:
        raise unknown("objective", chosen["objective"], OBJECTIVES)
    try:
        return replace(study.tune or TuneSpec(), **chosen)
    except ValidationError as error:
        raise Refused("\n".join(f"tune.{found['loc'][0]}: {worded(found)}" for found in error.errors())) from None
