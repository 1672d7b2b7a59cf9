"""An experiment's description in MLflow's UI: the study, its latest report, and where its runs are found."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from registry.tracking.names import Kind, Tag
from registry.tracking.recording import Recording

__all__ = ["describe_study", "runs_of_kind"]

_SHOWN = {
    Kind.EVALUATE: "evaluations",
    Kind.FINETUNE: "fine-tunes",
    Kind.BASELINE: "untouched bases",
    Kind.ANALYZE: "reports",
}


def runs_of_kind(experiment_id: str, kind: Kind) -> str:
    """Address in the UI of a study's runs of a kind, in its table."""
    wanted = quote(f"tags.{Tag.KIND} = '{kind}'")
    return f"#/experiments/{experiment_id}/runs?searchFilter={wanted}"


def describe_study(recording: Recording, study: str, cautions: Sequence[str] = ()) -> None:
    """Link an analysis to its report, and its experiment to it and to the study's runs.

    Parameters
    ----------
    recording
        The run of kind ``analyze``, its files stored.
    cautions
        What a reader must know before believing its numbers.
    """
    client, identity = recording.client, recording.experiment_id
    report = f"[report](#/experiments/{identity}/runs/{recording.run_id}/artifacts/report.html)"
    tables = ", ".join(f"[{label}]({runs_of_kind(identity, kind)})" for kind, label in _SHOWN.items())
    found = f"In the table of runs: {tables}."
    # An experiment's description has the same key as a run's.
    client.set_experiment_tag(identity, MLFLOW_RUN_NOTE, f"Study `{study}`: latest {report}. {found}")
    said = "".join(f"\n- {caution}" for caution in cautions)
    note = f"Tables, figures and {report} of study `{study}`, all among the artifacts.\n{said}\n\n{found}"
    recording.tags({MLFLOW_RUN_NOTE: note})
