"""A search of four trials in the small study, and what it left."""

from __future__ import annotations

from mlflow.entities import Run
from optuna.trial import TrialState

from registry.config.files import spec_of
from registry.config.study import Study
from registry.tracking.names import Kind, Tag
from registry.tracking.store import all_runs, experiment_id, open_store
from registry.tuning.preparation import prepare_search
from registry.tuning.storage import Trials, open_storage, open_trials, storage_url

TUNE = """\
tune:
  startup: 1
  trials: 4
  space:
    learning_rate: [1.0e-12, 5.0e-2]
    rank: [2]
    alpha: [4, 8]
    epochs: {low: 1, high: 2}
    batch_size: [4]
    dropout: [0.0]
    targets: [[q_proj, v_proj]]
"""
RUNNING = TrialState.RUNNING
SPLIT = "split: {train: 24, test: 16}\n"


def trials_of(study: Study, uri: str, **given: object) -> Trials:
    search, client = prepare_search(study, spec_of(study, **given)), open_store(uri)
    return open_trials(search, open_storage(storage_url(uri)), client, experiment_id(client, study.name))


def runs_of(trials: Trials, kind: Kind) -> list[Run]:
    return all_runs(trials.client, [trials.experiment_id], f"tags.{Tag.KIND} = '{kind}'")


def told(trials: Trials) -> list[tuple[TrialState, object, dict[str, object]]]:
    return [(trial.state, trial.value, trial.params) for trial in trials.valid()]
