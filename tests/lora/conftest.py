"""Training texts of the built-in grid, and an adapter with something in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from peft import PeftModel

from registry.benchmarks import demo
from registry.benchmarks.prompts import PROMPTS
from registry.cells import Cell
from registry.lora.adapter import attached
from registry.lora.tokens import Example, encode_examples
from registry.study import LoraSpec


@pytest.fixture(scope="session")
def examples(tokenizer) -> list[Example]:
    """Thirty texts of several lengths with targets of one to several tokens."""
    cells = (Cell("kind", "en"), Cell("pair", "tr"))
    texts = [PROMPTS["text"].training(item) for cell in cells for item in demo.items(cell, "train")[:15]]
    return encode_examples(tokenizer, [(text.prompt, text.target) for text in texts], max_length=128)


@pytest.fixture(scope="session")
def randomise() -> Callable[[PeftModel], None]:
    """Put random values into every B of an adapter: fresh ones are zero, so that it changes nothing."""

    def fill(model: PeftModel) -> None:
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.1, generator=generator)

    return fill


@pytest.fixture
def adapter(llama, randomise) -> Iterator[PeftModel]:
    """An adapter on the tiny base that changes its logits."""
    with attached(llama, LoraSpec(rank=4, alpha=8), seed=3) as model:
        randomise(model)
        yield model
