"""What a study can detect: one that was run, by its own noise and components, or one that is only planned."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.corrected.by_cell import ByCell
from analysis.corrected.noise import QuestionNoise, assumed_question_noise, measured_question_noise
from analysis.corrected.power.effects import COLUMNS, Design, power, power_without_data
from analysis.corrected.variance.model import CORRECTED, TRANSFER
from analysis.corrected.variance.terms import RESIDUAL, TERMS
from analysis.measures.answers import StudyOutcomes
from analysis.measures.numerals import counted, fixed
from registry.cells import Regime

__all__ = ["detectable_here", "foreseen"]


def detectable_here(
    known: ByCell, components: pd.DataFrame, outcomes: StudyOutcomes | None, *, questions: int
) -> pd.DataFrame:
    """Compute the smallest effects that a study of this size finds four times out of five.

    Parameters
    ----------
    known
        The cells and their noise.
    components
        Table of variance components; those over transfer cells are used.
    outcomes
        Outcomes of single questions, of which the noise of a question is measured; without them it follows from the
        assumed noise of cells.
    questions
        Test items per target that are assumed then.

    Returns
    -------
    DataFrame
        As :func:`analysis.corrected.power.effects.power`; empty if no noise is known.
    """
    if known.noise is None:
        return pd.DataFrame(columns=COLUMNS)
    cells = known.cells
    items = cells["n_questions"].median()
    design = Design(
        items=questions if math.isnan(items) else round(items),
        seeds=round(cells["n_seeds"].median()),
        models=cells["model"].nunique(),
        tasks=cells["source_task"].nunique(),
        languages=cells["source_language"].nunique(),
    )
    return power(design, _variances(components), _noise(known, design, outcomes))


def _noise(known: ByCell, design: Design, outcomes: StudyOutcomes | None) -> QuestionNoise:
    """Return the noise of a question."""
    assert known.noise is not None
    if outcomes is not None and not known.assumed:
        return measured_question_noise(outcomes)
    return assumed_question_noise(float(np.sqrt(known.noise.v)), items=design.items, seeds=design.seeds)


def _variances(components: pd.DataFrame) -> dict[str, float] | None:
    """Return the components over transfer cells; None, so that they are assumed, if none is known."""
    if components.empty:
        return None
    own = components[(components["layer"] == CORRECTED) & (components["scope"] == TRANSFER)]
    found = dict(zip(own["component"], own["variance"], strict=True))
    variances = {name: float(found.get(name, math.nan)) for name in [*TERMS, RESIDUAL]}
    return None if all(math.isnan(value) for value in variances.values()) else variances


def foreseen(design: Design) -> str:
    """Say in a sentence what a planned study can detect, under assumed components and noise.

    The two ends of each range are for the least and the most noise that cells of 400 items and 3 seeds were seen to
    have, scaled to the design.
    """
    table = power_without_data(design).groupby("test", sort=False)["detectable_pp"].agg(["min", "max"])
    said = [
        f"{words} {' to '.join(dict.fromkeys([fixed(row['min'], 1), fixed(row['max'], 1)]))} pp"
        for test, words in _FORESEEN.items()
        if test in table.index and not math.isnan((row := table.loc[test])["max"])
    ]
    sizes = f"{design.items} items, {counted(design.seeds, 'seed')}, {counted(design.models, 'model')}"
    if not said:
        return f"{sizes}: too small a study to detect anything by"
    return f"4 times out of 5, with {sizes}, under ASSUMED noise and variances: {'; '.join(said)}"


#: Tests that a plan is judged by, and how the sentence names them.
_FORESEEN = {
    "one cell among all": "a cell's change of",
    "two languages as donors": "two donor languages apart by",
    "two tasks as donors": "two donor tasks apart by",
    f"{Regime.MT_CL} − {Regime.CT_CL}": f"{Regime.MT_CL} above {Regime.CT_CL} by",
}
