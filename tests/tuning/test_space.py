"""What a search varies: recipes that can be trained, and mistakes told with their line."""

from __future__ import annotations

from dataclasses import fields

import pytest

from registry.config.files import load_study
from registry.config.study import Recipe
from registry.config.tuning import Dimension, TuneSpace
from registry.errors import Refused
from registry.tuning.storage import recipe_of
from tests.tuning.trials import SPLIT, TUNE


def test_every_default_is_a_recipe() -> None:
    space = TuneSpace()
    for field in fields(space):
        for value in getattr(space, field.name).values:
            stored = "+".join(value) if isinstance(value, tuple) else value
            recipe = recipe_of(Recipe(), {field.name: stored})
            found = getattr(recipe, field.name, None) or getattr(recipe.lora, field.name, None)
            assert found == value or (value == 0.0 and not found)


@pytest.mark.parametrize(
    ("name", "bad"), [("rank", 0), ("rank", 1.5), ("dropout", 1.0), ("learning_rate", 0.0), ("epochs", 0)]
)
def test_what_a_recipe_refuses_the_space_refuses(name: str, bad: float) -> None:
    with pytest.raises(ValueError):
        recipe_of(Recipe(), {name: bad})
    with pytest.raises(ValueError, match=name):
        TuneSpace(**{name: Dimension(choices=(bad,))})


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  startup", "  strtup", "small.yaml:10 in tune: there is no key 'strtup'; nearest: startup"),
        ("    rank: [2]", "    rnk: [2]", "in tune.space: there is no key 'rnk'; nearest: rank"),
        ("{low: 1, high", "{low: 1, hihg", "in tune.space.epochs: there is no key 'hihg'; nearest: high"),
        ("{low: 1, high: 2}", "{low: 2, high: 1}", "tune.space.epochs: low 2 is not below high 1"),
        ("alpha: [4, 8]", "alpha: {low: 0, high: 8, log: true}", "a logarithmic range cannot begin at 0"),
        ("[1.0e-12, 5", "[1e-5, 5", "YAML reads 1e-5 as text: write 1.0e-5"),
        ("[[q_proj, v_proj]]", "[q_proj, v_proj]", "targets: 'q_proj' is no list of projections"),
        ("trials: 4", "trials: 0", "tune.trials: input should be greater than 0 (got 0)"),
    ],
)
def test_a_mistake_in_the_study_file_is_told(study_file, old: str, new: str, expected: str) -> None:
    assert old in TUNE
    file = study_file((SPLIT, SPLIT + TUNE.replace(old, new)))
    with pytest.raises(Refused) as refused:
        load_study(str(file))
    assert expected in str(refused.value)
