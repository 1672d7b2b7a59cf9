"""What the fields of a study's sections have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema

__all__ = ["LONGEST_NAME", "STRICT", "Fraction", "Name", "Positive", "one_of"]

#: A section refuses keys it does not have.
STRICT = ConfigDict(extra="forbid")

LONGEST_NAME = 60

#: Of a study, a task, a language, a protocol or a projection; metrics and files are named after them.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=LONGEST_NAME)]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def one_of(registered: Mapping[str, object]) -> Any:
    """Return the type of a text that is a key of a registry, as it is when the text is read."""

    def check(given: str) -> str:
        if given not in registered:
            *others, last = map(repr, registered)
            raise ValueError(f"Input should be {', '.join(others)} or {last}")
        return given

    return Annotated[str, AfterValidator(check), WithJsonSchema({"type": "string", "enum": list(registered)})]
