"""Full fine-tuning does what transformers' Trainer does with the same batches, and leaves the base as it was."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from registry.config.study import Recipe
from registry.errors import Refused
from registry.lora import train
from registry.lora.encoding import Example
from registry.lora.forward import Batching
from registry.lora.full import FullWeights, in_training, replaced, save_full
from registry.lora.train import Training, hold_out, train_full
from registry.lora.trial import batching_of
from tests.lora.test_train import _arguments, _SequentialTrainer, _Small, padded, plain_loss

RECIPE = Recipe(method="full", learning_rate=2e-3, epochs=2, batch_size=8, warmup=0.2, validation=0.0)


@pytest.fixture
def make(make_llama) -> Callable[..., LlamaForCausalLM]:
    """Make the tiny base, its LM head tied to its embeddings or not."""

    def made(*, tied: bool = False, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
        model = make_llama()
        if tied:
            config = model.config
            config.tie_word_embeddings = True
            torch.manual_seed(0)
            model = LlamaForCausalLM(config).eval().requires_grad_(False)
            assert model.lm_head.weight is model.model.embed_tokens.weight
        for weight in model.parameters():  # as `from_pretrained` does it: buffers stay float32
            weight.data = weight.data.to(dtype)
        return model

    return made


def full(base: LlamaForCausalLM, examples: list[Example], recipe: Recipe = RECIPE, **options) -> Training:
    return train_full(base, examples, recipe, **{"seed": 1} | options)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def assert_close(found: FullWeights, expected: dict[str, Tensor], tolerance: float) -> None:
    assert list(found.weights) == list(expected)
    for name, weight in expected.items():
        torch.testing.assert_close(found.weights[name], weight, rtol=0, atol=tolerance)


@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied"])
def test_losses_rates_and_weights_are_those_of_transformers_trainer(
    make, monkeypatch, examples, tmp_path: Path, tied: bool
) -> None:
    rows = examples[:24] + examples[6:]
    recipe = dataclasses.replace(RECIPE, epochs=1, clip=0.5, weight_decay=0.1)
    model = make(tied=tied).requires_grad_(True)
    trainer = _SequentialTrainer(
        model=model, args=_arguments(recipe, tmp_path), train_dataset=rows, data_collator=padded
    )
    trainer.train()
    monkeypatch.setattr(torch, "randperm", lambda count, **_: torch.arange(count))
    training = full(make(tied=tied), rows, recipe)
    assert len(trainer.losses) == 6
    assert training.losses[-1] < training.losses[0] - 0.1
    assert training.losses == pytest.approx(trainer.losses, abs=1e-5)
    assert training.learning_rates == pytest.approx(trainer.rates, rel=1e-9)
    assert_close(training.adapter, weights_of(model), 2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied"])
def test_every_weight_is_trained_and_not_one_bit_of_the_base_changes(make, examples, tied: bool, dtype) -> None:
    base = make(tied=tied, dtype=dtype)
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    places = {name: weight.data_ptr() for name, weight in base.state_dict().items()}
    precision = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    recipe = dataclasses.replace(RECIPE, precision=precision, learning_rate=1e-2)
    result = full(base, examples, recipe).adapter
    assert set(result.weights) == {name for name, _ in base.named_parameters()}
    assert result.parameters == sum(weight.numel() for weight in base.parameters())
    for name, weight in result.weights.items():
        assert weight.dtype == dtype
        assert not torch.equal(weight, before[name]), name
    after = base.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {name: weight.data_ptr() for name, weight in after.items()} == places, "on a CPU nothing is even copied"
    assert_untouched(base)
    assert (base.lm_head.weight is base.model.embed_tokens.weight) == tied


def assert_untouched(base: LlamaForCausalLM) -> None:
    assert not base.training
    for weight in base.parameters():
        assert weight.grad is None
        assert not weight.requires_grad
        assert not weight._post_accumulate_grad_hooks
    assert not any("forward" in module.__dict__ or module._forward_hooks for module in base.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_training_that_is_interrupted_leaves_the_base_as_it_was(make, examples, dtype) -> None:
    base = make(dtype=dtype)
    before = weights_of(base)

    def interrupt(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        full(base, examples, progress=interrupt)
    assert all(torch.equal(weight, before[name]) for name, weight in base.named_parameters())
    assert_untouched(base)


def test_every_training_starts_from_the_base(make, examples) -> None:
    base = make()
    first, other, again = full(base, examples), full(base, examples[:12]), full(base, examples)
    assert first.losses == again.losses != other.losses
    assert all(torch.equal(first.adapter.weights[name], weight) for name, weight in again.adapter.weights.items())


def test_the_seed_decides_the_order_and_the_global_generator_stays(make, examples) -> None:
    base, before = make(), torch.get_rng_state()
    assert full(base, examples, seed=1).losses != full(base, examples, seed=2).losses
    assert torch.equal(torch.get_rng_state(), before)


def test_steps_too_small_for_bf16_add_up_all_the_same(make, examples) -> None:
    # Around 0.15 neighbouring numbers in bf16 are 1e-3 apart, and Adam moves a weight by at most about the rate.
    recipe = dataclasses.replace(RECIPE, learning_rate=1.5e-4, epochs=8, warmup=0.0)
    expected = full(make(), examples, recipe)
    base = make(dtype=torch.bfloat16)
    found = full(base, examples, dataclasses.replace(recipe, precision="bf16"))
    assert found.losses == pytest.approx(expected.losses, abs=0.1)
    name = "model.layers.0.mlp.up_proj.weight"
    before, after = base.get_parameter(name), found.adapter.weights[name]
    large = before.abs() > 0.13
    assert large.sum() > 1000
    assert (before != after)[large].float().mean() > 0.2


def test_the_epoch_with_the_lowest_validation_loss_is_kept(make, examples) -> None:
    recipe = dataclasses.replace(RECIPE, learning_rate=0.01, warmup=0.0, epochs=5, validation=0.4)
    base = make()
    training = full(base, examples, recipe)
    _, held = hold_out(examples, recipe)
    losses = training.validation_losses
    assert training.kept_epoch == 1 + losses.index(min(losses)) < 5, "not the last, or nothing is shown"
    counts = sum(len(example.tokens) - example.supervised_from for example in held)
    with torch.inference_mode(), replaced(base, training.adapter) as whole:
        assert plain_loss(whole, held, "sum").item() / counts == pytest.approx(min(losses), abs=1e-5)


def test_in_rows_it_trains_the_same(make, monkeypatch, examples) -> None:
    flat = full(make(), examples)
    monkeypatch.setattr(train, "batching_of", lambda _: Batching(flat=False, shared=False, padded=True))
    rows = full(make(), examples)
    assert rows.losses == pytest.approx(flat.losses, abs=1e-5)
    assert_close(rows.adapter, dict(flat.adapter.weights), 2e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_in_parts_is_the_step_as_a_whole(make, examples, precision: str) -> None:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    recipe = dataclasses.replace(RECIPE, precision=precision)
    whole, parts = (full(make(dtype=dtype), examples, recipe, tokens_per_batch=size) for size in (None, 40))
    assert parts.losses == pytest.approx(whole.losses, abs=1e-5 if precision == "fp32" else 0.03)
    assert_close(parts.adapter, dict(whole.adapter.weights), 1e-4 if precision == "fp32" else 0.02)


def test_too_little_memory_halves_the_batch_and_training_goes_on(make, examples, caplog) -> None:
    expected, base = full(make(), examples), make()
    batching_of(base)  # the trial is not of memory
    memory = _Small(base, 60, torch.OutOfMemoryError, "CUDA out of memory.")
    found = full(base, examples)
    assert 1 <= len(memory.refused) <= 4
    assert "out of memory" in caplog.text
    assert found.losses == pytest.approx(expected.losses, abs=1e-5)
    assert_close(found.adapter, dict(expected.adapter.weights), 1e-4)


def test_gradient_checkpointing_changes_no_bit(make, examples) -> None:
    kept, again = full(make(), examples), full(make(), examples, gradient_checkpointing=True)
    assert again.losses == kept.losses
    assert all(torch.equal(again.adapter.weights[name], weight) for name, weight in kept.adapter.weights.items())


def test_a_loss_that_is_not_finite_is_an_error_and_the_base_stays(make, examples) -> None:
    base = make()
    before = weights_of(base)
    recipe = dataclasses.replace(RECIPE, learning_rate=1e30, warmup=0.0)
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step 1.*lower learning_rate"):
        full(base, examples, recipe)
    assert all(torch.equal(weight, before[name]) for name, weight in base.named_parameters())


def test_a_validation_loss_that_is_not_finite_is_an_error(make, examples) -> None:
    recipe = dataclasses.replace(RECIPE, learning_rate=1e30, warmup=0.0, epochs=1, batch_size=30, validation=0.2)
    with pytest.raises(FloatingPointError, match=r"the validation loss is (nan|inf) after epoch 1"):
        full(make(), examples, recipe)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_saved_folder_is_the_model_that_was_trained(make, tokenizer, examples, tmp_path: Path, dtype) -> None:
    base = make(tied=True, dtype=dtype)
    base.config._name_or_path = base.name_or_path = "/elsewhere/base"
    before = weights_of(base)
    trained = full(base, examples, dataclasses.replace(RECIPE, learning_rate=1e-2)).adapter
    save_full(base, trained, tmp_path, tokenizer=tokenizer)
    assert all(torch.equal(weight, before[name]) for name, weight in base.named_parameters())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval()
    tokens = torch.tensor([[5, 60, 7, 81, 9, 33]])
    with torch.inference_mode():
        untouched = base(tokens).logits
        with replaced(base, trained) as whole:
            expected = whole(tokens).logits
        assert torch.equal(loaded(tokens).logits, expected)
        assert torch.equal(base(tokens).logits, untouched)
    assert not torch.allclose(untouched, expected, atol=0.1)
    read = FullWeights.of(loaded)
    assert all(torch.equal(read.weights[name], weight) for name, weight in trained.weights.items())
    assert AutoTokenizer.from_pretrained(tmp_path)("a b")["input_ids"] == tokenizer("a b")["input_ids"]
    texts = [path.read_text() for path in tmp_path.glob("*.json")]
    assert not [text for text in texts if "/elsewhere" in text]


def test_weights_that_are_not_there_as_numbers_are_refused_with_the_remedy(make) -> None:
    base = make()
    down = base.model.layers[0].mlp.down_proj
    down.weight = nn.Parameter(torch.zeros(64, 128, dtype=torch.int8), requires_grad=False)
    with pytest.raises(Refused, match=r"down_proj\.weight is quantised; set quantization: null"), in_training(base):
        pass
    down.weight = nn.Parameter(torch.zeros(64, 128, device="meta"), requires_grad=False)
    with pytest.raises(Refused, match=r"is held elsewhere .*recipe.method: lora"), in_training(base):
        pass


def test_what_no_text_reaches_stays(make, examples) -> None:
    base = make()
    base.register_parameter("unread", nn.Parameter(torch.ones(3, 3), requires_grad=False))
    result = full(base, examples, dataclasses.replace(RECIPE, weight_decay=0.5)).adapter
    assert torch.equal(result.weights["unread"], torch.ones(3, 3))
    assert math.isclose(result.weights["model.norm.weight"].mean().item(), 1.0, abs_tol=0.05), "norms do not decay"
