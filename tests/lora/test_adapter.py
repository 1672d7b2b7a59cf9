"""An adapter comes and goes; the base underneath stays what it was, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn

from registry.lora.adapter import attached, loaded, merged, save_adapter
from registry.study import LoraSpec

SPEC = LoraSpec(rank=4, alpha=8)
TOKENS = torch.tensor([[5, 60, 7, 81, 9, 33], [2, 2, 40, 41, 42, 43]])


def logits(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        return model(TOKENS).logits.clone()


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def assert_equal_states(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_merged_adapter_gives_the_logits_of_the_attached_one(llama, adapter) -> None:
    adapter.eval()
    with_adapter = logits(adapter)
    with adapter.disable_adapter():
        without = logits(adapter)
    assert (with_adapter - without).abs().max() > 0.1
    with merged(adapter) as whole:
        assert whole is llama
        torch.testing.assert_close(logits(whole), with_adapter, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fails", [False, True], ids=["in peace", "after an exception"])
def test_weights_and_logits_are_restored_exactly_after_a_merge(llama, adapter, fails: bool) -> None:
    adapter.eval()
    weights, before = state(adapter), logits(adapter)
    try:
        with merged(adapter) as whole:
            assert not torch.equal(whole.model.layers[0].mlp.down_proj.weight, weights_of(weights, "0.mlp.down_proj"))
            if fails:
                raise RuntimeError("scoring failed")
    except RuntimeError:
        assert fails
    assert_equal_states(state(adapter), weights)
    assert torch.equal(logits(adapter), before)


def weights_of(weights: dict[str, Tensor], module: str) -> Tensor:
    (found,) = [weight for name, weight in weights.items() if f"{module}.base_layer.weight" in name]
    return found


@pytest.mark.parametrize("fails", [False, True], ids=["in peace", "after an exception"])
def test_the_base_is_itself_again_when_an_adapter_is_taken_off(llama, randomise, fails: bool) -> None:
    weights, before = state(llama), logits(llama)
    try:
        with attached(llama, SPEC, seed=3) as model, merged(model):
            randomise(model)
            if fails:
                raise RuntimeError("training failed")
    except RuntimeError:
        assert fails
    assert_equal_states(state(llama), weights)
    assert torch.equal(logits(llama), before)
    assert not any(parameter.requires_grad for parameter in llama.parameters())


def test_a_fresh_adapter_is_decided_by_its_seed_alone_and_changes_nothing_yet(llama) -> None:
    def fresh(seed: int) -> dict[str, Tensor]:
        torch.rand(3)  # wherever the global generator stands
        with attached(llama, SPEC, seed=seed) as model:
            assert torch.equal(logits(model.eval()), before)
            return {name: weight.clone() for name, weight in get_peft_model_state_dict(model).items()}

    before = logits(llama)
    assert_equal_states(fresh(1), fresh(1))
    one, other = fresh(1), fresh(2)
    assert all(torch.equal(one[name], other[name]) == ("lora_B" in name) for name in one)


def test_attaching_leaves_the_global_generator_where_it_stands(llama) -> None:
    before = torch.get_rng_state()
    with attached(llama, SPEC, seed=1):
        pass
    assert torch.equal(torch.get_rng_state(), before)


def test_a_base_without_the_projections_is_refused_and_left_alone(llama) -> None:
    before = state(llama)
    with pytest.raises(ValueError, match="c_attn"), attached(llama, LoraSpec(targets=("c_attn",)), seed=1):
        pass
    assert_equal_states(state(llama), before)


def test_only_the_named_projections_are_adapted(llama) -> None:
    with attached(llama, LoraSpec(rank=3, targets=("q_proj", "up_proj")), seed=1) as model:
        adapted = get_peft_model_state_dict(model)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in adapted} == {"q_proj", "up_proj"}
    assert {min(weight.shape) for weight in adapted.values()} == {3}


def test_peft_loads_a_saved_adapter_with_exactly_the_same_logits(make_llama, adapter, tmp_path: Path) -> None:
    expected = logits(adapter.eval())
    save_adapter(adapter, tmp_path, base_reference="owner/base", base_revision="abc")
    fresh = PeftModel.from_pretrained(make_llama(), str(tmp_path))
    assert torch.equal(logits(fresh), expected)


def test_a_saved_adapter_loads_again_with_exactly_the_same_logits_and_is_taken_off(
    llama, randomise, tmp_path: Path
) -> None:
    before = state(llama)
    with attached(llama, SPEC, seed=3) as model:
        randomise(model)
        expected = logits(model.eval())
        with merged(model) as whole:
            expected_merged = logits(whole)
        save_adapter(model, tmp_path, base_reference="owner/base", base_revision=None)
    with loaded(llama, tmp_path) as model:
        assert torch.equal(logits(model), expected)
        with merged(model) as whole:
            assert torch.equal(logits(whole), expected_merged)
    assert_equal_states(state(llama), before)


def test_a_saved_adapter_is_two_files_that_name_the_base_by_its_reference(adapter, tmp_path: Path) -> None:
    save_adapter(adapter, tmp_path / "new", base_reference="owner/base", base_revision="abc")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((tmp_path / "new" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/base", "abc")
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (4, 8, "CAUSAL_LM")
