"""Every corrected analysis of a table of cells: the tables that conclusions should rest on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, Final, TypeVar

import numpy as np
import pandas as pd

from analysis.corrected.by_cell import QUESTIONS, ByCell, by_cell, tests, untested
from analysis.corrected.consistency import with_ceiling
from analysis.corrected.linguistic import linguistic
from analysis.corrected.noise import QuestionNoise, assumed_question_noise, measured_question_noise
from analysis.corrected.power import COLUMNS, StudyDesign, power
from analysis.corrected.regimes import regimes
from analysis.corrected.roles import distinguishable, roles
from analysis.corrected.variance.model import CORRECTED, TRANSFER, stacked, variance_components
from analysis.corrected.variance.terms import RESIDUAL, TERMS
from analysis.measures.answers import StudyOutcomes
from analysis.measures.levels import LeftOut
from analysis.published.linguistic import LanguageVectors
from registry.errors import Refused

__all__ = ["ANALYSES", "CellAnalysis", "Corrected", "correct", "uncorrected"]

_Found = TypeVar("_Found")

_TABLES: Final = (
    "regimes", "tests", "rates", "variance_components", "roles", "role_pairs", "role_differences",
    "consistency", "linguistic", "power",
)  # fmt: skip


@dataclass(frozen=True)
class Corrected:
    """The corrected analyses.

    Attributes
    ----------
    cells
        The cells given, with errors, tests and shrunken estimates (`analysis.corrected.by_cell.CELL_COLUMNS`).
    tables
        By name, which is the stem of the file; a table that the grid does not allow is empty.
    assumed
        How the sampling noise was assumed; empty where it was measured or is not known.
    notes
        What a reader must know of the tests.
    left_out
        What there is no number for, with reasons.
    computed
        False where the layer was switched off.
    """

    cells: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    assumed: str
    notes: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    computed: bool = True


def correct(
    cells: pd.DataFrame,
    *,
    outcomes: StudyOutcomes | None = None,
    published_variance: pd.DataFrame | None = None,
    vectors: LanguageVectors | None = None,
    questions: int = QUESTIONS,
) -> Corrected:
    """Compute every corrected analysis that a grid allows.

    Parameters
    ----------
    cells
        One row per (model, source, target), as `analysis.reading.observations.cells` gives it.
    outcomes
        Outcomes of single questions, of which the sampling noise is measured; without them it is assumed.
    published_variance
        Table of `analysis.published.variance`, to stand in one table with the corrected components.
    vectors
        Typological vectors of the user's; by default URIEL's, where they are installed.
    questions
        Test items per target that are assumed where there are no outcomes.
    """
    known = by_cell(cells, outcomes, questions=questions)
    attempt = _Attempts()
    components = attempt("Variance components", lambda: _components(known))
    if published_variance is not None:
        components = stacked(components, published_variance)
    scores, pairs = attempt.pair("Roles with intervals", lambda: roles(cells))
    tables = {
        "regimes": regimes(cells, known.rates),
        "tests": tests(known.cells),
        "rates": known.rates,
        **{name: attempt(one.title, partial(one.computer(), cells)) for name, one in ANALYSES.items()},
        "variance_components": components,
        "roles": scores,
        "role_pairs": pairs,
        "role_differences": distinguishable(pairs) if len(pairs) else pd.DataFrame(),
    }
    tables["consistency"] = attempt("Ceiling of the Consistency Index", lambda: _consistency(known))
    # What there are no distances for is said of the published analysis, in the same words.
    tables["linguistic"] = attempt("Linguistic distance by permutation", lambda: linguistic(cells, vectors)[0])
    tables["power"] = attempt(
        "What such a study can detect", lambda: _power(known, components, outcomes, questions=questions)
    )
    assumed = known.noise_note if known.assumed else ""
    return Corrected(known.cells, tables, assumed, known.notes, (*known.left_out, *attempt.left_out))


def uncorrected(cells: pd.DataFrame, *, published_variance: pd.DataFrame | None = None) -> Corrected:
    """Return what is left where the corrected analyses are switched off: the regimes' means and their intervals.

    Parameters
    ----------
    cells, published_variance
        As in :func:`correct`.
    """
    bare = untested(cells)
    tables = dict.fromkeys((*_TABLES, *ANALYSES), pd.DataFrame())
    tables |= {"regimes": regimes(cells, pd.DataFrame()), "tests": tests(bare)}
    if published_variance is not None:
        tables["variance_components"] = stacked(pd.DataFrame(), published_variance)
    left_out = (LeftOut("Corrected statistics", "they were switched off with corrected=false."),)
    return Corrected(bare, tables, "", (), left_out, computed=False)


def _components(known: ByCell) -> pd.DataFrame:
    """Decompose the variance, the sampling noise apart where it is known."""
    if known.noise is None:
        return variance_components(known.cells)
    return variance_components(known.cells, noise=known.noise, noise_note=known.noise_note)


def _consistency(known: ByCell) -> pd.DataFrame:
    """Put the Consistency Index beside its ceiling under the noise of the cells."""
    if known.noise is None:
        return with_ceiling(known.cells, known.cells)
    share = known.noise.c / known.noise.v if known.noise.v > 0 else 0.0
    return with_ceiling(known.cells, known.cells, shared=min(max(share, 0.0), 1.0))


def _power(known: ByCell, components: pd.DataFrame, outcomes: StudyOutcomes | None, *, questions: int) -> pd.DataFrame:
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
        As :func:`analysis.corrected.power.power`; empty if no noise is known.
    """
    if known.noise is None:
        return pd.DataFrame(columns=COLUMNS)
    cells = known.cells
    items = cells["n_questions"].median()
    design = StudyDesign(
        items=questions if math.isnan(items) else round(items),
        seeds=round(cells["n_seeds"].median()),
        models=cells["model"].nunique(),
        tasks=cells["source_task"].nunique(),
        languages=cells["source_language"].nunique(),
    )
    return power(design, _transfer_components(components), _question_noise(known, design, outcomes))


