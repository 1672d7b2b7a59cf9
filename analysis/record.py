"""An analysis as a run of its own: read, analysed, and stored beside the runs it read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mlflow import MlflowClient

from analysis.analysis import Analysis, analyze
from analysis.corrected.by_cell import QUESTIONS
from analysis.corrected.outcomes import StudyOutcomes
from analysis.figures import RAW
from analysis.frame import Frame, load
from analysis.observations import cells
from analysis.origin import Origin
from analysis.published import Options
from analysis.published.vectors import read_vectors
from analysis.stored.cache import cache_root
from analysis.stored.collected import study_outcomes
from analysis.stored.outcomes import read_study
from registry.tracking.names import Kind, Tag, analyzed, run_name
from registry.tracking.overview import describe_study
from registry.tracking.runs import recorded
from registry.tracking.store import experiment_id

__all__ = ["record_analysis"]

#: Columns of the regime table that are the run's metrics too.
_METRICS = (
    "mean", "se", "low", "high", "median", "positive_pct", "positive_posterior_pct", "harm_pct", "harm_by_chance_pct",
    "harm_posterior_pct",
)  # fmt: skip

_TAG_LENGTH = 4_000  # every store takes so much

#: Parameters of a run that say how adapters were trained, and what the report calls them.
_RECIPE = {
    "lora.rank": "LoRA rank",
    "lora.alpha": "alpha",
    "lora.dropout": "dropout",
    "lora.targets": "on",
    "learning_rate": "learning rate",
    "epochs": "epochs",
    "batch_size": "batch size",
    "warmup": "warm-up",
    "weight_decay": "weight decay",
    "max_length": "tokens at most",
    "precision": "precision",
    "quantization": "quantisation",
}


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
) -> tuple[Analysis, str]:
    """Analyse a study's finished runs into a folder and log the folder to an ``analyze`` run.

    Parameters
    ----------
    compare
        Studies to compare with, cell by cell.
    mixed_models
        Whether the published variance decomposition is fitted.
    corrected, heatmaps, questions
        See `analysis.analysis.analyze`.
    vectors
        CSV of typological vectors of the languages; see `analysis.published.vectors`.

    Returns
    -------
    Analysis, str
        What was written, and the run's id. The regime table's numbers are the run's metrics too.
    """
    cache = cache_root()
    frame, outcomes, notes = _read(client, study, cache, corrected=corrected)
    options = Options(
        mixed_models=mixed_models,
        vectors=read_vectors(vectors) if vectors else None,
        against={other: cells(load(client, other, cache=cache).observations) for other in compare},
        name=study,
    )
    result = analyze(
        replace(frame, notes=(*frame.notes, *notes)),
        output,
        options,
        corrected=corrected,
        outcomes=outcomes,
        questions=questions,
        heatmaps=heatmaps,
        origin=Origin(frame.store, experiment_id(client, study), _recipe(client, frame)),
    )
    with recorded(
        client,
        experiment_id(client, study),
        kind=Kind.ANALYZE,
        name=run_name(Kind.ANALYZE, study),
        tags={Tag.STUDY: study} | _left_out(result),
        description=f"Tables, figures and report of study `{study}`: open `report.html` among the artifacts.",
    ) as recording:
        recording.files(output)
        rows = result.regimes.set_index("regime")[list(_METRICS)].stack().dropna()
        recording.metrics({analyzed(quantity, regime): value for (regime, quantity), value in rows.items()})
        describe_study(recording, study)
    return result, recording.run_id


def _read(
    client: MlflowClient, study: str, cache: Path, *, corrected: bool
) -> tuple[Frame, StudyOutcomes | None, tuple[str, ...]]:
    """Return a study's frame, the outcomes of single questions, None if no run has any, and notes on them."""
    if not corrected:
        return load(client, study, cache=cache), None, ()
    frame, stored = read_study(client, study, cache=cache)
    return frame, (study_outcomes(stored) if len(stored) else None), stored.notes


def _left_out(result: Analysis) -> dict[str, str]:
    """Return the tag that says which runs do not count, as long as a tag may be."""
    return {Tag.RUNS_LEFT_OUT: " ".join(result.runs_left_out)[:_TAG_LENGTH]} if result.runs_left_out else {}


def _recipe(client: MlflowClient, frame: Frame) -> Mapping[str, str]:
    """Return how the adapters were trained, by one run of every base model; what differs has all its values."""
    runs = frame.observations.groupby("model")["run_id"].first()
    params = [client.get_run(str(run_id)).data.params for run_id in dict.fromkeys(runs)]
    found = {}
    for name, words in _RECIPE.items():
        values = dict.fromkeys(str(one[name]) for one in params if one.get(name, "None") != "None")
        if values:
            found[words] = " or ".join(value.replace(",", " ") for value in values)
    return found
