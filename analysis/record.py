"""An analysis as a run of its own: read, analysed, and stored beside the runs it read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mlflow import MlflowClient

from analysis.analysis import Analysis, analyze
from analysis.corrected.by_cell import QUESTIONS
from analysis.measures.answers import StudyOutcomes
from analysis.measures.numerals import quantity
from analysis.published import PublishedOptions
from analysis.published.linguistic import read_vectors
from analysis.reading.cache import cache_root
from analysis.reading.frame import Frame
from analysis.reading.observations import StudyOrigin, cells
from analysis.reading.outcomes import StoredOutcomes, study_outcomes
from analysis.reading.study import StudyStore
from analysis.report.figures.draw import RAW
from registry.errors import Refused
from registry.files.outputs import Staging, staged
from registry.tracking.metric_names import analyzed
from registry.tracking.names import Kind, Tag, headlines_tag, run_name
from registry.tracking.runs import describe_study, recorded
from registry.tracking.store import experiment_id

__all__ = ["record_analysis", "require_one_headline"]

#: Columns of the regime table that are the run's metrics too.
_METRICS = (
    "mean", "se", "low", "high", "median", "positive_pct", "positive_posterior_pct", "harm_pct", "harm_by_chance_pct",
    "harm_posterior_pct",
)  # fmt: skip

#: Files that every analysis writes, so that one of somebody else in their place is seen before any work.
_ALWAYS = ("report.html", "cells.parquet", "observations.parquet", "regimes.csv", "baselines.csv", "adapters.csv")

#: What the report of an analysis has in its head.
_TITLE = b"<title>Donors and recipients: "
_TAG_LENGTH = 4_000  # every store takes so much


def record_analysis(
    client: MlflowClient,
    study: str,
    output: Path,
    *,
    compare: Sequence[str] = (),
    mixed_models: bool = True,
    corrected: bool = True,
    vectors: Path | None = None,
    heatmaps: str = RAW,
    questions: int = QUESTIONS,
    assume_noise: bool = False,
) -> tuple[Analysis, str]:
    """Analyse a study's finished runs, log what that wrote to an ``analyze`` run, and put it into a folder.

    Other files in the folder are neither logged nor changed. A kill leaves the former analysis or the new one.

    Parameters
    ----------
    compare
        Studies to compare with, cell by cell.
    mixed_models
        Whether the published variance decomposition is fitted.
    corrected, heatmaps, questions
        See `analysis.analysis.analyze`.
    vectors
        CSV of typological vectors of the languages; see `analysis.published.linguistic`.
    assume_noise
        Whether to go on where outcomes that were recorded cannot be read: cells without them are not tested, and if
        none can be read the sampling noise is assumed.

    Returns
    -------
    Analysis, str
        What was written, and the run's id. The regime table's numbers are the run's metrics too.

    Raises
    ------
    Refused
        If outcomes that were recorded cannot be read and no noise may be assumed.
    """
    store = StudyStore(client, study, cache_root())
    frame, outcomes, notes = _read(store, corrected=corrected, assume_noise=assume_noise)
    experiment = experiment_id(client, study, writing=True)
    others = {other: replace(store, name=other).frame() for other in compare}
    for other in others.values():
        require_one_headline(frame, other)
    options = PublishedOptions(
        mixed_models=mixed_models,
        vectors=read_vectors(vectors) if vectors else None,
        against={name: cells(other.observations) for name, other in others.items()},
        name=study,
    )
    with staged(output, "analyze", is_former=_is_former) as staging:
        staging.check(_ALWAYS)
        result = analyze(
            replace(frame, notes=(*frame.notes, *notes)),
            staging.folder,
            options,
            corrected=corrected,
            outcomes=outcomes,
            questions=questions,
            heatmaps=heatmaps,
            origin=StudyOrigin(frame.store, experiment, store.recipe(frame)),
        )
        result = replace(result, noise_notes=notes)
        staging.check()
        run_id = _recorded(client, experiment, frame, result, staging)
    return _placed(result, output), run_id


def _recorded(client: MlflowClient, experiment: str, frame: Frame, result: Analysis, staging: Staging) -> str:
    """Record an analysis, its files and its regime table, and return the run's id."""
    study = frame.study
    with recorded(
        client,
        experiment,
        kind=Kind.ANALYZE,
        name=run_name(Kind.ANALYZE, study),
        tags={Tag.STUDY: study, Tag.NOISE: result.noise}
        | ({Tag.HEADLINES: headlines_tag(frame.headlines)} if frame.headlines else {})
        | _left_out(result),
        description=f"Tables, figures and report of study `{study}`: open `report.html` among the artifacts.",
    ) as recording:
        recording.files(staging.folder)
        rows = result.regimes.set_index("regime")[list(_METRICS)].stack().dropna()
        recording.metrics({analyzed(quantity, regime): value for (regime, quantity), value in rows.items()})
        describe_study(recording, study, (f"Sampling noise: {result.noise}.", *result.noise_notes))
    return recording.run_id


def _is_former(file: Path) -> bool:
    """Whether a file lies in a folder that an analysis wrote before it kept a list of its files."""
    for folder in file.parents[:2]:  # tables and figures have folders of their own
        report = folder / "report.html"
        if report.is_file():
            with report.open("rb") as content:
                return _TITLE in content.read(4096)
    return False


def _placed(result: Analysis, output: Path) -> Analysis:
    """Return an analysis with the paths that its files have once they are in place."""
    files = tuple(output / file.relative_to(result.output) for file in result.files)
    return replace(result, output=output, report=output / result.report.relative_to(result.output), files=files)


def require_one_headline(frame: Frame, other: Frame) -> None:
    """Refuse to compare deltas of different accuracies."""
    for task, name in frame.headlines.items():
        if name != other.headlines.get(task, name):
            raise Refused(
                f"compare: the score of {task} is {name} in study {frame.study!r} and {other.headlines[task]} in "
                f"{other.study!r}; give both the same headline, run both, and compare again"
            )


def _read(
    store: StudyStore, *, corrected: bool, assume_noise: bool
) -> tuple[Frame, StudyOutcomes | None, tuple[str, ...]]:
    """Return a study's frame, the outcomes of single questions, None if no run has any, and notes on them."""
    if not corrected:
        return store.frame(), None, ()
    frame, stored = store.frame_and_outcomes(tolerant=assume_noise)
    outcomes = study_outcomes(stored) if len(stored) else None
    if not stored.lacking:
        return frame, outcomes, stored.notes
    if not assume_noise:
        raise Refused(_unreadable(frame.study, stored))
    count, first = len(stored.lacking), stored.lacking[0]
    note = f"Analysed with assume_noise=true: recorded outcomes of {quantity(count, 'run')} cannot be read, as {first}."
    return frame, outcomes, (note, *stored.notes)


def _left_out(result: Analysis) -> dict[str, str]:
    """Return the tag that says which runs do not count, as long as a tag may be."""
    return {Tag.RUNS_LEFT_OUT: " ".join(result.runs_left_out)[:_TAG_LENGTH]} if result.runs_left_out else {}


def _unreadable(study: str, stored: StoredOutcomes) -> str:
    count = len(stored.lacking)
    return (
        f"outcomes of {quantity(count, 'run')} of study {study!r} cannot be read, so that their sampling noise is not "
        f"measured: {stored.lacking[0]}{', …' if count > 1 else ''}\n"
        "  restore these files; or analyse without them: "
        f"mlflow run . -e analyze --env-manager local -P study={study} -P assume_noise=true"
    )
