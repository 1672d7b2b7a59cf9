"""Registered adapters of one base, fetched when a request names them, the last ones kept in memory."""

from __future__ import annotations

import tempfile
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from pydantic import TypeAdapter

from registry.benchmarks.prompts import Prompt
from registry.config.study import CHAT_DATE
from registry.config.types import Headline, Quantization
from registry.errors import Refused
from registry.lora.adapter import Adapter, read_adapter
from registry.models.base import Base
from registry.models.loading import dtype_of
from registry.serving.lookup import FRESH_SECONDS, Lookup, Marks, marks_of, read_name
from registry.tracking.adapters import RegisteredAdapter, download_adapter
from registry.tracking.folders import DESCRIPTION, read_description
from registry.tracking.names import Tag, headlines_of

__all__ = ["InMemory", "Served", "Shelf", "Told", "read_told"]

_KEPT = 16  # adapters in memory; one of rank 32 for 8 billion parameters takes 0.3 GB


@dataclass(frozen=True, slots=True)
class InMemory:
    """How a base lies in memory."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    quantization: Quantization | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights that are not quantised, and of what is computed."""
        return dtype_of(self.precision)

    def __str__(self) -> str:
        return f"{self.quantization} weights, {self.precision}" if self.quantization else f"{self.precision} weights"


@dataclass(frozen=True, slots=True)
class Told:
    """What an adapter's ``MLmodel`` tells of it, written when it was registered."""

    base: str
    revision: str
    prompt: Prompt
    chat: bool
    day: date
    precision: Literal["fp32", "bf16", "fp16"]
    quantization: Quantization | None

    def evaluated(self, tags: Mapping[str, str]) -> Told:
        """Return the same for a version as its tags say it was last evaluated: chat template, date, which accuracy.

        All are choices of a study that train no other adapter.
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


_TOLD = TypeAdapter(Told)


@dataclass(frozen=True, slots=True)
class Served:
    """An adapter and how it is asked; ``adapter`` is None for a whole model, which needs none."""

    name: str
    adapter: Adapter | None
    prompt: Prompt
    chat: bool
    day: date


def read_told(folder: Path, *, full: bool = False) -> Told:
    """Read the metadata of the ``MLmodel`` in the folder of an adapter, or of a ``full`` fine-tune.

    Raises
    ------
    Refused
        If it is none that a study wrote, or names code to load it with.
    """
    try:
        told = read_description(folder, full=full)
    except Refused as error:
        raise Refused(f"{folder}: {error}") from None
    try:
        Prompt(**told["prompt"])  # refuses a key that prompts do not have; what its values are is checked below
        return _TOLD.validate_python(
            {
                "base": told["base"]["name"],
                "revision": told["base"]["revision"],
                "prompt": told["prompt"],
                # Adapters registered before there was the choice were trained and scored in this way.
                "chat": told.get("chat_template", False),
                "day": told.get("chat_template_date", CHAT_DATE),
                "precision": told.get("precision", "fp32"),
                "quantization": told.get("quantization"),
            }
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        told_of = str(error).splitlines()[0][:200]
        raise Refused(f"{folder / DESCRIPTION} was not written by a study of this project ({told_of})") from None


@dataclass
class _Kept:
    """An adapter in memory, by what marks its version was fetched, and when the registry was last asked about it."""

    served: Served
    marks: Marks
    asked: float


class Shelf:
    """Finds adapters of a base by their registered names.

    Those in memory are looked up again every few seconds, so that a version that was deleted or made anew is not
    answered from memory. While the registry does not answer, they are.

    Parameters
    ----------
    held : InMemory
        How the base lies in memory here; adapters trained on it held otherwise are refused.
    """

    def __init__(self, base: Base, held: InMemory) -> None:
        self._base, self._held = base, held
        self._lookup = Lookup(base.name)
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._aliases: dict[str, str] = {}  # what each stood for when the registry last said it
        self._first = ""

    def add(self, served: Served, version: ModelVersion) -> None:
        """Put an adapter on the shelf that was loaded already; it stays there until its version is gone."""
        self._first = served.name
        self._kept[served.name] = _Kept(served, marks_of(version), time.monotonic())

    def find(self, named: str) -> Served:
        """Return an adapter named ``<model>/<version>`` or ``<model>@<alias>``, ``models:/`` before it or not.

        An alias is looked up every time, so that moving it takes effect at once.

        Raises
        ------
        Refused
            If there is no such adapter any more, or it belongs to another base.
        """
        parts = read_name(named)
        key = parts.key if parts.alias is None else self._aliases.get(parts.key, "")
        kept = self._kept.get(key)
        if kept is not None and parts.alias is None and time.monotonic() - kept.asked < FRESH_SECONDS:
            return self._used(key)
        try:
            version = self._lookup.version(named, parts, patient=kept is None)
        except Refused:
            self._aliases.pop(parts.key, None)
            if parts.alias is None:
                self._kept.pop(key, None)
            raise
        if version is None:  # no answer
            return self._used(key)
        key = f"{version.name}/{version.version}"
        if parts.alias is not None:
            self._aliases[parts.key] = key
        marks, kept = marks_of(version), self._kept.get(key)
        if kept is None or kept.marks != marks:
            self._kept.pop(key, None)  # whatever comes of the new one, the former is no longer what was registered
            self._kept[key] = _Kept(self._fetch(key, version), marks, 0.0)
        self._kept[key].asked = time.monotonic()
        return self._used(key)

    def _used(self, key: str) -> Served:
        """Return an adapter in memory, and let go of those that were not asked for the longest."""
        self._kept.move_to_end(key)
        others = [name for name in self._kept if name != self._first]
        for name in others[: max(0, len(others) - _KEPT)]:
            del self._kept[name]
        return self._kept[key].served

    def _fetch(self, key: str, version: ModelVersion) -> Served:
        revision = version.tags.get(Tag.BASE_REVISION)
        if revision is None:
            raise Refused(f"adapter: {key} is not an adapter that was registered by a study")
        if revision != self._base.revision:
            raise Refused(
                f"adapter: {key} belongs to the base {version.tags.get(Tag.BASE_MODEL)!r} ({revision}); "
                f"{self._base.name!r} ({self._base.revision}) is served here"
            )
        registered = RegisteredAdapter(version.name, str(version.version), "")
        with tempfile.TemporaryDirectory() as name:
            folder = download_adapter(MlflowClient(), registered, Path(name))
            told, adapter = read_told(folder), read_adapter(folder)
        trained = InMemory(told.precision, told.quantization)
        if trained != self._held:
            raise Refused(f"adapter: {key} was trained on {trained}; the base is held in {self._held} here")
        told = told.evaluated(version.tags)
        return Served(key, adapter, told.prompt, told.chat, told.day)
