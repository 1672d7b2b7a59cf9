"""What a search ends with: the best recipe in a study file ready to run, a table of trials, and figures."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import matplotlib as mpl
import optuna
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import TrialState

from registry.config.study import Study
from registry.config.types import LONGEST_NAME
from registry.errors import Refused
from registry.files.outputs import staged
from registry.planning import design_files
from registry.tracking.metric_names import BEST_VALUE, importance, of_search, trials_in_state
from registry.tuning.storage import RUN, Trials, recipe_of

__all__ = [
    "Conclusion",
    "conclude",
    "draw_history",
    "draw_importances",
    "importances",
    "place_files",
    "tuned_study",
    "write_files",
]

_SUFFIX = "-tuned"


@dataclass(frozen=True)
class Conclusion:
    """The best trial and where its study is.

    Attributes
    ----------
    number, value
        The best trial and its objective.
    study
        The study with its recipe.
    folder, given
        Where the files go, and the study file's path as a command names it.
    metrics
        Of the search's run: the best value, numbers behind it, how many trials ended how, importances.
    run_id, best_run
        Run of the search (empty where there was nothing left to do) and of the best trial.
    """

    number: int
    value: float
    study: Study
    folder: Path
    given: Path
    metrics: Mapping[str, float]
    best_run: str
    run_id: str = ""
    importances: Mapping[str, float] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """What runs the tuned study."""
        return f"mlflow run . -e study --env-manager local -P study={shlex.quote(str(self.given))}"


def tuned_study(study: Study, params: Mapping[str, str | int | float]) -> Study:
    """Return a study named ``<study>-tuned`` with a trial's recipe; it follows no published protocol any more."""
    name = study.name[: LONGEST_NAME - len(_SUFFIX)] + _SUFFIX
    return replace(study, name=name, protocol=None, recipe=recipe_of(study.recipe, params), tune=None)


def conclude(trials: Trials, output: str, failures: Sequence[str] = ()) -> Conclusion:
    """Find the best of the completed trials.

    Parameters
    ----------
    output : str
        Folder for the files, or the path of the study file, ending in ``.yaml``; empty takes ``reports/<study>/tune``.
    failures : sequence of str
        Why trials of this process failed.

    Raises
    ------
    Refused
        If no trial was completed.
    """
    if not trials.valid(TrialState.COMPLETE):
        raise _nothing(trials, failures)
    best = trials.study.best_trial
    study = tuned_study(trials.search.study, best.params)
    path = Path(output or Path("reports") / trials.search.study.name / "tune")
    if path.suffix not in (".yaml", ".yml"):
        path = path / f"{study.name}.yaml"
    run = str(best.user_attrs.get(RUN, ""))
    behind = trials.client.get_run(run).data.metrics if run else {}
    shares = importances(trials.study)
    metrics = {key: value for key, value in behind.items() if of_search(key)}
    metrics |= {importance(name): share for name, share in shares.items()}
    for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL):
        metrics[trials_in_state(state.name.lower())] = len(trials.valid(state))
    assert best.value is not None
    metrics[BEST_VALUE] = best.value
    return Conclusion(best.number, best.value, study, path.parent, path, metrics, run, importances=shares)


def _nothing(trials: Trials, failures: Sequence[str]) -> Refused:
    states = [trial.state for trial in trials.valid()]
    shown = ", ".join(f"{states.count(state)} {state.name.lower()}" for state in dict.fromkeys(states)) or "none begun"
    remedy = "lower tune.space.learning_rate, or raise trials or timeout; the same command then goes on from here"
    message = f"no trial of {trials.search.name!r} was completed, so there is no best recipe ({shown}); {remedy}"
    return Refused("\n".join([message, *failures[:3]]))


def place_files(found: Conclusion, trials: Trials) -> Conclusion:
    """Put the study file, ``trials.csv`` and the figures into the user's folder, next to what else is there.

    Raises
    ------
    Refused
        If files of somebody else stand in the way.
    """
    with staged(found.folder, "tune", is_former=_is_former) as staging:
        write_files(replace(found, folder=staging.folder), trials)
    return found