def _question_noise(known: ByCell, design: StudyDesign, outcomes: StudyOutcomes | None) -> QuestionNoise:
    """Return the noise of a question."""
    assert known.noise is not None
    if outcomes is not None and not known.assumed:
        return measured_question_noise(outcomes)
    return assumed_question_noise(float(np.sqrt(known.noise.v)), items=design.items, seeds=design.seeds)


def _transfer_components(components: pd.DataFrame) -> dict[str, float] | None:
    """Return the components over transfer cells; None, so that they are assumed, if none is known."""
    if components.empty:
        return None
    own = components[(components["layer"] == CORRECTED) & (components["scope"] == TRANSFER)]
    found = dict(zip(own["component"], own["variance"], strict=True))
    variances = {name: float(found.get(name, math.nan)) for name in [*TERMS, RESIDUAL]}
    return None if all(math.isnan(value) for value in variances.values()) else variances


class _Attempts:
    """Calls that may be refused because data are missing; a refused one is left out with the reason."""

    def __init__(self) -> None:
        self.left_out: list[LeftOut] = []

    def __call__(self, part: str, call: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Return a table, empty if it was refused."""
        return self._try(part, call, pd.DataFrame())

    def pair(
        self, part: str, call: Callable[[], tuple[pd.DataFrame, pd.DataFrame]]
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return two tables, empty if they were refused."""
        return self._try(part, call, (pd.DataFrame(), pd.DataFrame()))

    def _try(self, part: str, call: Callable[[], _Found], otherwise: _Found) -> _Found:
        try:
            return call()
        except Refused as refused:
            self.left_out.append(LeftOut(part, str(refused)))
            return otherwise
        except np.linalg.LinAlgError as error:
            self.left_out.append(LeftOut(part, f"too few cells: their equations have no single solution ({error})."))
            return otherwise


# --- analyses of a table of cells that need nothing else: each is a module with two functions, and a line here


@dataclass(frozen=True, slots=True)
class CellAnalysis:
    """An analysis.

    Attributes
    ----------
    title
        What it is called where it is left out.
    compute
        ``module:function`` that takes the cells (`analysis.reading.observations.cells`) and returns a table. It raises
        `Refused` with the reason if a grid does not allow it.
    show
        ``module:function`` that takes the table and returns a part of the report; a table without rows is possible.
    """

    title: str
    compute: str
    show: str

    def computer(self) -> Any:
        """Import the function that computes it."""
        return _named(self.compute)

    def shower(self) -> Any:
        """Import the function that shows it."""
        return _named(self.show)


#: By the stem of their tables' files, in the order of the report.
ANALYSES = {
    "contrasts": CellAnalysis(
        "Contrasts of regimes", "analysis.corrected.regimes:contrasts", "analysis.report.corrected:contrasts_part"
    ),
}


def _named(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
