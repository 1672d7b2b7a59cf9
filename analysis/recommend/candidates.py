"""Which sources there are to choose from for a base: trained on it, on other bases, or on none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.observations import cell_names
from registry.cells import Cell

__all__ = ["MEASURED", "NEW", "OTHER_BASES", "PARTLY", "Candidate", "candidates"]

#: What an expectation rests on.
MEASURED, PARTLY = "measured", "partly measured"
OTHER_BASES, NEW = "predicted from other bases", "predicted, trained on no base"


@dataclass(frozen=True)
class Candidate:
    """A source cell; ``versions`` are its registered adapters of the base, as ``name/version``."""

    source: Cell
    basis: str
    versions: tuple[str, ...]


def candidates(
    cells: pd.DataFrame, observations: pd.DataFrame, *, model: str, targets: Sequence[Cell]
) -> list[Candidate]:
    """Return every source of a study, and every target as a source that may be trained.

    Parameters
    ----------
    cells
        Of all bases.
    observations
        Of all bases, for the versions that were measured.
    targets
        Those that are asked for; a source is ``measured`` if all of them were.
    """
    sources, of_targets = cell_names(cells, "source"), cell_names(cells, "target")
    mine = (cells["model"] == model).to_numpy()
    measured = set(zip(sources[mine], of_targets[mine], strict=True))
    versions = _versions(observations[observations["model"] == model])
    found = []
    for name in sorted(set(sources) | set(of_targets)):
        there = sum((name, str(target)) in measured for target in targets)
        if there == len(targets):
            basis = MEASURED
        elif there or name in set(sources[mine]):
            basis = PARTLY
        else:
            basis = OTHER_BASES if name in set(sources) else NEW
        found.append(Candidate(Cell.parse(name), basis, versions.get(name, ())))
    return found


def _versions(observations: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Return the versions by source, by seed."""
    named = observations.assign(source=cell_names(observations, "source"))
    one_each = named.drop_duplicates(["source", "model_version"])
    one_each = one_each[one_each["model_version"].astype(str) != ""].sort_values(["source", "seed", "model_version"])
    return {str(name): tuple(rows["model_version"]) for name, rows in one_each.groupby("source")}
