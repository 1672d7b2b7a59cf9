"""What a search looks for: transfer weighed against harm, or the validation loss, told epoch by epoch."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
import torch

from registry.cells import Cell
from registry.config.files import spec_of
from registry.config.study import LoraSpec, Recipe
from registry.lora.adapter import fresh_adapter
from registry.lora.encoding import Example
from registry.lora.train import Assignment, train_adapter
from registry.tuning import objective
from registry.tuning.objective import transfer_value
from registry.tuning.preparation import prepare_search


def test_transfer_weighs_gain_in_other_languages_against_harm_to_other_tasks() -> None:
    source = Cell("a", "en")
    baseline = {Cell(task, language): 0.5 for task in "abc" for language in ("en", "tr", "sw")}
    changed = {
        Cell("a", "en"): 0.9,  # the trained cell itself counts for nothing
        Cell("a", "tr"): 0.56,
        Cell("a", "sw"): 0.52,
        Cell("b", "en"): 0.47,  # 3 points of harm
        Cell("c", "tr"): 0.41,  # 9 points of harm
        Cell("b", "tr"): 0.9,  # a gain off the task counts for nothing
    }
    value, gain, harm = transfer_value(source, baseline | changed, baseline, weight=0.5)
    assert (gain, harm) == pytest.approx((4.0, 12 / 6))
    assert value == pytest.approx(4.0 - 0.5 * 2.0)


def test_validation_loss_is_that_of_the_epoch_that_the_study_would_keep(study, monkeypatch) -> None:
    losses = {"kind": [3.0, 1.0, 2.0], "pair": [5.0, 6.0, 4.5]}

    def training(model, assignments, recipe, **_):
        for epoch in range(3):
            for one, curve in zip(assignments, losses.values(), strict=True):
                one.validated(epoch + 1, curve[epoch])
        return []

    monkeypatch.setattr(objective, "train_adapters", training)
    for share, steps in ((0.0, [4.0, 3.5, 3.25]), (0.1, [4.0, 3.0, 2.75])):
        recipe = replace(study.recipe, validation=share, epochs=3)
        search = prepare_search(replace(study, recipe=recipe), spec_of(study))
        bench = objective.Workbench(search.experiment, search.spec, seed=1, device="cpu")
        found: dict[int, float] = {}
        measured = bench.measure(recipe, found.__setitem__, lambda what, share: None)
        assert found == dict(enumerate(steps, 1))
        assert measured.value == steps[-1]


def test_a_training_tells_every_epoch_and_may_be_stopped(llama) -> None:
    before = {name: weight.clone() for name, weight in llama.state_dict().items()}
    examples = [Example((1, 5, n, 7), 2) for n in range(10, 26)]
    recipe = Recipe(epochs=3, batch_size=4, validation=0.25)
    adapter = fresh_adapter(llama, LoraSpec(rank=2), seed=1)
    seen: list[tuple[int, float]] = []
    whole = train_adapter(llama, Assignment(adapter, examples, 1, validated=lambda *t: seen.append(t)), recipe)
    assert seen == list(enumerate(whole.validation_losses, 1))

    def stop(epoch: int, loss: float) -> None:
        raise optuna.TrialPruned

    with pytest.raises(optuna.TrialPruned):
        train_adapter(llama, Assignment(adapter, examples, 1, validated=stop), recipe)
    assert not llama.training
    assert all(torch.equal(weight, before[name]) for name, weight in llama.state_dict().items())
