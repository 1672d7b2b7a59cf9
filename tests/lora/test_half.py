"""Training in fp16 scales the loss as torch.amp.GradScaler does; what overflows is skipped, or told."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import get_linear_schedule_with_warmup

from registry.config.study import LoraSpec, Recipe
from registry.lora import microbatches, training_state
from registry.lora.adapter import Adapter, fresh_adapter
from registry.lora.bank import Bank, merged, put_on
from registry.lora.encoding import Continuations, Example
from registry.lora.score import ScoringSet, loglikelihoods
from registry.lora.train import Assignment, train_adapter, train_adapters, train_full
from registry.lora.trial import batching_of
from tests.lora.test_train import assignment, plain_loss, weights_of

RECIPE = Recipe(
    lora=LoraSpec(rank=4, alpha=8), learning_rate=1e-2, epochs=2, batch_size=8, warmup=0.2, precision="fp16"
)
LARGE = 2.0**24  # a scale at which the first gradients overflow


@pytest.fixture
def half(make_llama):
    """Make the tiny base with weights in fp16."""

    def make():
        model = make_llama()
        for weight in model.parameters():  # as `from_pretrained` does it: buffers stay float32
            weight.data = weight.data.half()
        return model

    return make


@pytest.fixture
def scale(monkeypatch):
    """Begin with another scale than 65,536."""

    def begin(value: float) -> None:
        monkeypatch.setattr(torch.amp, "GradScaler", functools.partial(torch.amp.GradScaler, init_scale=value))

    return begin


def test_an_adapter_trains_as_it_does_in_fp32(make_llama, half, examples) -> None:
    base = half()
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    found = train_adapter(base, assignment(base, examples, RECIPE), RECIPE)
    whole = make_llama()
    recipe = dataclasses.replace(RECIPE, precision="fp32")
    expected = train_adapter(whole, assignment(whole, examples, recipe), recipe)
    assert found.losses == pytest.approx(expected.losses, abs=0.02)
    assert found.validation_losses == pytest.approx(expected.validation_losses, abs=0.02)
    assert found.losses[-1] < found.losses[0] - 0.5
    assert found.skipped == expected.skipped == 0
    assert all(weight.dtype == torch.float32 for weight in weights_of(found.adapter).values())
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())


def test_every_weight_trains_as_it_does_in_fp32(make_llama, half, scale, examples) -> None:
    scale(1024.0)  # at the usual one so crude a base skips its first steps
    recipe = dataclasses.replace(RECIPE, method="full", learning_rate=2e-3)
    found = train_full(half(), examples, recipe, seed=1)
    expected = train_full(make_llama(), examples, dataclasses.replace(recipe, precision="fp32"), seed=1)
    assert found.skipped == 0
    assert found.losses == pytest.approx(expected.losses, abs=0.05)
    assert found.losses[-1] < found.losses[0] - 0.5


def test_gradients_too_small_for_fp16_are_not_lost(make_llama, half, scale, examples) -> None:
    def gradient(base, precision: str) -> Tensor:
        seen: list[Tensor] = []
        recipe = dataclasses.replace(RECIPE, precision=precision, batch_size=30, epochs=1, validation=0.0)
        clip = torch.nn.utils.clip_grad_norm_
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                torch.nn.utils,
                "clip_grad_norm_",
                lambda weights, most: seen.extend(weight.grad.clone() for weight in weights) or clip(weights, most),
            )
            patch.setattr(
                microbatches, "_total", lambda means, courses, own=microbatches._total: own(means * 1e-7, courses)
            )
            train_adapter(base, assignment(base, examples, recipe), recipe)
        return torch.cat([part.flatten() for part in seen]) * 1e7

    expected = gradient(make_llama(), "fp32")
    assert (gradient(half(), "fp16") - expected).norm() < 0.05 * expected.norm()
    scale(1.0)
    assert (gradient(half(), "fp16") - expected).norm() > 0.2 * expected.norm(), "without a scale they are"


def test_steps_are_skipped_and_the_scale_halved_as_torchs_scaler_does(half, scale, examples) -> None:
    scale(LARGE)
    recipe = dataclasses.replace(RECIPE, validation=0.0, epochs=5)
    base = half()
    training = train_adapter(base, assignment(base, examples, recipe), recipe)
    order = torch.Generator().manual_seed(1)
    batches: list[list[Example]] = []
    for _ in range(recipe.epochs):
        shuffled = [examples[i] for i in torch.randperm(len(examples), generator=order).tolist()]
        batches += [shuffled[start : start + 8] for start in range(0, len(shuffled), 8)]
    expected = _plain(base, fresh_adapter(base, recipe.lora, seed=7), batches, recipe)
    assert 1 < training.skipped == expected.skipped < len(batches) / 2
    assert training.learning_rates == pytest.approx(expected.rates)
    assert training.learning_rates[0] == training.learning_rates[1] == 0.0, "the schedule stood still"
    assert training.losses == pytest.approx(expected.losses, abs=0.02)


@dataclasses.dataclass
class _Plain:
    losses: list[float]
    rates: list[float]
    skipped: int


def _plain(base: nn.Module, adapter: Adapter, batches: list[list[Example]], recipe: Recipe) -> _Plain:
    """The loop of torch's documentation, on padded batches."""
    bank = Bank(base, [adapter])
    parameters = bank.parameters[0]
    assert {weight.dtype for weight in parameters} == {torch.float32}
    optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimiser, math.ceil(len(batches) * recipe.warmup), len(batches))
    scaler, done = torch.amp.GradScaler("cpu"), _Plain([], [], 0)
    for batch in batches:
        with put_on(base, bank):
            loss = plain_loss_in_float32(base, batch)
            scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        done.rates.append(schedule.get_last_lr()[0])
        done.losses.append(loss.item())
        before = scaler.get_scale()
        scaler.step(optimiser)
        scaler.update()
        if scaler.get_scale() < before:
            done.skipped += 1
        else:
            schedule.step()
        optimiser.zero_grad()
    return done


