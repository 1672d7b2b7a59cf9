"""The published groupings: size buckets, families of models, families of languages, kinds of test.

Which family a language has and how a task's items were made are facts, not results; what is not listed is unknown.
"""

from __future__ import annotations

import math

import pandas as pd

__all__ = [
    "BUCKETS",
    "CONSTRUCTION",
    "HUMAN",
    "MACHINE",
    "UNKNOWN",
    "constructions",
    "families",
    "language_family",
    "size_bucket",
    "size_buckets",
]

UNKNOWN = "unknown"

#: Size buckets, smallest first.
BUCKETS = ("S", "M", "L")

_LANGUAGE_FAMILIES = {
    "Romance": ("fr", "es", "pt", "it"),
    "Germanic": ("de", "en"),
    "Indic": ("hi", "bn"),
}

HUMAN, MACHINE = "human-translated", "machine-translated"

#: How the items of the paper's tasks came into other languages.
CONSTRUCTION = {"global_mmlu": HUMAN, "arc_challenge": MACHINE, "hellaswag": MACHINE, "truthfulqa": MACHINE}


def size_bucket(size_b: float) -> str:
    """Return S (up to 1.5), M or L (7 and more) for a size in billions of parameters; ``unknown`` for NaN."""
    if math.isnan(size_b):
        return UNKNOWN
    if size_b <= 1.5:
        return "S"
    return "L" if size_b >= 7 else "M"


def size_buckets(cells: pd.DataFrame) -> pd.Series:
    """Return the size bucket of every row's model."""
    sizes = pd.to_numeric(cells["model_size_b"])
    return sizes.map({size: size_bucket(size) for size in sizes.dropna().unique()}).astype(object).fillna(UNKNOWN)


def families(cells: pd.DataFrame) -> pd.Series:
    """Return the family of every row's model; ``unknown`` where none is recorded."""
    named = cells["model_family"].astype(object)
    return named.where(named.notna() & (named != ""), UNKNOWN)


def language_family(language: str) -> str:
    """Return the published family of a language; any other language, named or not in the paper, stands alone."""
    for family, members in _LANGUAGE_FAMILIES.items():
        if language in members:
            return family
    return language


def constructions(tasks: pd.Series) -> pd.Series:
    """Return for every task whether people or machines translated its items; ``unknown`` for tasks not in the paper."""
    return tasks.map(CONSTRUCTION).astype(object).fillna(UNKNOWN)
