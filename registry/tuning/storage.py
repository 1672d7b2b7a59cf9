"""Trials in Optuna's storage: claimed one by one by any number of processes, those of dead processes tried again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from pathlib import Path

import optuna
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from optuna import Trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from registry.config.files import OBJECTIVES
from registry.config.study import Recipe
from registry.config.tuning import Dimension, TuneSpace
from registry.errors import Refused
from registry.files.disks import disk_problem
from registry.masking import mask
from registry.paths import home
from registry.tracking.liveness import reap
from registry.tracking.store import shown_uri, sqlite_file, sqlite_uri
from registry.tuning.preparation import Search

__all__ = ["RUN", "SEARCH_RUN", "Trials", "open_storage", "open_trials", "recipe_of", "storage_url", "suggest_values"]

#: Attributes of a trial: its MLflow run, that of its process's search, that its process died (noted on the study, since
#: Optuna lets nobody else write on a trial; on the trial by earlier versions), that it was one too many.
RUN, SEARCH_RUN, _GONE, _SURPLUS = "run", "search_run", "gone", "surplus"

_LOCKED_SECONDS = 120  # how long a process waits while others write to a SQLite file
_UNMARKED = timedelta(seconds=30)  # a trial names its process's run milliseconds after it was begun


def storage_url(tracking: str, given: str = "") -> str:
    """Return the address of Optuna's storage: as given, else ``tune.db`` beside an embedded store or in the project."""
    if given:
        return given if "://" in given else sqlite_uri(Path(given).expanduser())
    file = sqlite_file(tracking)
    return sqlite_uri((file.parent if file else home()) / "tune.db")


