"""From a search space to a recipe: what Optuna suggests, and the recipe that it makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from optuna import Trial

from registry.study import Recipe
from registry.tunespec import Dimension, TuneSpace

__all__ = ["recipe_of", "suggested"]

_WHOLE = ("rank", "epochs", "batch_size")
_OF_LORA = ("rank", "alpha", "dropout")
_JOIN = "+"  # Optuna's choices are texts and numbers, so a list of projections is stored as one text

Value = str | int | float


def suggested(trial: Trial, space: TuneSpace) -> dict[str, Value]:
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
