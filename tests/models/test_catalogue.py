"""The models of the paper, by numbers that hold against transformers' own classes and PEFT's counts."""

from __future__ import annotations

import pytest
import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from registry.config.study import LoraSpec
from registry.lora.adapter import fresh_adapter
from registry.lora.cost import Size
from registry.models.architecture import skeleton
from registry.models.base import known_models
from registry.models.catalogue import PAPER

# SigLIP so400m for images of 896 pixels, as the configuration of gemma-3-4b-it describes it.
VISION = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 896,
    "patch_size": 14,
    "vision_use_head": False,
}


def test_every_model_of_the_paper_has_its_family_and_size() -> None:
    assert len(PAPER) == 9
    assert {model.family for model in PAPER.values()} == {"Llama-3", "Qwen2.5", "Gemma-3"}
    assert {name.partition("/")[0] for name, model in PAPER.items() if model.gated} == {"meta-llama", "google"}
    assert known_models() == ["demo-deep", "demo-wide"]


@pytest.mark.parametrize("name", PAPER)
def test_the_catalogue_agrees_with_transformers_own_classes(name: str) -> None:
    model = PAPER[name]
    bare = skeleton(model.config())
    parameters = bare.num_parameters()
    if name == "google/gemma-3-4b-it":
        with torch.device("meta"):
            whole = Gemma3ForConditionalGeneration(Gemma3Config(text_config=model.config(), vision_config=VISION))
        parameters = whole.num_parameters()
    assert parameters == model.parameters
    assert Size.of(bare) == Size(model.body, model.head)


@pytest.mark.parametrize(
    ("name", "rank", "parameters"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 32, 83_886_080),  # what PEFT prints for it
        ("Qwen/Qwen2.5-0.5B-Instruct", 8, 4_399_104),
        ("Qwen/Qwen2.5-0.5B-Instruct", 32, 4 * 4_399_104),
    ],
)
def test_the_catalogue_counts_an_adapters_parameters(name: str, rank: int, parameters: int) -> None:
    assert PAPER[name].adapter_parameters(LoraSpec(rank=rank)) == parameters


def test_the_catalogue_counts_chosen_projections_as_peft_does() -> None:
    model, spec = PAPER["Qwen/Qwen2.5-0.5B-Instruct"], LoraSpec(rank=2, targets=("k_proj", "down_proj"))
    assert model.adapter_parameters(spec) == fresh_adapter(skeleton(model.config()), spec, seed=0).parameters
