"""Deltas of one grid drawn again and again: quick enough for hundreds of studies."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from tests.analysis.synthetic import synthetic_frame

from .simulation import EFFECTS


class Drawn:
    """A complete grid whose deltas can be drawn; ``frame`` has the columns of cells, without deltas worth a look."""

    def __init__(self, models: int, tasks: int, languages: int) -> None:
        self.frame = synthetic_frame(models, tasks, languages)
        self.tasks, self.languages = (sorted(self.frame[f"source_{part}"].unique()) for part in ("task", "language"))
        self._sizes = {"model": models, "source": tasks * languages, "target": tasks * languages}
        self._codes = {"model": pd.factorize(self.frame["model"], sort=True)[0]}
        for end in ("source", "target"):
            names = self.frame[f"{end}_task"] + "/" + self.frame[f"{end}_language"]
            self._codes[end] = pd.factorize(names, sort=True)[0]

    def delta(self, random: np.random.Generator, effects: Mapping[str, float] = EFFECTS) -> np.ndarray:
        """Draw deltas around 0, with variances (pp²) by component."""
        return self.with_truth(random, effects)[0]

    def with_truth(
        self, random: np.random.Generator, effects: Mapping[str, float] = EFFECTS
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Draw deltas; return the effects of sources and of targets too, (tasks, languages) each."""
        delta, truth = np.zeros(len(self.frame)), {}
        for name, variance in effects.items():
            factors = list(self._sizes) if name == "residual" else name.split(":")
            drawn = random.normal(0, np.sqrt(variance), [self._sizes[factor] for factor in factors])
            delta += drawn[tuple(self._codes[factor] for factor in factors)]
            if name in ("source", "target"):
                truth[name] = drawn.reshape(len(self.tasks), len(self.languages))
        return delta, truth
