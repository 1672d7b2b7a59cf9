"""Training does what a plain padded loop, and transformers' Trainer, do with the same batches."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import SequentialSampler
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    Trainer,
    TrainingArguments,
    get_linear_schedule_with_warmup,
)

from registry.lora import train
from registry.lora.adapter import attached
from registry.lora.tokens import Example
from registry.lora.train import Training, hold_out, mean_loss, train_adapter
from registry.study import LoraSpec, Recipe

RECIPE = Recipe(lora=LoraSpec(rank=4, alpha=8), learning_rate=1e-2, epochs=2, batch_size=8, warmup=0.2, validation=0.0)


@dataclass
class Trained:
    """What came of a training: its account, the adapter's weights, the batches in the order they were used."""

    training: Training
    weights: dict[str, Tensor]
    batches: list[list[Example]]


@pytest.fixture
def run(make_llama, monkeypatch):
    """Train a fresh adapter on a fresh base and note the batches."""

    def do(examples: Sequence[Example], recipe: Recipe = RECIPE, *, seed: int = 1, model=None) -> Trained:
        batches: list[list[Example]] = []
        flat_batch = train.flat_batch

        def noted(examples: Sequence[Example], *rest: object) -> object:
            batches.append(list(examples))
            return flat_batch(examples, *rest)

        monkeypatch.setattr(train, "flat_batch", noted)
        with attached(model or make_llama(), recipe.lora, seed=7) as adapter:
            training = train_adapter(adapter, examples, recipe, seed=seed)
            weights = weights_of(adapter)
        monkeypatch.undo()
        return Trained(training, weights, batches)

    return do


def weights_of(model: PeftModel) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in get_peft_model_state_dict(model).items()}


def padded(examples: Sequence[Example]) -> dict[str, Tensor]:
    """A batch as Trainer makes it: padded on the right, labels -100 where there is no loss."""
    length = max(len(example.tokens) for example in examples)
    tokens = torch.zeros(len(examples), length, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    labels = torch.full_like(tokens, -100)
    for row, example in enumerate(examples):
        size = len(example.tokens)
        tokens[row, :size], mask[row, :size] = torch.tensor(example.tokens), 1
        labels[row, example.supervised_from : size] = torch.tensor(example.tokens[example.supervised_from :])
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def plain_loss(model: PeftModel, examples: Sequence[Example], reduction: str = "mean") -> Tensor:
    batch = padded(examples)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction=reduction)


def plain_training(model: PeftModel, batches: Sequence[Sequence[Example]], recipe: Recipe) -> list[float]:
    """The textbook loop."""
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = get_linear_schedule_with_warmup(optimiser, math.ceil(len(batches) * recipe.warmup), len(batches))
    losses = []
    for batch in batches:
        loss = plain_loss(model, batch)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert list(found) == list(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=tolerance)


def test_training_lowers_the_loss(make_llama, examples) -> None:
    with attached(make_llama(), RECIPE.lora, seed=7) as model:
        before = mean_loss(model, examples, batch_size=8)
        training = train_adapter(model, examples, RECIPE, seed=1)
        assert mean_loss(model, examples, batch_size=8) < 0.8 * before
        assert training.losses[0] == pytest.approx(before, rel=0.5)


def test_every_example_is_seen_once_in_each_epoch_in_another_order(run, examples) -> None:
    trained = run(examples)
    assert [len(batch) for batch in trained.batches] == [8, 8, 8, 6] * 2
    epochs = [[example for batch in half for example in batch] for half in (trained.batches[:4], trained.batches[4:])]
    as_set = sorted(example.tokens for example in examples)
    assert [sorted(example.tokens for example in epoch) for epoch in epochs] == [as_set, as_set]
    assert epochs[0] != epochs[1]
    assert examples not in epochs
    assert trained.training.tokens == 2 * sum(len(example.tokens) - 1 for example in examples)


