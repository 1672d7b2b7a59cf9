"""Training does what a plain padded loop, and transformers' Trainer, do with the same batches."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
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

from registry.config.study import LoraSpec, Recipe
from registry.errors import Refused
from registry.lora import microbatches, train, training_state
from registry.lora.adapter import Adapter, fresh_adapter
from registry.lora.bank import Bank, put_on
from registry.lora.encoding import Example
from registry.lora.forward import Batching, reading
from registry.lora.train import Assignment, Training, hold_out, train_adapter, train_adapters
from registry.lora.trial import batching_of

RECIPE = Recipe(lora=LoraSpec(rank=4, alpha=8), learning_rate=1e-2, epochs=2, batch_size=8, warmup=0.2, validation=0.0)


@dataclass
class Trained:
    """What came of a training, and the batches in the order they were used."""

    training: Training
    batches: list[list[Example]]

    @property
    def weights(self) -> dict[str, Tensor]:
        return weights_of(self.training.adapter)


@pytest.fixture
def run(make_llama, monkeypatch):
    """Train a fresh adapter on a fresh base and note the batches."""

    def do(examples: Sequence[Example], recipe: Recipe = RECIPE, *, seed: int = 1, model=None, **options) -> Trained:
        batches: list[list[Example]] = []
        lay_out = microbatches.examples_batch

        def noted(groups: Sequence[Sequence[Example]], **fields: object) -> object:
            batches.extend(list(group) for group in groups)
            return lay_out(groups, **fields)

        base = model or make_llama()
        with monkeypatch.context() as patch:
            patch.setattr(microbatches, "examples_batch", noted)
            training = train_adapter(base, assignment(base, examples, recipe, seed=seed), recipe, **options)
        return Trained(training, batches)

    return do


def assignment(base, examples: Sequence[Example], recipe: Recipe = RECIPE, *, seed: int = 1, **fields) -> Assignment:
    return Assignment(fresh_adapter(base, recipe.lora, seed=7), examples, seed, **fields)


def mean_loss(base, adapter: Adapter, examples: Sequence[Example], *, batch_size: int) -> float:
    """Mean cross-entropy over all supervised tokens, in nats, as a validation computes it."""
    bank, batching = Bank(base, [adapter]), batching_of(base)
    with put_on(base, bank), reading(base, batching) as forward:
        return microbatches.Microbatches(base, bank, forward, batching, None).losses([0], [examples], batch_size)[0]


def weights_of(model: PeftModel | Adapter) -> dict[str, Tensor]:
    """Weights by PEFT's names."""
    if isinstance(model, PeftModel):
        return {name: weight.detach().clone() for name, weight in get_peft_model_state_dict(model).items()}
    return {
        f"base_model.model.{name}.lora_{letter}.weight": weight.clone()
        for name, pair in model.weights.items()
        for letter, weight in zip("AB", pair, strict=True)
    }


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


def test_training_lowers_the_loss(llama, examples) -> None:
    given = assignment(llama, examples)
    before = mean_loss(llama, given.adapter, examples, batch_size=8)
    training = train_adapter(llama, given, RECIPE)
    assert mean_loss(llama, training.adapter, examples, batch_size=8) < 0.8 * before
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
    given = assignment(base, examples)
    fresh = weights_of(given.adapter)
    trained = weights_of(train_adapter(base, given, RECIPE).adapter)
    assert not any(torch.equal(trained[name], fresh[name]) for name in fresh)
    assert all(torch.equal(weights_of(given.adapter)[name], fresh[name]) for name in fresh), "what is given stays"
    assert all(weight.grad is None for weight in base.parameters())
    assert not any("forward" in module.__dict__ or module._forward_hooks for module in base.modules())
    assert not base.training
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
def test_losses_and_weights_are_those_of_a_plain_padded_loop(
    make_llama, peft, run, examples, weight_decay: float
) -> None:
    recipe = dataclasses.replace(RECIPE, weight_decay=weight_decay)
    trained = run(examples, recipe)
    with peft(make_llama(), recipe.lora, seed=7) as model:
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
    make_llama, monkeypatch, peft, examples, tmp_path: Path
) -> None:
    rows = examples[:24] + examples[6:]
    recipe = dataclasses.replace(RECIPE, epochs=1, clip=0.5, weight_decay=0.1)
    with peft(make_llama(), recipe.lora, seed=7) as model:
        trainer = _SequentialTrainer(
            model=model, args=_arguments(recipe, tmp_path), train_dataset=rows, data_collator=padded
        )
        trainer.train()
        expected = weights_of(model)
    monkeypatch.setattr(torch, "randperm", lambda count, **_: torch.arange(count))
    base = make_llama()
    training = train_adapter(base, assignment(base, rows, recipe), recipe)
    weights = weights_of(training.adapter)
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


