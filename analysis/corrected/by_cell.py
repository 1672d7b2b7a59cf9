"""Every cell with its error, its test and its shrunken estimate, whether or not the outcomes of questions are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.corrected.cells import assumed_cells, measured_cells
from analysis.corrected.effects import regime_components, shrink
from analysis.corrected.noise import NoiseTable, SamplingNoise, assumed_noise, measured_noise
from analysis.corrected.rates import rates
from analysis.measures.answers import StudyOutcomes
from analysis.measures.levels import SIGNIFICANT, LeftOut
from analysis.measures.numerals import quantity
from analysis.measures.transfer import by_regime
from registry.cells import Regime
from registry.errors import Refused
from registry.tracking.columns import BLOCK, CELL_KEY

__all__ = ["CELL_COLUMNS", "QUESTIONS", "UNKNOWN", "ByCell", "by_cell", "tests", "untested"]

#: Test items of a target that are assumed where no question's outcome is known: the paper's.
QUESTIONS = 400

#: What is added to the table of cells.
CELL_COLUMNS = [
    "n_questions", "se", "clusters", "df", "low", "high", "p", "q", "positive_by_chance", "harm_by_chance",
    "shrunken", "shrunken_sd", "noise", "note",
]  # fmt: skip

# Deltas of one cell that differ by more than this many pp are not of the same answers.
_SAME_PP = 1e-6

#: What the column ``noise`` says of a cell whose noise is not known.
UNKNOWN = "not known"

_WORDS = {"clusters": "", "noise": UNKNOWN, "note": "not tested: its noise is not known"}


@dataclass(frozen=True)
class ByCell:
    """What is known of the cells.

    Attributes
    ----------
    cells
        The cells given, with `CELL_COLUMNS` besides; NaN where the noise of a cell is not known.
    rates
        Table of `analysis.corrected.rates`; empty if no cell's noise is known.
    noise
        Mean sampling noise of the study, None if it is not known.
    noise_note
        How it is known.
    assumed
        Whether it is assumed, not measured.
    """

    cells: pd.DataFrame
    rates: pd.DataFrame
    noise: SamplingNoise | None
    noise_note: str
    assumed: bool
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def by_cell(cells: pd.DataFrame, outcomes: StudyOutcomes | None = None, *, questions: int = QUESTIONS) -> ByCell:
    """Test and shrink every cell.

    Parameters
    ----------
    cells
        One row per (model, source, target), as `analysis.reading.observations.cells` gives it.
    outcomes
        Outcomes of single questions; None where there are none, and then the noise is assumed.
    questions
        Test items per target to assume then.
    """
    measured = outcomes is not None and bool(outcomes.blocks)
    tested, noise, notes = _measured(cells, outcomes) if outcomes and measured else _assumed(cells, questions)
    tested, noise, lost = _known(tested, noise)
    notes += lost
    if tested.empty:
        reason = "the noise of no cell is known: it takes two questions' outcomes of a target, or scores and baselines."
        left_out = (LeftOut("Tests and shrunken estimates of cells", reason),)
        return ByCell(untested(cells), pd.DataFrame(), None, "", not measured, tuple(notes), left_out)
    try:
        mean = noise.mean()
        posterior = shrink(tested, regime_components(tested, mean), noise, means_by="regime")
        found = rates(tested, posterior)
    except (Refused, np.linalg.LinAlgError) as error:
        left_out = (LeftOut("Shrunken estimates and corrected rates", f"their noise model cannot be fitted: {error}."),)
        return ByCell(_joined(cells, tested), pd.DataFrame(), None, "", not measured, tuple(notes), left_out)
    tested = tested.assign(shrunken=posterior.mean, shrunken_sd=posterior.sd)
    return ByCell(_joined(cells, tested), found, mean, noise.note, not measured, tuple(notes))


def untested(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells with `CELL_COLUMNS`, in which nothing is known."""
    return _joined(cells, pd.DataFrame())


