"""Projections are told as PEFT finds them, GPT-2's too, and whatever counts them counts the same."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from registry.config.study import BaseSpec, LoraSpec
from registry.lora.adapter import fresh_adapter
from registry.lora.cost import Size
from registry.models.architecture import skeleton
from registry.models.memory import weight_bytes
from registry.models.projections import adapter_parameters, projections
from registry.planning.forecast import Sizes, sizes_of

GPT2 = GPT2Config(vocab_size=100, n_positions=64, n_embd=32, n_layer=2, n_head=2)
LLAMA = LlamaConfig(
    vocab_size=100,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
BASES = [pytest.param(GPT2LMHeadModel, GPT2, id="gpt2"), pytest.param(LlamaForCausalLM, LLAMA, id="llama")]


@pytest.mark.parametrize(
    ("kind", "config", "targets", "parameters"),
    [
        (GPT2LMHeadModel, GPT2, ("c_attn", "c_fc"), 2 * 8 * (32 + 96 + 32 + 128)),
        (GPT2LMHeadModel, GPT2, ("mlp.c_proj",), 2 * 8 * (128 + 32)),  # attention has a c_proj too
        (LlamaForCausalLM, LLAMA, LoraSpec().targets, 2 * 8 * (2 * 64 + 2 * (32 + 16) + 3 * (32 + 48))),
        (LlamaForCausalLM, LLAMA, ("q_proj", "lm_head"), 8 * (2 * 64 + 132)),
        (LlamaForCausalLM, LLAMA, ("roj", "down_proj"), 2 * 8 * 80),
    ],
)
def test_an_adapters_parameters_are_counted_without_making_it(kind, config, targets, parameters: int) -> None:
    spec = LoraSpec(rank=8, targets=targets)
    adapter = fresh_adapter(kind(config), spec, seed=0)
    shapes = projections(skeleton(config), targets)
    assert shapes == {name: (a.shape[1], b.shape[0]) for name, (a, b) in adapter.weights.items()}
    assert adapter_parameters(skeleton(config), spec) == adapter.parameters == parameters


@pytest.mark.parametrize(("kind", "config"), BASES)
def test_every_matrix_but_embeddings_and_the_lm_head_is_passed_by_every_token(kind, config) -> None:
    base: PreTrainedModel = kind(config)
    matrices = sum(weight.numel() for weight in base.base_model.parameters() if weight.ndim == 2)
    embeddings = 100 * 32 + (64 * 32 if config is GPT2 else 0)
    assert Size.of(base) == Size(matrices - embeddings, 100 * 32)
    rest = base.num_parameters() - Size.of(base).body
    assert weight_bytes(base, torch.float32, "8bit") == 4 * rest + Size.of(base).body


@pytest.mark.parametrize(("kind", "config"), BASES)
def test_a_study_is_forecast_by_the_same_numbers(kind, config, small_study, tmp_path) -> None:
    base: PreTrainedModel = kind(config)
    base.save_pretrained(tmp_path)
    study = small_study(("rank: 4", "rank: 4, targets: [c_attn, q_proj]"))
    adapter, size = fresh_adapter(base, study.recipe.lora, seed=0), Size.of(base)
    found = sizes_of(BaseSpec(name="tiny", path=str(tmp_path)), study)
    assert found == Sizes(size.body + size.head, adapter.parameters, base.num_parameters())
