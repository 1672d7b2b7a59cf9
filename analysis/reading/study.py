"""A study in a tracking store, for everything in `analysis` that needs its data and holds no client of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mlflow import MlflowClient

from analysis.reading.cache import cache_folder, retried
from analysis.reading.frame import Frame, load
from analysis.reading.outcomes import StoredOutcomes, stored_outcomes
from registry.tracking.store import experiment_id

__all__ = ["StudyStore"]

_Found = TypeVar("_Found")

#: Parameters of a run that say how adapters were trained, and what the report calls them.
_RECIPE = {
    "lora.rank": "LoRA rank",
    "lora.alpha": "alpha",
    "lora.dropout": "dropout",
    "lora.targets": "on",
    "learning_rate": "learning rate",
    "epochs": "epochs",
    "batch_size": "batch size",
    "warmup": "warm-up",
    "weight_decay": "weight decay",
    "max_length": "tokens at most",
    "precision": "precision",
    "quantization": "quantisation",
}


@dataclass(frozen=True)
class StudyStore:
    """One study of a tracking store.

    Attributes
    ----------
    client
        Of the store.
    name
        The study.
    cache
        Root of the folders that keep what was read on this machine, such as `analysis.reading.cache.cache_root()`;
        None keeps nothing.
    """

    client: MlflowClient
    name: str
    cache: Path | None = None

    @property
    def folder(self) -> Path | None:
        """The folder that caches this study, None without a cache."""
        if self.cache is None:
            return None
        return cache_folder(self.cache, self.client.tracking_uri, experiment_id(self.client, self.name))

    def frame(self) -> Frame:
        """Read the study, see `analysis.reading.frame.load`."""
        return load(self.client, self.name, cache=self.cache)

    def frame_and_outcomes(self, *, tolerant: bool = False) -> tuple[Frame, StoredOutcomes]:
        """Read the study and the outcomes of its questions.

        Raises
        ------
        InconsistentRunError
            If they contradict each other.
        """

        def read(frame: Frame) -> tuple[Frame, StoredOutcomes]:
            return frame, stored_outcomes(self.client, frame, cache=self.cache, tolerant=tolerant)

        return self.retried(self.frame(), read)

    def outcomes(self, frame: Frame, *, cached: bool = True) -> StoredOutcomes:
        """Read the outcomes of a frame; a part of the study's frame is not cached, which would drop the other runs."""
        return stored_outcomes(self.client, frame, cache=self.cache if cached else None)

    def retried(self, frame: Frame, read: Callable[[Frame], _Found]) -> _Found:
        """Call a function with a frame and, if what was cached contradicts itself, with one read from the store."""
        frames = [frame]
        return retried(lambda: read(frames.pop() if frames else self.frame()), self.client, self.name, cache=self.cache)

    def recipe(self, frame: Frame) -> Mapping[str, str]:
        """Return how the adapters were trained, by one run of every base model; what differs has all its values."""
        runs = frame.observations.groupby("model")["run_id"].first()
        params = [self.client.get_run(str(run_id)).data.params for run_id in dict.fromkeys(runs)]
        found = {}
        for name, words in _RECIPE.items():
            values = dict.fromkeys(str(one[name]) for one in params if one.get(name, "None") != "None")
            if values:
                found[words] = " or ".join(value.replace(",", " ") for value in values)
        return found