def plain_loss_in_float32(model: nn.Module, batch: list[Example]) -> Tensor:
    class Raised(nn.Module):
        def forward(self, **fields: Tensor) -> object:
            result = model(**fields)
            result.logits = result.logits.float()
            return result

    return plain_loss(Raised(), batch)


def test_each_of_several_adapters_has_a_scale_of_its_own(half, scale, examples) -> None:
    scale(LARGE)
    recipe, base = dataclasses.replace(RECIPE, validation=0.0, epochs=4), half()
    given = [
        Assignment(fresh_adapter(base, recipe.lora, seed=seed), part, seed)
        for seed, part in ((1, examples), (2, examples[:3]))
    ]
    together = train_adapters(base, given, recipe)
    alone = [train_adapter(base, one, recipe) for one in given]
    assert [training.skipped for training in together] == [training.skipped for training in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.learning_rates == other.learning_rates
        assert one.losses == pytest.approx(other.losses, abs=0.02)


def test_a_training_that_was_killed_goes_on_with_its_scale(half, scale, monkeypatch, examples, tmp_path: Path) -> None:
    monkeypatch.setattr(training_state, "_SAVED_AFTER_SECONDS", 0.0)
    scale(LARGE)
    recipe, base, file = dataclasses.replace(RECIPE, epochs=5), half(), tmp_path / "one.safetensors"
    undisturbed = train_adapter(base, assignment(base, examples, recipe), recipe)
    assert undisturbed.skipped > 4, "some are skipped after the epoch that is saved"

    def kill(share: float) -> None:
        if share > 1 / 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_adapter(base, assignment(base, examples, recipe, checkpoint=file), recipe, progress=kill)
    resumed = train_adapter(base, assignment(base, examples, recipe, checkpoint=file), recipe)
    assert (resumed.losses, resumed.learning_rates) == (undisturbed.losses, undisturbed.learning_rates)
    assert resumed.skipped == undisturbed.skipped
    found, expected = weights_of(resumed.adapter), weights_of(undisturbed.adapter)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_gradients_that_overflow_at_every_scale_end_the_training(half, monkeypatch, examples) -> None:
    monkeypatch.setattr(
        microbatches, "_total", lambda means, courses, own=microbatches._total: own(means, courses) * math.inf
    )
    recipe, base = dataclasses.replace(RECIPE, epochs=9), half()
    with pytest.raises(FloatingPointError, match=r"overflow in fp16 at step 16 however they are scaled.*bf16"):
        train_adapter(base, assignment(base, examples, recipe), recipe)


def test_activations_that_overflow_are_told(half, examples) -> None:
    base = half()
    batching_of(base)  # which would refuse it
    base.model.layers[1].mlp.down_proj.weight.data.mul_(60000.0)
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 0: .*precision bf16 or fp32"):
        train_adapter(base, assignment(base, examples, RECIPE), RECIPE)
    queries = [Continuations(example.tokens[:4], (example.tokens[4:6], example.tokens[5:7])) for example in examples]
    with pytest.raises(FloatingPointError, match="of 30 questions are not a number; fp16 overflows"):
        loglikelihoods(base, ScoringSet(queries, tokens_per_batch=512, max_length=64))


def test_scores_are_those_of_fp32_but_for_rounding_and_the_base_stays(
    make_llama, half, adapter: Adapter, examples
) -> None:
    queries = [Continuations(example.tokens[:4], (example.tokens[4:6], example.tokens[5:7])) for example in examples]
    questions = ScoringSet(queries, tokens_per_batch=512, max_length=64)
    with merged(make_llama(), adapter) as whole:
        expected = loglikelihoods(whole, questions)
    base = half()
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    with merged(base, adapter) as whole:
        found = loglikelihoods(whole, questions)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=0.05)
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())
