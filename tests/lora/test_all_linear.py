"""An adapter on every linear layer of a base: the layers that PEFT itself would take, and a file that PEFT loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MptConfig,
    MptForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from registry.config.study import ALL_LINEAR, LoraSpec
from registry.lora.adapter import fresh_adapter, read_adapter, save_adapter
from registry.models.base import skeleton
from registry.models.projections import adapter_parameters

SIZES = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
BASES = [
    (Phi3ForCausalLM, Phi3Config(**SIZES, intermediate_size=48, num_key_value_heads=4, bos_token_id=1, eos_token_id=2)),
    (GPT2LMHeadModel, GPT2Config(vocab_size=128, n_embd=32, n_layer=2, n_head=4)),
    (BloomForCausalLM, BloomConfig(vocab_size=128, hidden_size=32, n_layer=2, n_head=4)),
    (MptForCausalLM, MptConfig(vocab_size=128, d_model=32, n_layers=2, n_heads=4, max_seq_len=64)),
    (
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig(
            **SIZES,
            intermediate_size=48,
            moe_intermediate_size=16,
            num_key_value_heads=2,
            head_dim=8,
            num_experts=4,
            num_experts_per_tok=2,
        ),
    ),
]


@pytest.mark.parametrize(("kind", "config"), BASES, ids=[kind.__name__ for kind, _ in BASES])
def test_they_are_those_of_peft_and_the_file_loads_there(
    kind: type[PreTrainedModel], config, randomise, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    base, spec = kind(config).eval(), LoraSpec(rank=2, targets=ALL_LINEAR)
    adapter = randomise(fresh_adapter(base, spec, seed=0))
    assert adapter.parameters == adapter_parameters(skeleton(config), spec)
    save_adapter(adapter, tmp_path, base_reference="tiny", base_revision=None)
    assert read_adapter(tmp_path).spec == adapter.spec
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        before = base(tokens).logits
    theirs = get_peft_model(kind(config), LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"))
    wanted = {name for name, module in theirs.base_model.model.named_modules() if isinstance(module, LoraLayer)}
    # PEFT also takes experts that are kept in one tensor, and their router.
    assert set(adapter.weights) == {
        name for name in wanted if "mlp.experts" not in name and "mlp.gate" not in name[-8:]
    }
    loaded = PeftModel.from_pretrained(base, str(tmp_path))
    assert sum(isinstance(module, LoraLayer) for module in loaded.modules()) == len(adapter.weights)
    with torch.no_grad():
        assert not torch.allclose(loaded(tokens).logits, before)