def test_training_changes_the_adapter_and_not_one_bit_of_the_base(make_llama, examples) -> None:
    base = make_llama()
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    with attached(base, RECIPE.lora, seed=7) as model:
        fresh = weights_of(model)
        train_adapter(model, examples, RECIPE, seed=1)
        trained = weights_of(model)
        assert not any(torch.equal(trained[name], fresh[name]) for name in fresh)
        left = {name for name, weight in model.named_parameters() if weight.grad is not None and "lora_" not in name}
        assert not left
    after = base.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_seed_decides_losses_and_weights(run, examples, dropout: float) -> None:
    recipe = dataclasses.replace(RECIPE, lora=LoraSpec(rank=4, alpha=8, dropout=dropout))
    one, again, other = run(examples, recipe, seed=1), run(examples, recipe, seed=1), run(examples, recipe, seed=2)
    assert one.training.losses == again.training.losses
    assert all(torch.equal(one.weights[name], again.weights[name]) for name in one.weights)
    assert one.training.losses != other.training.losses
    assert not any(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_training_leaves_the_global_generator_where_it_stands(run, examples) -> None:
    run(examples, seed=1)
    before = torch.get_rng_state()
    with torch.random.fork_rng():
        run(examples, seed=2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_losses_and_weights_are_those_of_a_plain_padded_loop(make_llama, run, examples, weight_decay: float) -> None:
    recipe = dataclasses.replace(RECIPE, weight_decay=weight_decay)
    trained = run(examples, recipe)
    with attached(make_llama(), recipe.lora, seed=7) as model:
        model.train()
        expected = plain_training(model, trained.batches, recipe)
        weights = weights_of(model)
    assert len(expected) == 8
    assert trained.training.losses == pytest.approx(expected, abs=1e-5)
    assert_close(trained.weights, weights, 1e-4)


class _SequentialTrainer(Trainer):
    """Trainer that takes the data in the order given and keeps its losses unrounded."""

    def __init__(self, *arguments: object, **fields: object) -> None:
        super().__init__(*arguments, **fields)
        self.losses: list[float] = []
        self.rates: list[float] = []

    def _get_train_sampler(self, dataset: object = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def training_step(self, *arguments: object, **fields: object) -> Tensor:
        self.rates.append(self.lr_scheduler.get_last_lr()[0])
        loss = super().training_step(*arguments, **fields)
        self.losses.append(loss.item())
        return loss


def test_losses_rates_and_weights_are_those_of_transformers_trainer(
    make_llama, monkeypatch, examples, tmp_path: Path
) -> None:
    rows = examples[:24] + examples[6:]
    recipe = dataclasses.replace(RECIPE, epochs=1, clip=0.5, weight_decay=0.1)
    with attached(make_llama(), recipe.lora, seed=7) as model:
        trainer = _SequentialTrainer(
            model=model, args=_arguments(recipe, tmp_path), train_dataset=rows, data_collator=padded
        )
        trainer.train()
        expected = weights_of(model)
    monkeypatch.setattr(torch, "randperm", lambda count, **_: torch.arange(count))
    with attached(make_llama(), recipe.lora, seed=7) as model:
        training = train_adapter(model, rows, recipe, seed=1)
        weights = weights_of(model)
    assert len(trainer.losses) == 6
    assert training.losses == pytest.approx(trainer.losses, abs=1e-5)
    assert training.learning_rates == pytest.approx(trainer.rates, rel=1e-9)
    assert_close(weights, expected, 1e-4)


def _arguments(recipe: Recipe, folder: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=recipe.batch_size,
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup,
        lr_scheduler_type="linear",
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.clip,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )


def test_losses_are_right_where_a_text_is_longer_than_the_sliding_window(tokenizer, run, examples) -> None:
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=6,
        initializer_range=0.15,
    )
    torch.manual_seed(0)
    model = MistralForCausalLM(config).eval().requires_grad_(False)
    trained = run(examples, model=model)
    with attached(model, RECIPE.lora, seed=7) as adapter:
        expected = plain_training(adapter, trained.batches, RECIPE)
    assert trained.training.losses == pytest.approx(expected, abs=1e-5)


def test_the_rate_rises_over_the_warm_up_and_falls_to_nearly_zero(run, examples) -> None:
    rates = run(examples).training.learning_rates
    assert rates == pytest.approx([1e-2 * factor for factor in (0, 1 / 2, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6)])


def test_the_epoch_with_the_lowest_validation_loss_is_kept(make_llama, examples) -> None:
    recipe = dataclasses.replace(RECIPE, learning_rate=0.05, warmup=0.0, epochs=5, validation=0.4)
    with attached(make_llama(), recipe.lora, seed=7) as model:
        training = train_adapter(model, examples, recipe, seed=1)
        _, held = hold_out(examples, recipe)
        assert len(training.validation_losses) == 5
        assert training.kept_epoch == 1 + training.validation_losses.index(min(training.validation_losses))
        assert 1 < training.kept_epoch < 5, "neither the first nor the last, or nothing is shown"
        assert mean_loss(model, held, batch_size=8) == min(training.validation_losses)


def test_without_validation_the_last_epoch_is_kept(run, examples) -> None:
    training = run(examples).training
    assert (training.kept_epoch, training.validation_losses) == (2, [])


def test_the_mean_loss_weighs_tokens_not_batches(adapter, examples) -> None:
    counts = [len(example.tokens) - example.supervised_from for example in examples]
    assert len(set(counts)) > 1
    with torch.inference_mode():
        expected = sum(plain_loss(adapter.eval(), [example], "sum").item() for example in examples) / sum(counts)
    for batch_size in (1, 7, 100):
        assert mean_loss(adapter, examples, batch_size=batch_size) == pytest.approx(expected, abs=1e-5)


def test_a_loss_that_is_not_finite_stops_the_training_with_its_step(make_llama, examples) -> None:
    recipe = dataclasses.replace(RECIPE, learning_rate=1e30, warmup=0.0)
    with (
        attached(make_llama(), recipe.lora, seed=7) as model,
        pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step 1.*lower learning_rate"),
    ):
        train_adapter(model, examples, recipe, seed=1)


def test_no_examples_are_refused(adapter) -> None:
    with pytest.raises(ValueError, match="0 examples leave none"):
        train_adapter(adapter, [], RECIPE, seed=1)


def test_what_is_held_out_is_decided_by_the_validation_seed_alone(examples) -> None:
    recipe = dataclasses.replace(RECIPE, validation=0.25)
    training, held = hold_out(examples, recipe)
    assert (len(training), len(held)) == (23, 7)
    assert sorted(map(repr, training + held)) == sorted(map(repr, examples))
    torch.manual_seed(123)
    assert hold_out(examples, dataclasses.replace(recipe, learning_rate=1.0, epochs=9)) == (training, held)
    assert hold_out(examples, dataclasses.replace(recipe, validation_seed=43)) != (training, held)


def test_a_held_out_example_is_never_trained_on(run, examples) -> None:
    recipe = dataclasses.replace(RECIPE, validation=0.25)
    _, held = hold_out(examples, recipe)
    trained = run(examples, recipe)
    validated = [example for batch in trained.batches if batch[0] in held for example in batch]
    seen = [example for batch in trained.batches if batch[0] not in held for example in batch]
    assert validated == held * recipe.epochs
    assert not [example for example in seen if example in held]