def _is_former(file: Path) -> bool:
    """Whether a search wrote a file before it kept a list of its files."""
    if file.suffix in (".yaml", ".yml"):
        with file.open("rb") as content:
            return content.readline().startswith(b"# mlflow run ")
    table = file.parent / "trials.csv"
    if not table.is_file():
        return False
    with table.open("rb") as content:
        return content.readline().startswith(b"trial,state,")


def write_files(found: Conclusion, trials: Trials) -> Conclusion:
    """Write the study file, ``trials.csv`` and the figures into the conclusion's folder."""
    found.folder.mkdir(parents=True, exist_ok=True)
    (found.folder / found.given.name).write_text(_study_text(found, trials), encoding="utf-8")
    _write_table(trials, found.folder / "trials.csv")
    draw_history(trials.study, trials.search.spec.objective, found.folder)
    if found.importances:
        draw_importances(found.importances, found.folder)
    return found


def _study_text(found: Conclusion, trials: Trials) -> str:
    search = trials.search
    comment = (
        f"# {found.command}\n#\n"
        f"# Study {search.study.name} with the recipe of trial {found.number} of a search on {search.model}:\n"
        f"# {search.spec.objective} {found.value:.6g}, the best of {len(trials.valid())} trials, judged on training "
        "items held out.\n"
    )
    return comment + design_files.study_yaml(found.study)


def _write_table(trials: Trials, path: Path) -> None:
    """Write a row per trial: number, state, objective, its run, and its values."""
    counted = trials.valid()
    names = sorted({name for trial in counted for name in trial.params})
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("trial", "state", trials.search.spec.objective, "run", *names))
        for trial in counted:
            values = (trial.params.get(name, "") for name in names)
            shown = "" if trial.value is None else trial.value
            rows.writerow((trial.number, trial.state.name.lower(), shown, trial.user_attrs.get(RUN, ""), *values))


# --- figures of a search: the objective trial by trial, and which names of the recipe it depends on


_INK, _MUTED, _BLUE = "#1b1f24", "#5f6b7a", "#0072b2"
_STYLE = {"svg.hashsalt": "donors-recipients", "axes.spines.top": False, "axes.spines.right": False, "font.size": 9.5}


def importances(study: optuna.Study) -> dict[str, float]:
    """Share of the objective's variation among good trials that each name of the recipe explains (PED-ANOVA).

    Empty with fewer than two completed trials, or where all have the same value: nothing then depends on anything.
    """
    values = {trial.value for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))}
    return optuna.importance.get_param_importances(study) if len(values) > 1 else {}


def draw_history(study: optuna.Study, objective: str, folder: Path) -> None:
    """Draw ``history.png`` and ``.svg``: each completed trial, the best so far, and the pruned ones at the bottom."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    better = max if study.direction is optuna.study.StudyDirection.MAXIMIZE else min
    numbers, values = [trial.number for trial in complete], [float(trial.value or 0.0) for trial in complete]
    best = [better(values[: place + 1]) for place in range(len(values))]
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.step(numbers, best, where="post", color=_BLUE, label="best so far")
        axes.scatter(numbers, values, color=_INK, s=18, zorder=3, label="completed")
        for place, trial in enumerate(pruned):
            axes.axvline(trial.number, color=_MUTED, lw=0.8, ls=":", label=None if place else "pruned")
        axes.set(xlabel="trial", ylabel=objective.replace("_", " "), title="Objective, trial by trial")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
        _save(figure, folder / "history")


def draw_importances(shares: Mapping[str, float], folder: Path) -> None:
    """Draw ``importances.png`` and ``.svg``: a bar for each name of the recipe."""
    names = list(shares)[::-1]
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(6.4, 1.2 + 0.32 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        bars = axes.barh(names, [shares[name] for name in names], color=_BLUE)
        axes.bar_label(bars, fmt="%.2f", padding=3, color=_MUTED)
        axes.set(xlabel="share of the variation explained (PED-ANOVA)", title="What the objective depends on")
        axes.margins(x=0.1)
        _save(figure, folder / "importances")


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path.with_suffix(".png"), dpi=160)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
