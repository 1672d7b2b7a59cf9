"""Whether answers to single questions are those that their runs were scored by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from analysis.measures.numerals import counted
from analysis.reading.outcome_files import Asked
from analysis.reading.packed import Packed
from analysis.reading.run_record import InconsistentRunError
from registry.cells import Cell

__all__ = ["refuse_other_answers"]

#: Largest difference between a recorded score, a proportion, and the answers' that rounding may explain.
_TOLERANCE = 1e-6
_LISTED = 5


def refuse_other_answers(
    study: str, read: Iterable[tuple[Asked, Packed | None]], test_sets: Mapping[str, pa.Table]
) -> None:
    """Raise if the answers of any run give another score than it recorded.

    That holds for answers that were kept on this machine, too, and for runs that recorded no digest of their file.

    Raises
    ------
    InconsistentRunError
        With the runs, and what differs.
    """
    layouts = {name: _Layout(table) for name, table in test_sets.items()}
    faults = []
    for one, packed in read:
        if packed is None:
            continue
        fault = next(_faults(one, layouts[packed.test_set].shares(packed)), "")
        if fault:
            faults.append(f"run {one.run}: {fault}")
    if not faults:
        return
    listed = "; ".join(faults[:_LISTED]) + (f"; and {len(faults) - _LISTED} more" if len(faults) > _LISTED else "")
    raise InconsistentRunError(
        f"study {study}: the answers of {counted(len(faults), 'run')} are not those that were scored: {listed}.\n"
        "Put outcomes.parquet of these runs back from a backup of the artifacts, or analyse without any answers: "
        "-P corrected=false"
    )


def _faults(one: Asked, shares: Mapping[Cell, float]) -> Iterator[str]:
    for target in sorted(one.scores if one.targets is None else one.targets):
        recorded = one.scores.get(target, np.nan)
        if np.isnan(recorded):
            continue
        if target not in shares:
            yield f"no answer on {target}"
        elif not abs(shares[target] - recorded) <= _TOLERANCE:
            yield f"score {shares[target]:.6g} on {target}, recorded {recorded:.6g}"


class _Layout:
    """Which target each question of a test set belongs to."""

    def __init__(self, table: pa.Table) -> None:
        grouped = table.select(["task", "language"]).to_pandas().groupby(["task", "language"], sort=False)
        self._codes: NDArray[np.intp] = grouped.ngroup().to_numpy()
        self._targets: Sequence[Cell] = tuple(Cell(*map(str, names)) for names in grouped.groups)
        self._counts = np.bincount(self._codes, minlength=len(self._targets))

    def shares(self, packed: Packed) -> dict[Cell, float]:
        """Return the share of right answers by target."""
        right = np.bincount(self._codes, weights=packed.correct(len(self._codes)), minlength=len(self._targets))
        return dict(zip(self._targets, (right / self._counts).tolist(), strict=True))
