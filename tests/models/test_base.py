"""Bases are found, described and told apart before any of their weights are loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from registry.config.study import BaseSpec
from registry.errors import Refused
from registry.models.base import resolve_base


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


@pytest.mark.parametrize("file", ["vocab.txt", "merges.txt", "chat_template.jinja"])
def test_a_slow_tokenizers_files_and_the_chat_template_are_part_of_the_base(base, copy: Path, file: str) -> None:
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
        ('{"model_type": "bert", "architectures": ["BertModel"]}', "BertModel, not a causal language model"),
        ('{"model_type": "vit", "architectures": ["ViTModel"]}', "no causal language model of type vit"),
        ('{"model_type": "future"}', "not one that transformers can use: .*future"),
        ('{"model_type": "llama", "hidden_size": "wide"}', "not one that transformers can use"),
        ('{"model_type": "llama", "hidden_size": 64, "num_attention_heads": 0}', "tiny"),
        ("{", "cannot be read: .*not a valid JSON"),
    ],
    ids=["body alone", "pictures", "unknown", "wrong type", "impossible", "broken"],
)
def test_a_configuration_that_is_no_language_models_is_refused(copy: Path, content: str, told: str) -> None:
    (copy / "config.json").write_text(content)
    with pytest.raises(Refused, match=told):
        resolve_base(spec(copy))
