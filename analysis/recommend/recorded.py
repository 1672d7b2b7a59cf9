"""A recommendation from what a store has of a study: its frame and its questions' outcomes, read once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from analysis.published.linguistic import read_vectors, uriel_vectors
from analysis.reading.observations import cell_names
from analysis.reading.study import StudyStore
from analysis.recommend.components import stored_noise
from analysis.recommend.recommendation import Recommendation, recommend
from registry.cells import Cell, chosen_targets

__all__ = ["recommend_recorded"]


def recommend_recorded(
    store: StudyStore, *, model: str = "", want: Sequence[str], protect: Sequence[str] = (), vectors: Path | None = None
) -> Recommendation:
    """Rank a base's sources by what is recorded of a study.

    Parameters
    ----------
    model
        The base; may be left out where the study has one.
    want, protect
        Targets as ``task/language``, either name ``*`` for all.
    vectors
        CSV of typological vectors, see `analysis.published.linguistic`; by default URIEL's, where they are installed.

    Raises
    ------
    Refused
        If the study, the base or a target is not there, or nothing is wanted.
    """
    given = read_vectors(vectors) if vectors else None
    frame, stored = store.frame_and_outcomes()
    targets = sorted({Cell.parse(name) for name in cell_names(frame.observations, "target").unique()})
    wanted = chosen_targets(want, targets, where="want")
    protected = chosen_targets(protect, targets, where="protect")
    kept = store.folder
    languages = sorted({cell.language for cell in targets} | set(frame.observations["source_language"]))
    found = recommend(
        frame,
        stored_noise(stored, cache=kept),
        model=model,
        want=wanted,
        protect=protected,
        vectors=given or uriel_vectors(languages),
        cache=kept,
    )
    return replace(found, notes=(*found.notes, *frame.notes, *stored.notes))
