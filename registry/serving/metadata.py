"""What is recorded of an adapter in its folder's ``MLmodel``: base model, prompt, and how it was trained and scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from pydantic import TypeAdapter

from registry.benchmarks.prompts import Prompt
from registry.config.study import CHAT_DATE
from registry.config.types import Headline, Quantization
from registry.errors import Refused
from registry.models.loading import dtype_of
from registry.tracking.folders import DESCRIPTION, read_description
from registry.tracking.names import Tag, headlines_of

__all__ = ["AdapterMetadata", "WeightFormat", "read_metadata"]


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How the weights of a base model are held in memory."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    quantization: Quantization | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights that are not quantized, and of computations."""
        return dtype_of(self.precision)

    def __str__(self) -> str:
        return f"{self.quantization} weights, {self.precision}" if self.quantization else f"{self.precision} weights"


@dataclass(frozen=True, slots=True)
class AdapterMetadata:
    """Metadata that was written to an adapter's ``MLmodel`` when it was registered."""

    base: str
    revision: str
    prompt: Prompt
    chat: bool
    day: date
    precision: Literal["fp32", "bf16", "fp16"]
    quantization: Quantization | None

    @property
    def weight_format(self) -> WeightFormat:
        """How the base model was held when the adapter was trained."""
        return WeightFormat(self.precision, self.quantization)

    def evaluated(self, tags: Mapping[str, str]) -> AdapterMetadata:
        """Return the metadata with a version's tags from its last evaluation: chat template, date, which accuracy.

        A study may choose them differently without training another adapter.
        """
        chat, day = tags.get(Tag.CHAT_TEMPLATE), tags.get(Tag.CHAT_DATE)
        headline, prompt = headlines_of(tags).get(tags.get(Tag.SOURCE_TASK, "")), self.prompt
        if headline in get_args(Headline):
            prompt = replace(prompt, headline=cast(Headline, headline))
        return replace(
            self,
            prompt=prompt,
            chat=self.chat if chat is None else chat == "True",
            day=self.day if day is None else date.fromisoformat(day),
        )


_METADATA = TypeAdapter(AdapterMetadata)


def read_metadata(folder: Path, *, full: bool = False) -> AdapterMetadata:
    """Read the metadata of the ``MLmodel`` in the folder of an adapter, or of a ``full`` fine-tune.

    Raises
    ------
    Refused
        If no study wrote it, or it names code to load it with.
    """
    try:
        content = read_description(folder, full=full)
    except Refused as error:
        raise Refused(f"{folder}: {error}") from None
    try:
        Prompt(**content["prompt"])  # refuses a key that prompts do not have; its values are validated below
        return _METADATA.validate_python(
            {
                "base": content["base"]["name"],
                "revision": content["base"]["revision"],
                "prompt": content["prompt"],
                # Adapters registered before there was the choice were trained and scored in this way.
                "chat": content.get("chat_template", False),
                "day": content.get("chat_template_date", CHAT_DATE),
                "precision": content.get("precision", "fp32"),
                "quantization": content.get("quantization"),
            }
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise Refused(f"{folder / DESCRIPTION} was not written by a study of this project ({reason})") from None