def _measured(cells: pd.DataFrame, outcomes: StudyOutcomes) -> tuple[pd.DataFrame, NoiseTable, list[str]]:
    """Test by the outcomes, and compare what they say with what was recorded."""
    tested = cells[[*CELL_KEY, "delta"]].merge(
        measured_cells(outcomes), on=CELL_KEY, how="inner", suffixes=("_recorded", ""), validate="one_to_one"
    )
    notes = []
    if lacking := len(cells) - len(tested):
        notes.append(f"{lacking:,} of {len(cells):,} cells have no outcomes of questions and are not tested.")
    differ = int(((tested["delta"] - tested["delta_recorded"]).abs() > _SAME_PP).sum())
    if differ:
        notes.append(
            f"The outcomes of questions give {quantity(differ, 'cell')} another Δ than was recorded, as when a run's "
            "files and its metrics are of different evaluations: the tests of these cells are of the outcomes."
        )
    return tested.drop(columns="delta_recorded"), measured_noise(outcomes), notes


def _assumed(cells: pd.DataFrame, questions: int) -> tuple[pd.DataFrame, NoiseTable, list[str]]:
    """Test by an assumed noise the cells that have a score and a baseline."""
    scored = cells[cells[["score", "baseline"]].notna().all(axis=1)]
    if scored.empty:
        return pd.DataFrame(), NoiseTable(pd.DataFrame(), ""), []
    noise = assumed_noise(scored, n_questions=questions)
    notes = [f"Sampling noise is {noise.note}."]
    if lacking := len(cells) - len(scored):
        notes.append(f"{lacking:,} cells have no baseline to assume a noise from and are not tested.")
    return assumed_cells(scored, n_questions=questions), noise, notes


def _known(tested: pd.DataFrame, noise: NoiseTable) -> tuple[pd.DataFrame, NoiseTable, list[str]]:
    """Keep the cells and blocks whose noise is known; of a single question it is not."""
    if tested.empty:
        return tested, noise, []
    blocks = noise.table[noise.table[["v", "c"]].notna().all(axis=1)]
    kept = tested.merge(blocks[BLOCK], on=BLOCK, how="inner", validate="many_to_one").sort_values(CELL_KEY)
    lost = len(tested) - len(kept)
    note = f"{quantity(lost, 'cell')} cannot be tested: a single question shows no spread."
    return kept.reset_index(drop=True), NoiseTable(blocks, noise.note), [note] if lost else []


def _joined(cells: pd.DataFrame, tested: pd.DataFrame) -> pd.DataFrame:
    """Put what is known beside the cells, in their order."""
    if tested.empty:
        joined = cells.reset_index(drop=True).reindex(columns=[*cells.columns, *CELL_COLUMNS])
    else:
        added = tested.reindex(columns=[*CELL_KEY, *CELL_COLUMNS])
        joined = cells.merge(added, on=CELL_KEY, how="left", validate="one_to_one")
    for name, word in _WORDS.items():
        joined[name] = joined[name].astype(object).where(joined[name].notna(), word).astype(str)
    numbers = [name for name in CELL_COLUMNS if name not in _WORDS]
    return joined.astype(dict.fromkeys(numbers, np.float64))


def tests(cells: pd.DataFrame) -> pd.DataFrame:
    """Count the cells that changed significantly.

    Parameters
    ----------
    cells
        With `CELL_COLUMNS`.

    Returns
    -------
    DataFrame
        One row per transfer regime that has cells, then ``transfer``: ``regime``, ``n``, ``n_tested``, ``median_se``
        (pp), ``gains`` and ``losses`` (q at or below `SIGNIFICANT`).
    """
    rows = []
    for label, part in by_regime(cells):
        if label == str(Regime.MT_ML) or part.empty:
            continue
        significant = part["q"] <= SIGNIFICANT
        gains, losses = (int((significant & moved).sum()) for moved in (part["delta"] > 0, part["delta"] < 0))
        row = {"regime": label, "n": len(part), "n_tested": int(part["q"].notna().sum())}
        rows.append(row | {"median_se": float(part["se"].median()), "gains": gains, "losses": losses})
    return pd.DataFrame(rows, columns=["regime", "n", "n_tested", "median_se", "gains", "losses"])
