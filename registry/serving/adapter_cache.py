"""Registered adapters of one base model: downloaded when a request names them, the last ones kept in memory."""

from __future__ import annotations

import tempfile
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from registry.benchmarks.prompts import Prompt
from registry.errors import Refused
from registry.lora.adapter import Adapter, read_adapter
from registry.models.base import Base
from registry.serving.lookup import FRESH_SECONDS, RegistryLookup, VersionMarks, parse_address, version_marks
from registry.serving.metadata import WeightFormat, read_metadata
from registry.tracking.adapters import RegisteredAdapter, download_adapter
from registry.tracking.names import Tag

__all__ = ["AdapterCache", "ServableAdapter"]

_MOST = 16  # adapters in memory; one of rank 32 for 8 billion parameters takes 0.3 GB


@dataclass(frozen=True, slots=True)
class ServableAdapter:
    """An adapter and how questions are put to it; ``adapter`` is None for a whole model, which needs none."""

    name: str
    adapter: Adapter | None
    prompt: Prompt
    chat: bool
    day: date


@dataclass
class _Entry:
    """An adapter in memory, the marks of the version it was downloaded for, and when that was last looked up."""

    adapter: ServableAdapter
    marks: VersionMarks
    checked: float


class AdapterCache:
    """Finds adapters of a base model by their registered names.

    Those in memory are looked up again every few seconds, so that a version that was deleted or created again is not
    answered from memory. While the registry does not answer, they are.

    Parameters
    ----------
    weight_format : WeightFormat
        How the base model is held here; adapters that were trained on another format are refused.
    """

    def __init__(self, base: Base, weight_format: WeightFormat) -> None:
        self._base, self._format = base, weight_format
        self._lookup = RegistryLookup(base.name)
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._aliases: dict[str, str] = {}  # the version of each when the registry last answered
        self._first = ""

    def add(self, adapter: ServableAdapter, version: ModelVersion) -> None:
        """Add an adapter that is loaded already; it stays in memory until its version is gone."""
        self._first = adapter.name
        self._entries[adapter.name] = _Entry(adapter, version_marks(version), time.monotonic())

    def find(self, named: str) -> ServableAdapter:
        """Return an adapter named ``<model>/<version>`` or ``<model>@<alias>``, ``models:/`` before it or not.

        An alias is looked up every time, so that moving it takes effect at once.

        Raises
        ------
        Refused
            If there is no such adapter any more, or it belongs to another base.
        """
        address = parse_address(named)
        key = address.key if address.alias is None else self._aliases.get(address.key, "")
        entry = self._entries.get(key)
        if entry is not None and address.alias is None and time.monotonic() - entry.checked < FRESH_SECONDS:
            return self._use(key)
        try:
            version = self._lookup.version(named, address, patient=entry is None)
        except Refused:
            self._aliases.pop(address.key, None)
            if address.alias is None:
                self._entries.pop(key, None)
            raise
        if version is None:  # no answer
            return self._use(key)
        key = f"{version.name}/{version.version}"
        if address.alias is not None:
            self._aliases[address.key] = key
        marks, entry = version_marks(version), self._entries.get(key)
        if entry is None or entry.marks != marks:
            self._entries.pop(key, None)  # even if the download fails, the former is no longer what is registered
            self._entries[key] = _Entry(self._download(key, version), marks, 0.0)
        self._entries[key].checked = time.monotonic()
        return self._use(key)

    def _use(self, key: str) -> ServableAdapter:
        """Return an adapter in memory, and drop those that were used least recently."""
        self._entries.move_to_end(key)
        others = [name for name in self._entries if name != self._first]
        for name in others[: max(0, len(others) - _MOST)]:
            del self._entries[name]
        return self._entries[key].adapter

    def _download(self, key: str, version: ModelVersion) -> ServableAdapter:
        revision = version.tags.get(Tag.BASE_REVISION)
        if revision is None:
            raise Refused(f"adapter: {key} is not an adapter that was registered by a study")
        if revision != self._base.revision:
            raise Refused(
                f"adapter: {key} belongs to the base model {version.tags.get(Tag.BASE_MODEL)!r} ({revision}); "
                f"{self._base.name!r} ({self._base.revision}) is served here"
            )
        registered = RegisteredAdapter(version.name, str(version.version), "")
        with tempfile.TemporaryDirectory() as name:
            folder = download_adapter(MlflowClient(), registered, Path(name))
            metadata, adapter = read_metadata(folder), read_adapter(folder)
        trained = metadata.weight_format
        if trained != self._format:
            raise Refused(f"adapter: {key} was trained on {trained}; the base model is held in {self._format} here")
        metadata = metadata.evaluated(version.tags)
        return ServableAdapter(key, adapter, metadata.prompt, metadata.chat, metadata.day)
