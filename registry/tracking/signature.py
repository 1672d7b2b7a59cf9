"""What a served adapter is asked and what it answers, as MLflow's signature: table of a request, parameters, answer."""

from __future__ import annotations

from typing import Final

from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType, Array

__all__ = ["DEFAULTS", "FORMS", "SIGNATURE"]

#: The three forms of a request, by the columns that each needs: a question that is put into the adapter's own prompt;
#: a context and continuations that are scored as they stand; a prompt that is continued.
FORMS: Final = (("question", "options"), ("context", "continuations"), ("prompt",))

_LISTS = ("options", "continuations")

#: Parameters of a request and their defaults. ``adapter``: registered ``<model>/<version>`` or ``<model>@<alias>`` of
#: the same base, for rows whose column ``adapter`` names none; empty for the adapter that is served. ``chat_template``:
#: ``true`` or ``false``; empty for what the adapter was last evaluated with. The others are for prompts: tokens at
#: most, temperature (0 takes the likeliest token), and the seed of what is drawn.
DEFAULTS: Final[dict[str, str | int | float]] = {
    "adapter": "",
    "chat_template": "",
    "max_new_tokens": 64,
    "temperature": 0.0,
    "seed": 0,
}

_TYPES = {str: DataType.string, int: DataType.long, float: DataType.double}


def _column(name: str) -> ColSpec:
    # Lists of texts, but not said to MLflow: it would turn what is no text, null too, into one and have it scored.
    kind = AnyType() if name in _LISTS else DataType.string
    return ColSpec(kind, name, required=False)


#: Choices come with the probability and the log-likelihood (nats) of every option, a prompt with its ``text``.
SIGNATURE: Final = ModelSignature(
    inputs=Schema([_column(name) for form in (*FORMS, ("adapter",)) for name in form]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "choice", required=False),
            ColSpec(Array(DataType.double), "probabilities", required=False),
            ColSpec(Array(DataType.double), "loglikelihoods", required=False),
            ColSpec(DataType.string, "text", required=False),
            ColSpec(DataType.string, "adapter"),
        ]
    ),
    params=ParamSchema([ParamSpec(name, _TYPES[type(value)], value) for name, value in DEFAULTS.items()]),
)
