"""Searching: trial after trial, each a run nested in that of the search; bad ones stopped early."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NoReturn

import optuna
import torch
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from registry.files.disks import disk_problem
from registry.planning import design_files
from registry.tracking.metric_names import TRIAL_OBJECTIVE, TRIAL_VALUE
from registry.tracking.names import Kind, Tag, run_name
from registry.tracking.recording import Recording
from registry.tracking.runs import recorded
from registry.tuning.conclusion import Conclusion, conclude, place_files, write_files
from registry.tuning.objective import Progress, Report, TrialOutcome, Workbench
from registry.tuning.preparation import Search
from registry.tuning.storage import RUN, Trials, recipe_of, suggest_values

__all__ = ["run_search"]

_QUIET_SECONDS = 20.0  # between lines where there is no terminal to redraw


def run_search(trials: Trials, output: str) -> Conclusion:
    """Do what a search has left, under a run of its own, and write the study with the best recipe.

    Where nothing is left, the files are written again and nothing is recorded.

    Raises
    ------
    Refused
        If no trial could be completed.
    """
    if not trials.remaining and not trials.unmarked:
        return place_files(conclude(trials, output), trials)
    search = trials.search
    with recorded(
        trials.client,
        trials.experiment_id,
        kind=Kind.TUNE,
        name=run_name(Kind.TUNE, f"{search.study.name} {search.model}"),
        tags=_tags(search),
        params=_params(search),
        description=_description(search),
    ) as recording:
        failures = _TrialLoop(trials, recording.run_id).go()
        found = replace(conclude(trials, output, failures), run_id=recording.run_id)
        with recording.folder() as folder:
            write_files(replace(found, folder=folder), trials)
        recording.metrics(found.metrics)
        recording.tags({Tag.BEST_TRIAL: found.number, Tag.BEST_RUN: found.best_run})
        place_files(found, trials)
    return found


@dataclass
class _TrialLoop:
    """One process's trials."""

    trials: Trials
    parent: str
    failures: list[str] = field(default_factory=list)

    def go(self) -> list[str]:
        """Claim and do trials until enough are begun or the time is up; return why some failed."""
        spec, began = self.trials.search.spec, time.monotonic()
        begun, bench = len(self.trials.valid()), _workbench(self.trials.search)
        with tqdm(
            total=spec.trials,
            initial=begun,
            desc="tune",
            unit="trial",
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
        ) as bar:
            while trial := self._next(began):
                started = time.monotonic()
                outcome = self._do(trial, bench, _TrialProgress(bar, trial.number).moved)
                bar.update(1)
                self._say(trial, outcome, time.monotonic() - started)
        return self.failures

    def _next(self, began: float) -> optuna.Trial | None:
        timeout = self.trials.search.spec.timeout
        if timeout and time.monotonic() - began >= timeout:
            tqdm.write(f"stopped after {timeout:g} s; the same command goes on from here", file=sys.stderr)
            return None
        return self.trials.claim(self.parent)

    def _say(self, trial: optuna.Trial, outcome: str, seconds: float) -> None:
        done, of = len(self.trials.valid()), self.trials.search.spec.trials
        complete = self.trials.valid(TrialState.COMPLETE)
        best = ""
        if complete:
            number, value = self.trials.study.best_trial.number, self.trials.study.best_value
            best = f"; best {value:.4g} (trial {number})"
        left = f", about {(of - done) * seconds:.0f} s to go" if done < of else ""
        tqdm.write(f"trial {trial.number}: {outcome}, {seconds:.1f} s; {done}/{of}{best}{left}", file=sys.stderr)

    def _do(self, trial: optuna.Trial, bench: Workbench, progress: Progress) -> str:
        """Do a trial, in a run of its own; an error of the recipe ends this trial alone.

        A full disk or a store that is away is no fault of the recipe: it ends the search, which tries the trial again.
        """
        search = self.trials.search
        values = suggest_values(trial, search.spec.space)
        study = replace(search.study, recipe=recipe_of(search.study.recipe, values))
        try:
            with recorded(
                self.trials.client,
                self.trials.experiment_id,
                kind=Kind.TRIAL,
                name=f"trial {trial.number} {search.study.name} {search.model}",
                tags=_tags(search) | {MLFLOW_PARENT_RUN_ID: self.parent},
                params=design_files.parameters(study) | {"trial": trial.number},
                description=f"Trial {trial.number} of a search for a recipe by {search.spec.objective}.",
            ) as recording:
                trial.set_user_attr(RUN, recording.run_id)
                return self._measure(trial, partial(bench.measure, study.recipe, progress=progress), recording)
        except Exception as error:
            if _is_of_storage(error):
                raise
            self.failures.append(f"trial {trial.number}: {type(error).__name__}: {error}")
            return f"failed ({type(error).__name__}: {error})"

    def _measure(self, trial: optuna.Trial, measure: Callable[[Report], TrialOutcome], recording: Recording) -> str:
        def report(step: int, value: float) -> None:
            trial.report(value, step)
            recording.metrics({TRIAL_OBJECTIVE: value}, step=step)
            if trial.should_prune():
                raise optuna.TrialPruned(f"worse than the median of the others at step {step}")

        try:
            measured = measure(report)
        except (optuna.TrialPruned, FloatingPointError) as stop:
            recording.tags({Tag.TRIAL_STATE: "pruned", Tag.PRUNED_BECAUSE: stop})
            self.trials.study.tell(trial, state=TrialState.PRUNED)
            return f"pruned, {stop}"
        except Exception as error:
            if _is_of_storage(error):
                raise
            recording.tags({Tag.TRIAL_STATE: "failed"})
            self.trials.study.tell(trial, state=TrialState.FAIL)
            raise
        recording.metrics({**measured.metrics, TRIAL_VALUE: measured.value})
        recording.tags({Tag.TRIAL_STATE: "complete"})
        self.trials.study.tell(trial, measured.value)
        return f"{self.trials.search.spec.objective} {measured.value:.4g}"