def test_losses_are_right_where_a_text_is_longer_than_the_sliding_window(tokenizer, peft, run, examples) -> None:
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
    with peft(model, RECIPE.lora, seed=7) as adapter:
        expected = plain_training(adapter, trained.batches, RECIPE)
    assert trained.training.losses == pytest.approx(expected, abs=1e-5)


def test_the_rate_rises_over_the_warm_up_and_falls_to_nearly_zero(run, examples) -> None:
    rates = run(examples).training.learning_rates
    assert rates == pytest.approx([1e-2 * factor for factor in (0, 1 / 2, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6)])


def test_the_epoch_with_the_lowest_validation_loss_is_kept(llama, examples) -> None:
    recipe = dataclasses.replace(RECIPE, learning_rate=0.05, warmup=0.0, epochs=5, validation=0.4)
    training = train_adapter(llama, assignment(llama, examples, recipe), recipe)
    _, held = hold_out(examples, recipe)
    assert len(training.validation_losses) == 5
    assert training.kept_epoch == 1 + training.validation_losses.index(min(training.validation_losses))
    assert 1 < training.kept_epoch < 5, "neither the first nor the last, or nothing is shown"
    assert mean_loss(llama, training.adapter, held, batch_size=8) == min(training.validation_losses)


def test_without_validation_the_last_epoch_is_kept(run, examples) -> None:
    training = run(examples).training
    assert (training.kept_epoch, training.validation_losses) == (2, [])


def test_the_mean_loss_weighs_tokens_not_batches(llama, peft, adapter, examples) -> None:
    counts = [len(example.tokens) - example.supervised_from for example in examples]
    assert len(set(counts)) > 1
    with torch.inference_mode(), peft(llama, adapter.spec, adapter=adapter) as model:
        expected = sum(plain_loss(model.eval(), [example], "sum").item() for example in examples) / sum(counts)
    for batch_size in (1, 7, 100):
        assert mean_loss(llama, adapter, examples, batch_size=batch_size) == pytest.approx(expected, abs=1e-5)


def test_a_loss_that_is_not_finite_stops_the_training_with_its_step(llama, examples) -> None:
    recipe = dataclasses.replace(RECIPE, learning_rate=1e30, warmup=0.0)
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step 1.*lower learning_rate"):
        train_adapter(llama, assignment(llama, examples, recipe), recipe)


def test_no_examples_are_refused(llama) -> None:
    with pytest.raises(ValueError, match="0 examples leave none"):
        train_adapter(llama, assignment(llama, []), RECIPE)


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


# Memory and time


@pytest.mark.parametrize("tokens", [1, 40, 100])
def test_a_step_in_parts_is_the_step_as_a_whole(run, examples, tokens: int) -> None:
    whole, parts = run(examples), run(examples, tokens_per_batch=tokens)
    assert len(parts.batches) > len(whole.batches)
    assert parts.training.losses == pytest.approx(whole.training.losses, abs=1e-5)
    assert_close(parts.weights, whole.weights, 1e-4)


def test_gradient_checkpointing_changes_no_bit(run, examples) -> None:
    recipe = dataclasses.replace(RECIPE, lora=LoraSpec(rank=4, alpha=8, dropout=0.2))
    kept, again = run(examples, recipe), run(examples, recipe, gradient_checkpointing=True)
    assert again.training.losses == kept.training.losses
    assert all(torch.equal(again.weights[name], kept.weights[name]) for name in kept.weights)


