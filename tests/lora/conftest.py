"""Training texts of the built-in grid, and adapters with something in them, ours and PEFT's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from registry.benchmarks import demo
from registry.benchmarks.prompts import PROMPTS
from registry.cells import Cell
from registry.config.study import LoraSpec
from registry.lora.adapter import Adapter, fresh_adapter
from registry.lora.encoding import Example, encode_examples


@pytest.fixture(scope="session")
def examples(tokenizer) -> list[Example]:
    """Thirty texts of several lengths with targets of one to several tokens."""
    cells = (Cell("kind", "en"), Cell("pair", "tr"))
    texts = [PROMPTS["text"].training(item) for cell in cells for item in demo.items(cell, "train")[:15]]
    return encode_examples(tokenizer, [(text.prompt, text.target) for text in texts], max_length=128)


@pytest.fixture(scope="session")
def peft() -> Callable[..., AbstractContextManager[PeftModel]]:
    """PEFT's own model: fresh from a seed, or with the weights of an adapter. Taken off again on exit."""

    @contextmanager
    def attached(base, spec: LoraSpec, *, seed: int = 0, adapter: Adapter | None = None):
        torch.manual_seed(seed)
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=spec.rank,
            lora_alpha=spec.alpha,
            lora_dropout=spec.dropout,
            target_modules=list(spec.targets),
        )
        model = get_peft_model(base, config)
        if adapter is not None:
            for name, (a, b) in adapter.weights.items():
                layer = model.base_model.model.get_submodule(name)
                layer.lora_A["default"].weight.data.copy_(a)
                layer.lora_B["default"].weight.data.copy_(b)
        try:
            yield model
        finally:
            model.unload()

    return attached


@pytest.fixture(scope="session")
def randomise() -> Callable[[Adapter], Adapter]:
    """Put random values into every B of an adapter: fresh ones are zero, so that it changes nothing."""

    def fill(adapter: Adapter, seed: int = 5) -> Adapter:
        generator = torch.Generator().manual_seed(seed)
        drawn = {
            name: (a, torch.empty_like(b).normal_(std=0.1, generator=generator))
            for name, (a, b) in adapter.weights.items()
        }
        return dataclasses.replace(adapter, weights=drawn)

    return fill


@pytest.fixture
def adapter(llama, randomise) -> Adapter:
    """An adapter of the tiny base that changes its logits."""
    return randomise(fresh_adapter(llama, LoraSpec(rank=4, alpha=8), seed=3))
