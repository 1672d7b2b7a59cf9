"""What any source may be expected to give a base's targets: cells, variance components, noise and distances joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.corrected.by_cell import QUESTIONS
from analysis.corrected.noise import NoiseTable, assumed_noise
from analysis.measures.numerals import quantity
from analysis.published.linguistic import LanguageVectors, cosine_distances
from analysis.recommend.components import components_of
from analysis.recommend.prediction import EffectPredictor, ExpectedEffects
from registry.cells import Cell, Regime, regime_of
from registry.errors import Refused
from registry.tracking.columns import BLOCK

__all__ = ["Expectation", "MeansDesign", "expectation", "noise_of"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Expectation:
    """A model of a study's cells that tells what to expect of others.

    Attributes
    ----------
    cells
        Those it rests on.
    design
        How the means of cells depend on regime and, where vectors of their languages are known, by distance.
    noise
        How the sampling noise is known.
    """

    cells: pd.DataFrame
    effects: EffectPredictor
    design: MeansDesign
    noise: str
    notes: tuple[str, ...]

    def of(self, model: str, sources: Sequence[Cell], targets: Sequence[Cell]) -> list[ExpectedEffects]:
        """Return the true effects, in pp, that are expected of every source on targets of a model."""
        designs = [self.design.of(source, targets) for source in sources]
        return self.effects.expected(model, list(map(str, sources)), list(map(str, targets)), designs)


@dataclass(frozen=True)
class MeansDesign:
    """Columns of the means: one for each regime that has cells, and the distance of the languages if it is known."""

    regimes: tuple[str, ...]
    distance: pd.DataFrame | None

    def of(self, source: Cell, targets: Sequence[Cell]) -> Array:
        """Return the columns of a source's targets, (targets, columns)."""
        regimes = [str(regime_of(source, target)) for target in targets]
        return self.columns(regimes, [source.language] * len(targets), [target.language for target in targets])

    def columns(self, regimes: Sequence[str], sources: Sequence[str], targets: Sequence[str]) -> Array:
        """Return the columns of cells of the given regimes and languages, (cells, columns)."""
        found: Array = (np.array(regimes)[:, None] == np.array(self.regimes)[None, :]).astype(np.float64)
        if self.distance is None:
            return found
        rows, columns = (self.distance.index.get_indexer(list(names)) for names in (sources, targets))
        return np.column_stack([found, self.distance.to_numpy()[rows, columns]])


def expectation(
    cells: pd.DataFrame,
    measured: NoiseTable | None = None,
    *,
    vectors: LanguageVectors | None = None,
    questions: int | Mapping[str, int] = QUESTIONS,
    cache: Path | None = None,
) -> Expectation:
    """Fit the model to the cells of a study.

    Parameters
    ----------
    cells
        One row per (model, source, target), as `analysis.reading.observations.cells` gives it.
    measured
        Sampling noise measured over the outcomes of questions; where there is none it is assumed.
    vectors
        Typological vectors; the means go by distance too if they hold every language.
    questions
        Test items per target, or by task, to assume where there are no outcomes.
    cache
        Folder of the study, where the variance components are kept.

    Raises
    ------
    Refused
        If the noise of no cell can be known or assumed.
    """
    noise, notes = noise_of(cells, measured, questions=questions)
    known = cells.merge(noise.table[BLOCK], on=BLOCK, how="inner", validate="many_to_one").reset_index(drop=True)
    if known.empty:
        raise Refused("the noise of no cell is known: it takes outcomes of questions, or scores and baselines")
    if lost := len(cells) - len(known):
        notes.append(
            f"{quantity(lost, 'cell')} left out: neither outcomes nor a score and a baseline to know the noise by."
        )
    design, said = _design(known, vectors)
    columns = design.columns(known["regime"], known["source_language"], known["target_language"])
    effects = EffectPredictor(known, components_of(known, noise, cache=cache), noise, columns)
    return Expectation(known, effects, design, noise.note, (*notes, *said))


def noise_of(
    cells: pd.DataFrame, measured: NoiseTable | None, *, questions: int | Mapping[str, int] = QUESTIONS
) -> tuple[NoiseTable, list[str]]:
    """Return the noise of every (model, target): as measured, elsewhere assumed, which the notes say."""
    table = pd.DataFrame(columns=BLOCK) if measured is None else measured.table.dropna(subset=["v", "c"])
    there = pd.MultiIndex.from_frame(table[BLOCK])
    scored = cells[cells[["score", "baseline"]].notna().all(axis=1)]
    without = scored[~pd.MultiIndex.from_frame(scored[BLOCK]).isin(there)]
    if without.empty:
        return NoiseTable(table, measured.note if measured else ""), []
    assumed = assumed_noise(without, n_questions=questions)
    if measured is None or table.empty:
        return assumed, [f"Sampling noise is {assumed.note}."]
    both = pd.concat([table, assumed.table], ignore_index=True)
    blocks = quantity(len(assumed.table), "target")
    note = f"{measured.note}; of {blocks} without outcomes {assumed.note}"
    return NoiseTable(both, note), [f"Sampling noise is {note}."]


def _design(cells: pd.DataFrame, vectors: LanguageVectors | None) -> tuple[MeansDesign, list[str]]:
    """Return how the means of cells depend on regime and distance, and notes on the distances."""
    regimes = tuple(str(regime) for regime in Regime if (cells["regime"] == str(regime)).any())
    plain = MeansDesign(regimes, None)
    if vectors is None:
        return plain, []
    languages = sorted({*cells["source_language"], *cells["target_language"]})
    kinds = [cosine_distances(table) for table in vectors.by_kind.values()]
    known = [kind.reindex(index=languages, columns=languages).to_numpy(dtype=np.float64) for kind in kinds]
    mean = pd.DataFrame(np.mean(known, axis=0), index=languages, columns=languages)
    lacking = [name for name in languages if np.isnan(mean.loc[name]).all()]
    if lacking or mean.isna().any(axis=None):
        which = f", of {', '.join(lacking)} among others" if lacking else ""
        return plain, [f"Linguistic distance is not used: some languages have no vectors ({vectors.origin}{which})."]
    with_distance = MeansDesign(regimes, mean)
    columns = with_distance.columns(cells["regime"], cells["source_language"], cells["target_language"])
    if np.linalg.matrix_rank(columns) < columns.shape[1]:
        return plain, ["Linguistic distance is not used: all pairs of languages here are equally far."]
    return with_distance, [f"Means depend on linguistic distance too ({vectors.origin})."]
