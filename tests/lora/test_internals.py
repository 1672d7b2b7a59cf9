"""Names of transformers and accelerate that are not public: where one fails after an upgrade, it was renamed."""

from __future__ import annotations

import torch
from accelerate import dispatch_model
from torch import nn

from registry.lora.internals import attention_name, execution_device


def test_the_attention_implementation_of_a_model_is_known(llama) -> None:
    former = attention_name(llama)
    assert former in ("sdpa", "eager")
    try:
        llama.set_attn_implementation("eager")
        assert attention_name(llama) == "eager", "config._attn_implementation was renamed in transformers"
    finally:
        llama.set_attn_implementation(former)


def test_where_a_module_that_accelerate_holds_computes_is_known() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert execution_device(model[0]) is None
    held = dispatch_model(model, device_map={"": "cpu"}, force_hooks=True)
    place = execution_device(held)
    assert place == torch.device("cpu"), "module._hf_hook.execution_device was renamed in accelerate"
