"""What the fields of a study's sections have in common, and the values that some of them are chosen from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema

__all__ = [
    "LONGEST_NAME",
    "STRICT",
    "Fraction",
    "Headline",
    "Name",
    "Placement",
    "Positive",
    "Quantization",
    "Quoting",
    "one_of",
]

#: A section refuses keys it does not have.
STRICT = ConfigDict(extra="forbid")

LONGEST_NAME = 60

#: Of a study, a task, a language, a protocol or a projection; metrics and files are named after them.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=LONGEST_NAME)]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

#: Where a base model's weights are; see :class:`registry.config.study.Study`.
Placement = Literal["one", "spread"]

#: Bits per weight of a base model's projections, where fewer than its precision has; see there.
Quantization = Literal["8bit", "4bit"]

#: Which accuracy is a task's score: of the options' log-likelihoods as they are, or divided by lengths in characters.
Headline = Literal["acc", "acc_norm"]

#: How quotes in a table of separated fields are read; see :class:`registry.config.data.FilesTask`.
Quoting = Literal["minimal", "none"]


def one_of(registered: Mapping[str, object]) -> Any:
    """Return the type of a text that is a key of a registry, as it is when the text is read."""

    def check(given: str) -> str:
        if given not in registered:
            *others, last = map(repr, registered)
            raise ValueError(f"Input should be {', '.join(others)} or {last}")
        return given

    return Annotated[str, AfterValidator(check), WithJsonSchema({"type": "string", "enum": list(registered)})]
