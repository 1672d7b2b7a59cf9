"""What an import holds, whatever it was read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from registry.tracking.chance import CHANCE_Q
from registry.tracking.columns import SOURCE, TARGET

__all__ = ["ImportedResults", "counts"]

_SHOWN = 5  # baselines that a warning names


@dataclass(frozen=True)
class ImportedResults:
    """Results as read, every check passed.

    Attributes
    ----------
    name
        Of the file they were read from, without its folder.
    format
        ``published`` or ``lm_eval``.
    digest
        SHA-256, in hexadecimal, of all that was read and of the settings that decide how.
    observations
        `registry.tracking.columns.STORED_COLUMNS`, one row per (model, source, target, seed), sorted by them.
    baselines
        `registry.tracking.columns.BASELINE_COLUMNS`, one row per (model, task, language).
    seed_averaged
        Whether a row is a mean over seeds.
    outcomes
        Folder that holds a file of every question's outcome per evaluation, under the names of
        `registry.tracking.names.outcomes_file`; None where the source has none.
    headlines
        Task → the accuracy that is its score, where the source has one for the whole task.
    notes
        Sentences that a reader of the results must know.
    """

    name: str
    format: str
    digest: str
    observations: pd.DataFrame
    baselines: pd.DataFrame
    seed_averaged: bool
    outcomes: Path | None = None
    notes: tuple[str, ...] = ()
    headlines: Mapping[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """Say in one line what was read."""
        found = counts(self.observations, self.baselines)
        return (
            f"{found['observations']:,} cells of {found['models']} models: {found['sources']} "
            f"sources on {found['targets']} targets, {found['baselines']} baselines"
        )

    def below_chance(self) -> str:
        """Say which bases answer significantly worse than guessing would, the furthest first; nothing if none does."""
        low = self.baselines[self.baselines["below_chance"]]
        if low.empty:
            return ""
        ranked = low.loc[(low["score"] - low["chance"]).sort_values(kind="stable").index[:_SHOWN]]
        named = [f"{row.model} on {row.task}/{row.language} ({row.score:.3f})" for row in ranked.itertuples()]
        more = f" and {len(low) - _SHOWN} more" if len(low) > _SHOWN else ""
        return (
            f"{len(low)} of {len(self.baselines)} baselines are below chance (exact one-sided tests, "
            f"q ≤ {CHANCE_Q:g}): {', '.join(named)}{more}; check these targets' data before trusting their deltas"
        )


def counts(observations: pd.DataFrame, baselines: pd.DataFrame) -> dict[str, int]:
    """Return how much an import holds, by what is counted."""

    def distinct(columns: Sequence[str]) -> int:
        return len(observations[list(columns)].drop_duplicates())

    return {
        "observations": len(observations),
        "models": distinct(["model"]),
        "sources": distinct(SOURCE),
        "targets": distinct(TARGET),
        "baselines": len(baselines),
        "below_chance": int(baselines["below_chance"].sum()),
    }