def _is_of_storage(error: Exception) -> bool:
    """Whether an error is of a disk, the tracking store or Optuna's storage."""
    return (
        isinstance(error, MlflowException | SQLAlchemyError | StorageInternalError) or disk_problem(error) is not None
    )


@dataclass
class _TrialProgress:
    """What one trial is doing: on the bar of a terminal, elsewhere in a line now and then."""

    bar: tqdm[NoReturn]
    number: int
    _said: float = field(default_factory=time.monotonic)

    def moved(self, what: str, share: float) -> None:
        """A trial is at a share of something."""
        if not self.bar.disable:
            self.bar.set_postfix_str(f"trial {self.number} {what} {share:.0%}")
        elif time.monotonic() - self._said > _QUIET_SECONDS:
            self._said = time.monotonic()
            tqdm.write(f"trial {self.number}: {what} {share:.0%}", file=sys.stderr)


def _workbench(search: Search) -> Workbench:
    torch.set_num_threads(1)  # as in a study, so that results are the same to the last digit
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    tqdm.write(f"loading {search.model}, {len(search.experiment.sources)} sources", file=sys.stderr)
    return Workbench(search.experiment, search.spec, seed=search.seed, device=device)


def _tags(search: Search) -> dict[str, object]:
    base = search.experiment.bases[search.model]
    return {
        Tag.STUDY: search.study.name,
        Tag.BASE_MODEL: base.name,
        Tag.BASE_REVISION: base.revision,
        Tag.MODEL_FAMILY: base.family,
        Tag.MODEL_SIZE_B: f"{base.size_b:g}",
        Tag.SEED: search.seed,
        Tag.OBJECTIVE: search.spec.objective,
        Tag.TUNING: search.name,
    }


def _params(search: Search) -> dict[str, object]:
    spec = search.spec
    return {
        "objective": spec.objective,
        "harm_weight": spec.harm_weight,
        "validation": spec.validation,
        "sources": ",".join(map(str, search.experiment.sources)),
        "trials": spec.trials,
        "timeout": spec.timeout,
        "startup": spec.startup,
        "pruner": spec.pruner,
    }


def _description(search: Search) -> str:
    sources = ", ".join(f"**{source}**" for source in search.experiment.sources)
    return (
        f"Search for a LoRA recipe of **{search.model}** by `{search.spec.objective}`, trained on {sources}; judged on "
        f"items held out of the training side, no test item is read. Its trials are nested here; those of every "
        f"command of this search have `tags.{Tag.TUNING} = '{search.name}'`."
    )
