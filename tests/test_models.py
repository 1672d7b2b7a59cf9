"""Bases are found, described and told apart before any of their weights are loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from registry.lora.adapter import attached
from registry.models import (
    PAPER,
    count_adapter_parameters,
    known_models,
    load_base,
    load_tokenizer,
    resolve_base,
)
from registry.refusal import Refused
from registry.study import BaseSpec, LoraSpec


@pytest.fixture
def copy(base, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(base, folder)
    return folder


def spec(folder: Path, **fields: object) -> BaseSpec:
    return BaseSpec(name="tiny", path=str(folder), **fields)


def test_a_folder_is_described_by_its_own_configuration(base, llama) -> None:
    found = resolve_base(spec(base))
    assert (found.name, found.reference, found.location) == ("tiny", "tiny", str(base))
    assert (found.family, found.max_positions) == ("llama", 256)
    assert found.size_b == pytest.approx(llama.num_parameters() / 1e9, abs=1e-6)
    assert found.revision.startswith("sha256:")
    assert found.hub_revision is None


def test_what_the_study_says_of_a_base_stands_before_what_it_says_itself(base) -> None:
    found = resolve_base(spec(base, family="Tiny-1", size_b=0.5))
    assert (found.family, found.size_b) == ("Tiny-1", 0.5)


def test_a_folder_is_known_by_what_is_in_it_and_not_by_where_it_lies(base, copy: Path) -> None:
    assert resolve_base(spec(copy)).revision == resolve_base(spec(base)).revision
    (copy / "README.md").write_text("a model card decides nothing")
    assert resolve_base(spec(copy)).revision == resolve_base(spec(base)).revision


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_folder_is_another_base_when_its_description_changes(base, copy: Path, file: str) -> None:
    content = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps(content | {"note": "new"}))
    assert resolve_base(spec(copy)).revision != resolve_base(spec(base)).revision


def test_a_folder_is_another_base_when_one_bit_of_its_weights_changes(base, copy: Path) -> None:
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    assert resolve_base(spec(copy)).revision != resolve_base(spec(base)).revision


@pytest.mark.parametrize("file", ["vocab.txt", "merges.txt"])
def test_a_slow_tokenizers_files_are_part_of_the_base(base, copy: Path, file: str) -> None:
    (copy / file).write_text("a b\n")
    assert resolve_base(spec(copy)).revision != resolve_base(spec(base)).revision


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("demo-wid", "there is no model 'demo-wid'; nearest: demo-wide"),
        ("nothing-like-it", "there is no model 'nothing-like-it'; there are: .*demo-deep, demo-wide"),
    ],
)
def test_a_name_that_is_no_model_is_answered_with_the_nearest(name: str, told: str) -> None:
    with pytest.raises(Refused, match=told):
        resolve_base(BaseSpec(name=name))


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(Refused, match=r"holds no config\.json"):
        resolve_base(spec(tmp_path / "nowhere"))
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(Refused, match=r"no \*.safetensors; convert its weights"):
        resolve_base(spec(copy))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"architectures": ["BertModel"]}', "BertModel, not a causal language model"),
        ("{", "cannot be read: .*not a valid JSON"),
    ],
    ids=["another kind", "broken"],
)
def test_a_configuration_that_is_no_language_models_is_refused(copy: Path, content: str, told: str) -> None:
    (copy / "config.json").write_text(content)
    with pytest.raises(Refused, match=told):
        resolve_base(spec(copy))


def test_a_base_is_loaded_frozen_in_evaluation_mode_in_the_type_asked_for(base, llama) -> None:
    found = resolve_base(spec(base))
    model = load_base(found, dtype=torch.float32, device="cpu")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in llama.state_dict().items())
    assert load_base(found, dtype=torch.bfloat16, device="cpu").dtype == torch.bfloat16


def test_a_tokenizer_is_loaded_from_the_same_folder(base, tokenizer) -> None:
    text = 'Question: "köpek"?\nAnswer:'
    assert load_tokenizer(resolve_base(spec(base)))(text).input_ids == tokenizer(text).input_ids


@pytest.mark.parametrize("lora", [LoraSpec(rank=4), LoraSpec(rank=3, targets=("q_proj", "down_proj"))])
def test_an_adapters_parameters_are_counted_without_the_weights(base, llama, lora: LoraSpec) -> None:
    with attached(llama, lora, seed=0) as model:
        expected = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert count_adapter_parameters(resolve_base(spec(base)), lora) == expected


def test_every_model_of_the_paper_has_its_family_and_size() -> None:
    assert len(PAPER) == 9
    assert {family for family, _ in PAPER.values()} == {"Llama-3", "Qwen2.5", "Gemma-3"}
    assert known_models() == ["demo-deep", "demo-wide"]


def test_the_fixture_is_a_causal_model_that_transformers_loads(base) -> None:
    assert type(AutoModelForCausalLM.from_pretrained(base)).__name__ == "LlamaForCausalLM"
