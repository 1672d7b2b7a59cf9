"""What the fields of a study's sections have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

__all__ = ["LONGEST_NAME", "STRICT", "Fraction", "Name", "Positive"]

#: A section refuses keys it does not have.
STRICT = ConfigDict(extra="forbid")

LONGEST_NAME = 60

#: Of a study, a task, a language, a protocol or a projection; metrics and files are named after them.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=LONGEST_NAME)]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
