"""An adapter comes and goes; the base underneath stays what it was, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn

from registry.config.study import LoraSpec
from registry.deploy.merge import merge_into
from registry.errors import Refused
from registry.lora.adapter import Adapter, fresh_adapter, read_adapter, save_adapter
from registry.lora.bank import Bank, is_resident, merged, put_on
from tests.peak_memory import Peak

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


def test_a_merged_adapter_gives_the_logits_of_pefts(llama, adapter, peft) -> None:
    without = logits(llama)
    with peft(llama, adapter.spec, adapter=adapter) as model:
        expected = logits(model.eval())
    assert (expected - without).abs().max() > 0.1
    with merged(llama, adapter) as whole:
        assert whole is llama
        torch.testing.assert_close(logits(whole), expected, rtol=1e-5, atol=1e-5)


def test_an_adapter_that_is_put_on_gives_the_logits_of_pefts(llama, adapter, peft) -> None:
    with peft(llama, adapter.spec, adapter=adapter) as model:
        expected = logits(model.eval())
    with put_on(llama, Bank(llama, [adapter])):
        torch.testing.assert_close(logits(llama), expected, rtol=1e-5, atol=1e-5)


def test_several_adapters_that_are_put_on_give_each_its_own_logits(llama, adapter, randomise, peft) -> None:
    adapters = [adapter, randomise(adapter, seed=6), randomise(adapter, seed=7)]
    expected = []
    for one in adapters:
        with peft(llama, one.spec, adapter=one) as model:
            expected.append(logits(model.eval()))
    bank = Bank(llama, adapters)
    with put_on(llama, bank), torch.inference_mode():
        found = llama(TOKENS.repeat(3, 1)).logits
        bank.use([2, 0], [0, 0])
        some = llama(TOKENS.repeat(2, 1)).logits
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(some, torch.cat([expected[2], expected[0]]), rtol=1e-5, atol=1e-5)


def test_gradients_of_an_adapter_that_is_put_on_are_pefts(llama, adapter, peft) -> None:
    with peft(llama, adapter.spec, adapter=adapter) as model:
        model.train()
        model(TOKENS).logits.square().mean().backward()
        expected = [weight.grad for name, weight in model.named_parameters() if "lora_" in name]
    bank = Bank(llama, [adapter])
    with put_on(llama, bank):
        llama(TOKENS).logits.square().mean().backward()
    found = [weight.grad for weight in bank.parameters[0]]
    assert len(found) == len(expected) == 2 * len(adapter.weights)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
    assert all(weight.grad is None for weight in llama.parameters())


@pytest.mark.parametrize("fails", [False, True], ids=["in peace", "after an exception"])
@pytest.mark.parametrize("how", ["merged", "put on"])
def test_the_base_is_itself_again_bit_for_bit(llama, adapter, how: str, fails: bool) -> None:
    weights, before = state(llama), logits(llama)
    try:
        with merged(llama, adapter) if how == "merged" else put_on(llama, Bank(llama, [adapter])):
            assert not torch.equal(logits(llama), before)
            if fails:
                raise RuntimeError("scoring failed")
    except RuntimeError:
        assert fails
    assert_equal_states(state(llama), weights)
    assert torch.equal(logits(llama), before)
    assert not any(parameter.requires_grad for parameter in llama.parameters())
    assert not any("forward" in module.__dict__ for module in llama.modules())


@pytest.mark.parametrize("published", [torch.bfloat16, torch.float16])
def test_a_base_that_was_published_in_16_bits_is_kept_in_16_bits(llama, adapter, published: torch.dtype) -> None:
    """In float32 it has nothing to lose by that, and while merged it takes a quarter less memory."""
    for weight in llama.parameters():
        weight.data = weight.data.to(published).float()
        weight.data[0] = -0.0
    before = {name: weight.data.clone() for name, weight in llama.named_parameters()}
    with Peak() as peak, merged(llama, adapter):
        pass
    targeted = [before[f"{name}.weight"].nbytes for name in adapter.weights]
    assert peak.bytes <= sum(targeted) // 2 + 3 * max(targeted) < sum(targeted)  # a weight at a time is checked
    with merged(llama, adapter):
        for name, (a, b) in adapter.weights.items():
            expected = torch.addmm(before[f"{name}.weight"], b, a, alpha=adapter.scaling)
            assert torch.equal(llama.get_submodule(name).weight, expected)
    for name, weight in llama.named_parameters():
        assert torch.equal(weight.view(torch.int32), before[name].view(torch.int32))  # -0.0 equals 0.0, its bits do not


def test_a_weight_with_numbers_of_32_bits_or_none_is_kept_whole(llama, adapter) -> None:
    names = list(adapter.weights)
    weights = [llama.get_submodule(name).weight for name in names]
    for weight in weights:
        weight.data = weight.data.bfloat16().float()
    weights[0].data[-1, -1] = 1 + 2.0**-20
    weights[1].data[-1, -1] = float("nan")
    before = [weight.data.clone() for weight in weights]
    with merged(llama, adapter):
        pass
    for weight, own in zip(weights, before, strict=True):
        assert torch.equal(weight.view(torch.int32), own.view(torch.int32))


def test_weights_that_cannot_be_merged_are_run_beside(llama, adapter) -> None:
    """As quantised weights, or those that accelerate holds elsewhere."""
    with merged(llama, adapter):
        expected = logits(llama)

    class Held(nn.Parameter):
        pass

    for name in list(adapter.weights)[::2]:
        module = llama.get_submodule(name)
        module.weight = Held(module.weight.data, requires_grad=False)
    before = state(llama)
    with merged(llama, adapter):
        now = state(llama)
        changed = [name for name in before if not torch.equal(now[name], before[name])]
        assert len(changed) == len(adapter.weights) // 2
        torch.testing.assert_close(logits(llama), expected, rtol=1e-5, atol=1e-5)
    assert_equal_states(state(llama), before)


def test_a_base_held_in_other_memory_gives_the_same_logits(make_llama, adapter) -> None:
    with merged(make_llama(), adapter) as whole:
        expected = logits(whole)
    offloaded = cpu_offload(make_llama(), execution_device=torch.device("cpu"))
    assert next(offloaded.parameters()).device.type == "meta"
    with merged(offloaded, adapter):
        torch.testing.assert_close(logits(offloaded), expected, rtol=1e-5, atol=1e-5)
    fresh, expected_fresh = (fresh_adapter(base, SPEC, seed=1).weights for base in (offloaded, make_llama()))
    assert all(torch.equal(fresh[name][0], expected_fresh[name][0]) for name in expected_fresh)


def test_what_holds_no_weight_is_not_resident() -> None:
    assert not is_resident(nn.SiLU())
    assert not is_resident(nn.Linear(2, 2, device="meta"))
    assert is_resident(nn.Linear(2, 2, dtype=torch.bfloat16))


def test_a_bf16_sum_is_rounded_once(llama, adapter) -> None:
    base = llama.to(torch.bfloat16)
    name, (a, b) = next(iter(adapter.weights.items()))
    exact = base.get_submodule(name).weight.double() + adapter.scaling * (b.double() @ a.double())
    with merged(base, adapter):
        assert torch.equal(base.get_submodule(name).weight, exact.bfloat16())


def test_a_fresh_adapter_is_that_of_peft_and_changes_nothing_yet(llama, peft) -> None:
    before = logits(llama)
    found = fresh_adapter(llama, SPEC, seed=9)
    with peft(llama, SPEC, seed=9) as model:
        for name, (a, b) in found.weights.items():
            layer = model.base_model.model.get_submodule(name)
            assert torch.equal(a, layer.lora_A["default"].weight)
            assert torch.equal(b, layer.lora_B["default"].weight)
    with merged(llama, found):
        assert torch.equal(logits(llama), before)
    assert found.parameters == sum(a.numel() + b.numel() for a, b in found.weights.values())


def test_a_fresh_adapter_is_decided_by_its_seed_alone(llama) -> None:
    def fresh(seed: int) -> dict[str, Tensor]:
        torch.rand(3)  # wherever the global generator stands
        return {name: a for name, (a, _) in fresh_adapter(llama, SPEC, seed=seed).weights.items()}

    one, again, other = fresh(1), fresh(1), fresh(2)
    assert_equal_states(one, again)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_making_an_adapter_leaves_the_global_generator_where_it_stands(llama) -> None:
    before = torch.get_rng_state()
    fresh_adapter(llama, SPEC, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_base_without_the_projections_is_refused_and_left_alone(llama) -> None:
    before = state(llama)
    with pytest.raises(ValueError, match="c_attn"):
        fresh_adapter(llama, LoraSpec(targets=("c_attn",)), seed=1)
    assert_equal_states(state(llama), before)


def test_only_the_named_projections_are_adapted(llama) -> None:
    adapted = fresh_adapter(llama, LoraSpec(rank=3, targets=("q_proj", "up_proj")), seed=1).weights
    assert {name.rpartition(".")[2] for name in adapted} == {"q_proj", "up_proj"}
    assert {len(a) for a, _ in adapted.values()} == {3}


def test_peft_loads_a_saved_adapter_with_the_logits_of_the_one_put_on(make_llama, adapter, tmp_path: Path) -> None:
    base = make_llama()
    with put_on(base, Bank(base, [adapter])):
        expected = logits(base)
    save_adapter(adapter, tmp_path, base_reference="owner/base", base_revision="abc")
    loaded = PeftModel.from_pretrained(make_llama(), str(tmp_path))
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-5, atol=1e-5)


def test_a_folder_is_what_peft_itself_would_write(make_llama, adapter, peft, tmp_path: Path) -> None:
    save_adapter(adapter, tmp_path / "ours", base_reference="owner/base", base_revision=None)
    with peft(make_llama(), adapter.spec, adapter=adapter) as model:
        model.peft_config["default"].base_model_name_or_path = "owner/base"
        model.save_pretrained(str(tmp_path / "pefts"), save_embedding_layers=False)
    ours, pefts = (json.loads((tmp_path / who / "adapter_config.json").read_text()) for who in ("ours", "pefts"))
    assert ours == pefts
    ours, pefts = (load_file(tmp_path / who / "adapter_model.safetensors") for who in ("ours", "pefts"))
    assert set(ours) == set(pefts)
    assert all(torch.equal(ours[name], pefts[name]) for name in pefts)


def test_a_saved_adapter_is_read_again_to_the_bit(adapter, tmp_path: Path) -> None:
    save_adapter(adapter, tmp_path, base_reference="owner/base", base_revision=None)
    found = read_adapter(tmp_path)
    assert (found.spec.rank, found.scaling, set(found.spec.targets)) == (4, 2.0, set(adapter.spec.targets))
    assert set(found.weights) == set(adapter.weights)
    for name, pair in adapter.weights.items():
        assert all(torch.equal(one, other) for one, other in zip(found.weights[name], pair, strict=True))


def test_a_saved_adapter_is_two_files_that_name_the_base_by_its_reference(adapter, tmp_path: Path) -> None:
    save_adapter(adapter, tmp_path / "new", base_reference="owner/base", base_revision="abc")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((tmp_path / "new" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/base", "abc")
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (4, 8, "CAUSAL_LM")


@pytest.mark.parametrize("change", ["another module", "another width", "another height"])
def test_an_adapter_of_another_base_is_refused_with_words_before_anything_changes(llama, adapter, change: str) -> None:
    name, (a, b) = next(iter(adapter.weights.items()))
    weights = dict(adapter.weights)
    if change == "another module":
        weights["model.layers.9.mlp.up_proj"] = (a, b)
    else:
        weights[name] = (a[:, :-1], b) if change == "another width" else (a, b[:-1])
    before = state(llama)
    with pytest.raises(Refused, match="the adapter does not fit this base"), merged(llama, Adapter(SPEC, weights)):
        pass
    assert_equal_states(state(llama), before)
    with pytest.raises(Refused, match="the adapter does not fit this base"):
        merge_into(llama, Adapter(SPEC, weights), torch.float32)
