"""What was run, in the words of the report's first table."""

from __future__ import annotations

import pandas as pd

from analysis.frame import Frame
from analysis.numerals import counted
from analysis.origin import Origin
from registry.tracking.columns import SOURCE, TARGET

__all__ = ["adapter_count", "facts"]


def facts(frame: Frame, origin: Origin) -> list[tuple[str, str]]:
    """Say what was run, as pairs of a term and its value."""
    seen = frame.observations
    models = seen[["model", "model_size_b"]].drop_duplicates().sort_values(["model_size_b", "model"])["model"]
    models = models.drop_duplicates()
    tasks = sorted({*seen["source_task"], *seen["target_task"]})
    languages = sorted({*seen["source_language"], *seen["target_language"]})
    targets, sources = seen[TARGET].drop_duplicates(), seen[SOURCE].drop_duplicates()
    grid = f"from {counted(len(sources), 'source cell')}, on {counted(len(targets), 'target cell')}"
    found = [
        ("Study", frame.study),
        ("Protocol", ", ".join(sorted({name or "not recorded" for name in seen["protocol"]}))),
        (counted(len(models), "base model"), ", ".join(models)),
        (counted(len(tasks), "task"), ", ".join(tasks)),
        (counted(len(languages), "language"), ", ".join(languages)),
        _seeds(frame),
        *_scores(frame),
        ("Adapters", f"{adapter_count(frame):,}, {grid}"),
    ]
    if origin.recipe:
        found.append(("Recipe", ", ".join(f"{name} {value}" for name, value in origin.recipe.items())))
    return [*found, ("Store", frame.store)]


def _scores(frame: Frame) -> list[tuple[str, str]]:
    """Say which accuracy is the score of each task, where the runs say it."""
    tasks: dict[str, list[str]] = {}
    for task, name in sorted(frame.headlines.items()):
        tasks.setdefault(name, []).append(task)
    shown = (name if len(tasks) == 1 else f"{name} ({', '.join(those)})" for name, those in sorted(tasks.items()))
    return [("Score", ", ".join(shown))] if tasks else []


def adapter_count(frame: Frame) -> int:
    """Return how many adapters were evaluated: distinct (model, source, seed)."""
    key = ["model", *SOURCE]
    if frame.seed_averaged:
        return int(frame.observations.groupby(key)["n_seeds"].max().sum())
    return len(frame.observations[[*key, "seed"]].drop_duplicates())


def _seeds(frame: Frame) -> tuple[str, str]:
    """Name the seeds, or say how many there were where only their mean is known."""
    if frame.seed_averaged:
        numbers = pd.Series(frame.observations["n_seeds"]).astype(int)
        most = f"{numbers.min()} to {numbers.max()}" if numbers.min() < numbers.max() else str(numbers.max())
        return ("Seeds", f"{most} per adapter, averaged before the import")
    seeds = sorted(frame.observations["seed"].unique())
    return (counted(len(seeds), "seed"), ", ".join(map(str, seeds)))
