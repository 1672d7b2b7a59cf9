"""Bases are loaded whole, spread or quantised, and refused before that where they cannot be."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import psutil
import pytest
import torch
from accelerate import cpu_offload
from torch import nn
from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration, PreTrainedModel

from registry.config.study import BaseSpec, LoraSpec
from registry.errors import Refused
from registry.lora.adapter import fresh_adapter
from registry.lora.bank import is_resident
from registry.lora.encoding import Continuations
from registry.lora.score import ScoringSet, loglikelihoods
from registry.lora.trial import batching_of
from registry.models.base import Base, resolve_base
from registry.models.loading import BITSANDBYTES, load_base, load_tokenizer, require_quantization
from registry.models.projections import adapter_parameters

TOKENS = torch.randint(3, 400, (2, 20), generator=torch.Generator().manual_seed(0))

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason=f"quantised bases need bitsandbytes: pip install {BITSANDBYTES}",
)


def projections(model: PreTrainedModel) -> list[nn.Module]:
    return [module for name, module in model.named_modules() if name.endswith("_proj")]


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted).norm() / wanted.norm())


def resolved(folder: Path) -> Base:
    return resolve_base(BaseSpec(name="tiny", path=str(folder)))


def test_a_base_is_loaded_frozen_in_evaluation_mode_in_the_type_asked_for(base, llama) -> None:
    found = resolved(base)
    model = load_base(found, dtype=torch.float32, device="cpu")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in llama.state_dict().items())
    assert load_base(found, dtype=torch.bfloat16, device="cpu").dtype == torch.bfloat16


@torch.inference_mode()
def test_a_spread_base_has_the_same_logits(base, llama) -> None:
    model = load_base(resolved(base), dtype=torch.float32, device="cpu", placement="spread")
    assert torch.equal(model(TOKENS).logits, llama(TOKENS).logits)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(is_resident(module) for module in projections(model))


def test_a_spread_base_of_which_layers_would_lie_on_disk_is_refused(base, monkeypatch, llama) -> None:
    llama.hf_device_map = {"model.layers.0": "cpu", "model.layers.1": "disk"}
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: (llama, {}))
    with pytest.raises(Refused, match="'tiny' does not fit into memory: layers would be read from disk"):
        load_base(resolved(base), dtype=torch.float32, device="cpu", placement="spread")


@torch.inference_mode()
def test_weights_held_elsewhere_are_told_apart_and_still_compute(base, llama) -> None:
    model = load_base(resolved(base), dtype=torch.float32, device="cpu")
    assert len(projections(model)) == 14
    assert all(is_resident(module) for module in projections(model))
    model = cpu_offload(model, execution_device=torch.device("cpu"))
    assert {module.weight.device.type for module in projections(model)} == {"meta"}
    assert not any(is_resident(module) for module in projections(model))
    assert torch.equal(model(TOKENS).logits, llama(TOKENS).logits)
    assert not any(is_resident(module) for module in projections(model))


@needs_bitsandbytes
@pytest.mark.parametrize("placement", ["one", "spread"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("quantization", "stored", "tolerance"), [("8bit", torch.int8, 0.05), ("4bit", torch.uint8, 0.4)]
)
@torch.inference_mode()
def test_a_quantised_base_computes_close_to_the_whole(
    base, llama, placement, dtype: torch.dtype, quantization, stored: torch.dtype, tolerance: float
) -> None:
    model = load_base(resolved(base), dtype=dtype, device="cpu", placement=placement, quantization=quantization)
    assert {module.weight.dtype for module in projections(model)} == {stored}
    assert not any(is_resident(module) for module in projections(model))
    assert model.lm_head.weight.dtype == model.get_input_embeddings().weight.dtype == dtype
    # 4 bits leave 9 % of each of these random weights, too few per layer to even out, and layers add up.
    assert 0 < relative_error(model(TOKENS).logits, llama(TOKENS).logits) < tolerance


@needs_bitsandbytes
def test_no_kernel_is_missed_that_is_not_used() -> None:
    loading = "import registry.serving, sys; assert 'bitsandbytes' in sys.modules"
    done = subprocess.run([sys.executable, "-c", loading], capture_output=True, text=True, check=True)
    assert "kernels-community" not in done.stderr


@needs_bitsandbytes
def test_four_bits_are_nf4_with_quantised_scales_and_computed_exactly(base, llama) -> None:
    model = load_base(resolved(base), dtype=torch.float32, device="cpu", quantization="4bit")
    write_out(model, llama)
    with torch.inference_mode():
        assert relative_error(model(TOKENS).logits, llama(TOKENS).logits) < 1e-5


@needs_bitsandbytes
@pytest.mark.parametrize(("quantization", "tolerance"), [("8bit", 0.1), ("4bit", 1e-5)])
def test_gradients_pass_a_quantised_base_also_after_it_has_scored(base, llama, quantization, tolerance: float) -> None:
    def gradient(model: PreTrainedModel) -> torch.Tensor:
        with torch.inference_mode():
            model(TOKENS)
        states = model.get_input_embeddings()(TOKENS).detach().requires_grad_()
        model(inputs_embeds=states).logits.logsumexp(dim=-1).sum().backward()
        assert states.grad is not None
        return states.grad

    model = load_base(resolved(base), dtype=torch.float32, device="cpu", quantization=quantization)
    if quantization == "4bit":
        write_out(model, llama)
    assert relative_error(gradient(model), gradient(llama)) < tolerance


def write_out(quantised: PreTrainedModel, whole: PreTrainedModel) -> None:
    """Give the whole base the values that four bits have left of its weights."""
    from bitsandbytes.functional import dequantize_4bit

    for module, plain in zip(projections(quantised), projections(whole), strict=True):
        state = module.weight.quant_state
        assert (state.quant_type, state.nested, module.compute_dtype) == ("nf4", True, torch.float32)
        values = dequantize_4bit(module.weight.data, state)
        assert 0 < relative_error(values, plain.weight) < 0.1
        plain.weight.data = values


def test_the_extra_installs_what_a_refusal_names() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["optional-dependencies"]["quantized"] == [BITSANDBYTES]


def test_a_quantised_base_is_refused_before_loading_where_its_library_is_wanting(base, monkeypatch) -> None:
    monkeypatch.setattr("registry.models.loading.find_spec", lambda name: None)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    told = r"quantization: 4bit needs bitsandbytes, .*; run: python -m pip install bitsandbytes==0\.50\.2$"
    with pytest.raises(Refused, match=told):
        require_quantization("4bit")
    with pytest.raises(Refused, match=told):
        load_base(resolved(base), dtype=torch.float32, device="cpu", quantization="4bit")
    require_quantization(None)


def test_a_base_that_does_not_fit_is_refused_before_loading(base, monkeypatch) -> None:
    class Memory:
        available = 1000

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(Refused, match="model 'tiny' does not fit into the machine's memory"):
        load_base(resolved(base), dtype=torch.float32, device="cpu")


def test_a_tokenizer_is_loaded_from_the_same_folder(base, tokenizer) -> None:
    text = 'Question: "köpek"?\nAnswer:'
    assert load_tokenizer(resolved(base))(text).input_ids == tokenizer(text).input_ids


@pytest.fixture(scope="module")
def gemma(tmp_path_factory) -> tuple[Path, Gemma3ForConditionalGeneration]:
    """A tiny base that also reads images, as gemma-3-4b-it does, and its folder."""
    text = {
        "vocab_size": 500,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "initializer_range": 0.15,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, image_token_index=499))
    folder = tmp_path_factory.mktemp("gemma")
    model.eval().save_pretrained(folder)
    return folder, model


@torch.inference_mode()
def test_of_a_base_that_reads_images_the_language_model_is_loaded(gemma) -> None:
    folder, whole = gemma
    found = resolved(folder)
    model = load_base(found, dtype=torch.float32, device="cpu")
    assert found.max_positions == 256
    assert torch.equal(model(TOKENS).logits, whole(TOKENS).logits)
    names = {name for name, _ in model.named_parameters()}
    assert names < {name for name, _ in whole.named_parameters()}
    assert not [name for name in names if "vision" in name or "multi_modal" in name]
    assert batching_of(model).shared


@torch.inference_mode()
def test_its_options_are_scored_as_the_whole_model_would(gemma, caplog) -> None:
    folder, whole = gemma
    model = load_base(resolved(folder), dtype=torch.float32, device="cpu")
    context, options = tuple(TOKENS[0, :9].tolist()), ((5, 9, 11), (7,))
    (found,) = loglikelihoods(model, ScoringSet([Continuations(context, options)], tokens_per_batch=64, max_length=64))
    for option, value in zip(options, found, strict=True):
        tokens = torch.tensor([[*context, *option]])
        logs = whole(tokens).logits[0, len(context) - 1 : -1].log_softmax(dim=-1)
        assert value == pytest.approx(float(logs.gather(1, torch.tensor(option)[:, None]).sum()), abs=1e-4)
    assert "vision" not in caplog.text


def test_its_adapters_are_on_the_language_model_and_named_as_in_the_whole(gemma) -> None:
    folder, whole = gemma
    base = resolved(folder)
    adapter = fresh_adapter(load_base(base, dtype=torch.float32, device="cpu"), LoraSpec(rank=2), seed=0)
    assert len(adapter.weights) == 2 * 7
    assert all(name.startswith("model.language_model.layers.") for name in adapter.weights)
    assert all(isinstance(whole.get_submodule(name), nn.Linear) for name in adapter.weights)
    assert adapter_parameters(base.skeleton(), LoraSpec(rank=2)) == adapter.parameters


def test_the_fixture_is_a_causal_model_that_transformers_loads(base) -> None:
    assert type(AutoModelForCausalLM.from_pretrained(base)).__name__ == "LlamaForCausalLM"
