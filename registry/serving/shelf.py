"""Registered adapters of one base, fetched when a request names them, the last ones kept in memory."""

from __future__ import annotations

import re
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from pydantic import TypeAdapter

from registry.benchmarks.prompts import Prompt
from registry.dataspec import Headline
from registry.loading import dtype_of
from registry.lora.adapter import Adapter, read_adapter
from registry.models import Base
from registry.refusal import Refused, unknown
from registry.study import CHAT_DATE, Quantization
from registry.tracking.adapters import RegisteredAdapter, download_adapter
from registry.tracking.names import Tag, headlines_of
from registry.yamltext import read_yaml

__all__ = ["InMemory", "Served", "Shelf", "Told", "read_told"]

_KEPT = 16  # adapters in memory; one of rank 32 for 8 billion parameters takes 0.3 GB
_NAMED = re.compile(r"(?P<name>[^/:@]{1,250})(?:/(?P<version>[0-9]{1,9})|@(?P<alias>[A-Za-z0-9_-]{1,255}))")
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the latter for an alias that nobody has


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


def read_told(folder: Path) -> Told:
    """Read the metadata of the ``MLmodel`` in an adapter's folder.

    Raises
    ------
    Refused
        If it is none that a study wrote.
    """
    _, content = read_yaml(folder / "MLmodel")
    try:
        told: dict[str, Any] = content["metadata"]
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
        raise Refused(f"{folder / 'MLmodel'} was not written by a study of this project ({told_of})") from None


class Shelf:
    """Finds adapters of a base by their registered names.

    Parameters
    ----------
    held : InMemory
        How the base lies in memory here; adapters trained on it held otherwise are refused.
    """

    def __init__(self, base: Base, held: InMemory) -> None:
        self._base, self._held = base, held
        self._kept: OrderedDict[str, Served] = OrderedDict()

    def find(self, named: str) -> Served:
        """Return an adapter named ``<model>/<version>`` or ``<model>@<alias>``, ``models:/`` before it or not.

        An alias is looked up every time, so that moving it takes effect at once.

        Raises
        ------
        Refused
            If there is no such adapter, or it belongs to another base.
        """
        parts = _NAMED.fullmatch(named.removeprefix("models:/"))
        if parts is None:
            raise Refused(
                f"adapter: {named[:100]!r} is no registered adapter; name it <model>/<version>, or <model>@<alias>"
            )
        key = f"{parts['name']}/{parts['version']}"
        if parts["version"] is None or key not in self._kept:
            version = self._version(named, parts)
            key = f"{version.name}/{version.version}"
            if key not in self._kept:
                self._kept[key] = self._fetch(key, version)
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]

    def _version(self, named: str, parts: re.Match[str]) -> ModelVersion:
        client = MlflowClient()
        try:
            if parts["alias"] is not None:
                return client.get_model_version_by_alias(parts["name"], parts["alias"])
            return client.get_model_version(parts["name"], parts["version"])
        except MlflowException as error:
            if error.error_code not in _ABSENT:
                raise
            raise self._absent(client, named, parts["name"]) from None

    def _absent(self, client: MlflowClient, named: str, name: str) -> Refused:
        filtered = f"tags.{Tag.BASE_MODEL} = '{self._base.name}'"
        models = [model.name for model in client.search_registered_models(filtered, max_results=1000)]
        if name not in models:
            return unknown("adapter", name, models, where="adapter")
        versions = sorted(int(version.version) for version in client.search_model_versions(f"name = '{name}'"))
        return Refused(f"adapter: there is no {named!r}; {name!r} has the versions {', '.join(map(str, versions))}")

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
