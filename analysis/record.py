"""An analysis as a run of its own: read, analysed, and stored beside the runs it read."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient

from analysis.analysis import Analysis, analyze
from analysis.frame import load
from registry.tracking.names import Kind, Tag, run_name
from registry.tracking.runs import recorded
from registry.tracking.store import experiment_id

__all__ = ["record_analysis"]


def record_analysis(client: MlflowClient, study: str, output: Path) -> tuple[Analysis, str]:
    """Analyse a study's finished runs into a folder and log the folder to an ``analyze`` run.

    Returns
    -------
    Analysis, str
        What was written, and the run's id. The regime table's numbers are the run's metrics too.
    """
    frame = load(client, study)
    result = analyze(frame, output)
    with recorded(
        client,
        experiment_id(client, study),
        kind=Kind.ANALYZE,
        name=run_name(Kind.ANALYZE, study),
        tags={Tag.STUDY: study},
        description=f"Tables, figures and report of study `{study}`: open `report.html` among the artifacts.",
    ) as recording:
        recording.files(output)
        rows = result.regimes.set_index("regime")[["mean", "se", "median", "positive_pct", "harm_pct"]].stack().dropna()
        recording.metrics({f"{quantity}/{regime}": value for (regime, quantity), value in rows.items()})
    return result, recording.run_id
