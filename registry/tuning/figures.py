"""Figures of a search: the objective trial by trial, and which names of the recipe it depends on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import optuna
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import TrialState

__all__ = ["draw_history", "draw_importances", "importances"]

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