def open_storage(url: str) -> RDBStorage:
    """Connect to Optuna's storage, made if it is new.

    Raises
    ------
    Refused
        If it cannot be reached, or is no storage of Optuna's.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = sqlite_file(url)
    try:
        if file is None:
            return RDBStorage(url)
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):  # of several that make the tables at once, one would fail
            return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": _LOCKED_SECONDS}})
    except (ImportError, OSError, RuntimeError, SQLAlchemyError) as error:
        if problem := disk_problem(error):
            raise Refused(f"Optuna's storage {shown_uri(url)} cannot be opened: {problem}") from None
        reason = mask(str(error).splitlines()[0]).replace(url, shown_uri(url))
        remedy = "storage= takes a file, or an address such as postgresql+psycopg://user@host/name"
        raise Refused(f"Optuna's storage {shown_uri(url)} cannot be opened ({reason}); {remedy}") from None


def open_trials(search: Search, storage: RDBStorage, client: MlflowClient, experiment_id: str) -> Trials:
    """Find the trials of a search, or begin it."""
    pruner = (
        optuna.pruners.MedianPruner(n_startup_trials=search.spec.startup)
        if search.spec.pruner == "median"
        else optuna.pruners.NopPruner()
    )
    study = optuna.create_study(
        storage=storage,
        study_name=search.name,
        direction=OBJECTIVES[search.spec.objective],  # type: ignore[arg-type]
        pruner=pruner,
        load_if_exists=True,
    )
    return Trials(search, study, storage, client, experiment_id)


@dataclass(frozen=True)
class Trials:
    """The trials of one search."""

    search: Search
    study: optuna.Study
    storage: RDBStorage
    client: MlflowClient
    experiment_id: str

    def valid(self, state: TrialState | None = None) -> list[FrozenTrial]:
        """Return the trials that count: finished or under way, not those of dead processes."""
        found = self.study.get_trials(deepcopy=False)
        gone = set(self.study.user_attrs)
        return [
            trial
            for trial in found
            if trial.state is not TrialState.WAITING
            and state in (None, trial.state)
            and not {_GONE, _SURPLUS} & set(trial.user_attrs)
            and f"{_GONE}/{trial.number}" not in gone
        ]

    @property
    def remaining(self) -> int:
        """How many trials are still to be begun."""
        self._retry_dead()
        return max(0, self.search.spec.trials - len(self.valid()))

    @property
    def unmarked(self) -> bool:
        """Whether a trial was begun that names no process yet: within seconds it does, or its process is dead."""
        return any(SEARCH_RUN not in trial.user_attrs for trial in self.valid(TrialState.RUNNING))

    def claim(self, search_run: str) -> optuna.Trial | None:
        """Begin a trial, that of a dead process first; None where enough have been begun.

        Waits for a trial that names no process yet: whether it counts decides what is drawn next.

        Parameters
        ----------
        search_run : str
            This process's run, whose heartbeat says that its trials are under way.
        """
        while not self.remaining or self.unmarked:
            if not self.unmarked:
                return None
            time.sleep(0.25)
        trial = self.study.ask()
        trial.set_user_attr(SEARCH_RUN, search_run)
        order = sum(other.number < trial.number for other in self.valid())
        if order >= self.search.spec.trials:  # another process began the last one at the same time
            trial.set_user_attr(_SURPLUS, True)
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        # Drawn from the seed and the trial's place, so that a search that goes on draws what it would have drawn.
        self.study.sampler = optuna.samplers.TPESampler(
            seed=(self.search.seed * 1_000_003 + order) % 2**32,
            n_startup_trials=self.search.spec.startup,
            multivariate=False,
        )
        return trial

    def _retry_dead(self) -> None:
        """Fail the trials whose process is gone, and queue the same recipes again."""
        reap(self.client, self.experiment_id)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not self._is_dead(trial):
                continue
            self.study.set_user_attr(f"{_GONE}/{trial.number}", True)
            try:
                self.study.tell(trial.number, state=TrialState.FAIL)
            except (UpdateFinishedTrialError, ValueError):  # another process was faster
                continue
            # A recipe of which a part alone was drawn is drawn again: fixed values would shift the others' draws.
            if len(trial.params) == len(fields(TuneSpace)):
                self.study.enqueue_trial(trial.params)

    def _is_dead(self, trial: FrozenTrial) -> bool:
        run = trial.user_attrs.get(SEARCH_RUN)
        if run is None:
            return trial.datetime_start is not None and datetime.now() - trial.datetime_start > _UNMARKED
        try:
            return bool(self.client.get_run(run).info.status != "RUNNING")
        except MlflowException:  # its run was deleted for good
            return True


# --- from a search space to a recipe: what Optuna suggests, and the recipe that it makes


_WHOLE = ("rank", "epochs", "batch_size")
_OF_LORA = ("rank", "alpha", "dropout")
_JOIN = "+"  # Optuna's choices are texts and numbers, so a list of projections is stored as one text

Value = str | int | float


def suggest_values(trial: Trial, space: TuneSpace) -> dict[str, Value]:
    """Have Optuna choose a value for every name of a space, always in the same order."""
    return {field.name: _suggest(trial, field.name, getattr(space, field.name)) for field in fields(space)}


def _suggest(trial: Trial, name: str, dimension: Dimension) -> Value:
    if dimension.choices:
        choices = [_stored(name, choice) for choice in dimension.choices]
        found = trial.suggest_categorical(name, choices)
        assert found is not None
        return found
    assert dimension.low is not None and dimension.high is not None
    if name in _WHOLE:
        return trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)


def _stored(name: str, choice: object) -> Value:
    if isinstance(choice, list | tuple):
        return _JOIN.join(choice)
    assert isinstance(choice, int | float)
    return int(choice) if name in _WHOLE else float(choice)


def recipe_of(recipe: Recipe, values: Mapping[str, Value]) -> Recipe:
    """Return a recipe with the values of a trial in the place of its own."""
    lora = {name: values[name] for name in _OF_LORA if name in values}
    if "targets" in values:
        lora["targets"] = tuple(str(values["targets"]).split(_JOIN))  # type: ignore[assignment]
    others = {name: value for name, value in values.items() if name not in (*_OF_LORA, "targets")}
    return replace(recipe, lora=replace(recipe.lora, **lora), **others)  # type: ignore[arg-type]