def test_gradient_checkpointing_keeps_fewer_activations(llama, examples) -> None:
    def kept(**options) -> int:
        seen: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        recipe = dataclasses.replace(RECIPE, epochs=1, batch_size=30)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            train_adapter(llama, assignment(llama, examples, recipe), recipe, **options)
        return sum(seen.values())

    assert kept(gradient_checkpointing=True) < 0.6 * kept()


class _Small:
    """Memory that a batch of more than so many tokens does not fit into."""

    def __init__(self, model, tokens: int, error: type[RuntimeError], message: str) -> None:
        self.refused: list[int] = []

        def forward(*arguments, input_ids: Tensor, **fields):
            if input_ids.numel() > tokens:
                self.refused.append(input_ids.numel())
                raise error(message)
            return own(*arguments, input_ids=input_ids, **fields)

        own = model.forward
        model.forward = forward


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError, "CUDA out of memory."),
        (RuntimeError, "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
def test_too_little_memory_halves_the_batch_and_training_goes_on(
    make_llama, run, examples, caplog, error: type[RuntimeError], message: str
) -> None:
    expected, base = run(examples), make_llama()
    batching_of(base)  # the trial is not of memory
    memory = _Small(base, 60, error, message)
    found = run(examples, model=base)
    assert 1 <= len(memory.refused) <= 4, "what was found to be too much is not tried again"
    assert "out of memory" in caplog.text
    assert found.training.losses == pytest.approx(expected.training.losses, abs=1e-5)
    assert_close(found.weights, expected.weights, 1e-4)


def test_one_text_that_does_not_fit_into_memory_ends_the_training(make_llama, run, examples) -> None:
    base = make_llama()
    batching_of(base)
    _Small(base, 5, torch.OutOfMemoryError, "CUDA out of memory.")
    with pytest.raises(torch.OutOfMemoryError):
        run(examples, model=base)


# Several adapters at once


class _Routed(torch.nn.Module):
    """A layer whose projection sees every other token alone, as an expert does."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: Tensor) -> Tensor:
        found = states.new_zeros(*states.shape[:-1], self.inner.out_features)
        found[:, ::2] = self.inner(states[:, ::2])
        return found


def test_a_layer_that_sees_some_tokens_trains_one_adapter_and_refuses_several(make_llama, examples) -> None:
    """Sliced evenly, its tokens would go to adapters that they are not of."""
    base = make_llama()
    for layer in base.model.layers:
        layer.mlp.up_proj = _Routed(layer.mlp.up_proj)
    recipe = dataclasses.replace(RECIPE, lora=LoraSpec(rank=4, alpha=8, targets=("inner",)))
    given = [Assignment(fresh_adapter(base, recipe.lora, seed=seed), examples[:12], seed) for seed in (1, 2)]
    assert all(np.isfinite(train_adapters(base, given[:1], recipe)[0].losses))
    batching = Batching(flat=True, shared=True, padded=True)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Refused, match="set adapters_at_once: 1"):
        patch.setattr(train, "batching_of", lambda _: batching)
        train_adapters(base, given, recipe)


@pytest.mark.parametrize(("flat", "padded"), [(True, True), (False, True), (False, False)], ids=["flat", "rows", "one"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_adapters_trained_at_once_become_what_each_becomes_alone(
    make_llama, monkeypatch, examples, dropout: float, flat: bool, padded: bool
) -> None:
    monkeypatch.setattr(train, "batching_of", lambda _: Batching(flat=flat, shared=flat, padded=padded))
    recipe = dataclasses.replace(
        RECIPE, lora=LoraSpec(rank=4, alpha=8, dropout=dropout), validation=0.2, learning_rate=0.06, epochs=4, clip=0.3
    )
    base = make_llama()
    given = [
        Assignment(fresh_adapter(base, recipe.lora, seed=seed), part, seed)
        for seed, part in ((1, examples), (2, examples[:13]), (3, examples[5:]), (4, examples[20:]))
    ]
    together = train_adapters(base, given, recipe)
    assert len({training.kept_epoch for training in together}) > 1, "their best epochs differ"
    for one, training in zip(given, together, strict=True):
        alone = train_adapter(base, one, recipe)
        assert len(training.losses) == len(alone.losses)
        # Rounding grows from step to step at this learning rate; other masks would differ by 1e-2 at once.
        assert training.losses[:3] == pytest.approx(alone.losses[:3], abs=1e-5)
        assert training.losses == pytest.approx(alone.losses, abs=2e-4)
        assert training.learning_rates == alone.learning_rates
        assert training.validation_losses == pytest.approx(alone.validation_losses, abs=2e-4)
        assert (training.kept_epoch, training.tokens) == (alone.kept_epoch, alone.tokens)
        assert_close(weights_of(training.adapter), weights_of(alone.adapter), 1e-3)


def test_an_adapter_whose_loss_is_not_finite_does_not_stop_the_others(llama, randomise, examples) -> None:
    broken = randomise(fresh_adapter(llama, RECIPE.lora, seed=1))
    broken = dataclasses.replace(broken, weights={n: (a * math.inf, b) for n, (a, b) in broken.weights.items()})
    sound = assignment(llama, examples)
    failed, trained = train_adapters(llama, [Assignment(broken, examples, 1), sound], RECIPE)
    assert isinstance(failed, FloatingPointError)
    assert trained.losses == pytest.approx(train_adapter(llama, sound, RECIPE).losses, abs=1e-5)


def test_adapters_of_different_shapes_are_not_trained_at_once(llama, examples) -> None:
    other = Assignment(fresh_adapter(llama, LoraSpec(rank=2), seed=1), examples, 1)
    with pytest.raises(ValueError, match="one shape"):
        train_adapters(llama, [assignment(llama, examples), other], RECIPE)


# Resuming


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_training_that_was_killed_goes_on_to_the_same_bits(
    make_llama, monkeypatch, examples, tmp_path: Path, epochs: int
) -> None:
    monkeypatch.setattr(training_state, "_SAVED_AFTER_SECONDS", 0.0)
    recipe = dataclasses.replace(
        RECIPE, epochs=3, validation=0.2, weight_decay=0.1, lora=LoraSpec(rank=4, alpha=8, dropout=0.1)
    )
    base, file = make_llama(), tmp_path / "checkpoints" / "one.safetensors"
    undisturbed = train_adapter(base, assignment(base, examples, recipe), recipe)
    steps = len(undisturbed.losses)

    def kill(share: float) -> None:
        if share > epochs / 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_adapter(base, assignment(base, examples, recipe, checkpoint=file), recipe, progress=kill)
    shares: list[float] = []
    resumed = train_adapter(
        make_llama(), assignment(base, examples, recipe, checkpoint=file), recipe, progress=shares.append
    )
    assert len(shares) == steps - steps * epochs // 3, "what was done is not done again"
    assert resumed.losses == undisturbed.losses
    assert resumed.learning_rates == undisturbed.learning_rates
    assert resumed.validation_losses == undisturbed.validation_losses
    assert (resumed.tokens, resumed.kept_epoch) == (undisturbed.tokens, undisturbed.kept_epoch)
    found, expected = weights_of(resumed.adapter), weights_of(undisturbed.adapter)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [path.name for path in file.parent.iterdir()] == ["one.safetensors"]


def test_a_damaged_checkpoint_gives_the_numbers_of_a_training_from_the_start(
    make_llama, monkeypatch, examples, tmp_path: Path, caplog
) -> None:
    monkeypatch.setattr(training_state, "_SAVED_AFTER_SECONDS", 0.0)
    base, file = make_llama(), tmp_path / "one.safetensors"
    undisturbed = train_adapter(base, assignment(base, examples), RECIPE)

    def kill(share: float) -> None:
        if share > 1 / RECIPE.epochs:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_adapter(base, assignment(base, examples, checkpoint=file), RECIPE, progress=kill)
    content = bytearray(file.read_bytes())
    content[-7] ^= 1
    file.write_bytes(content)
    again = train_adapter(base, assignment(base, examples, checkpoint=file), RECIPE)
    assert again.losses == undisturbed.losses
    found, expected = weights_of(again.adapter), weights_of(undisturbed.adapter)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert "the training starts again" in caplog.text


def test_a_short_training_writes_no_checkpoint(llama, examples, tmp_path: Path) -> None:
    train_adapter(llama, assignment(llama, examples, checkpoint=tmp_path / "one.safetensors"), RECIPE)
    assert not list(tmp_path.iterdir())
