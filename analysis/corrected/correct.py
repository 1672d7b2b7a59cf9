"""Every corrected analysis of a table of cells: what a careful reader should believe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import pandas as pd

from analysis.corrected.by_cell import QUESTIONS, ByCell, by_cell, tests, untested
from analysis.corrected.consistency import with_ceiling
from analysis.corrected.contrasts import contrasts
from analysis.corrected.linguistic import linguistic
from analysis.corrected.power.studies import detectable_here
from analysis.corrected.regimes import regimes
from analysis.corrected.roles import distinguishable, roles
from analysis.corrected.variance.model import stacked, variance_components
from analysis.measures.answers import StudyOutcomes
from analysis.measures.levels import LeftOut
from analysis.measures.vectors import Vectors
from registry.errors import Refused

__all__ = ["Corrected", "correct", "uncorrected"]

_Found = TypeVar("_Found")

_TABLES: Final = (
    "regimes", "tests", "rates", "contrasts", "variance_components", "roles", "role_pairs", "role_differences",
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
    vectors: Vectors | None = None,
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
        "contrasts": attempt("Contrasts of regimes", lambda: contrasts(cells)),
        "variance_components": components,
        "roles": scores,
        "role_pairs": pairs,
        "role_differences": distinguishable(pairs) if len(pairs) else pd.DataFrame(),
    }
    tables["consistency"] = attempt("Ceiling of the Consistency Index", lambda: _consistency(known))
    # What there are no distances for is said of the published analysis, in the same words.
    tables["linguistic"] = attempt("Linguistic distance by permutation", lambda: linguistic(cells, vectors)[0])
    tables["power"] = attempt(
        "What such a study can detect", lambda: detectable_here(known, components, outcomes, questions=questions)
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
    tables = dict.fromkeys(_TABLES, pd.DataFrame())
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


class _Attempts:
    """Calls that may be refused for want of data; those that were are left out with the reason given."""

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
