"""vLLM's own rules for an adapter's folder, each with where vLLM states it; vLLM itself is not asked."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from registry.cards.vllm import RANKS, max_lora_rank, objections, serve_adapter
from registry.deploy.pull import pull, usage
from registry.errors import Refused
from registry.lora.adapter import save_adapter
from registry.models.loading import quantization_config

NAME = "tiny--pair--tr"

#: Linear layers of vLLM's Llama, Qwen2 and Gemma 3 once its packed ones are taken apart (`packed_modules_mapping` of
#: vllm/model_executor/models/llama.py, qwen2.py, gemma3.py). `check_unexpected_modules` of vllm/lora/lora_model.py
#: refuses an adapter with others.
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture
def folder(make_adapter, tmp_path: Path) -> Path:
    """What is registered, and so what is pulled."""
    save_adapter(make_adapter(), tmp_path, base_reference="tiny", base_revision=None)
    return tmp_path


def config_of(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "adapter_config.json").read_text())
    return found


def test_a_pulled_folder_meets_every_rule(client, register, chosen, tmp_path: Path) -> None:
    register()
    folder = pull(client, chosen(name=NAME), tmp_path / "adapter").folder
    assert objections(folder) == []
    config = config_of(folder)
    # PEFTHelper of vllm/lora/peft_helper.py: the fields without a default.
    assert {"r", "lora_alpha", "target_modules"} <= set(config)
    # FilesystemResolver of vllm/plugins/lora_resolvers/filesystem_resolver.py: type, and the base as it is served.
    assert (config["peft_type"], config["base_model_name_or_path"]) == ("LORA", "tiny")
    # from_local_checkpoint of vllm/lora/lora_model.py: the file's name; the last part of every module's.
    tensors = load_file(folder / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in tensors} == LINEAR
    # from_lora_tensors of the same: lora_A is (rank, in), lora_B (out, rank), one rank for all.
    assert {tensor.shape[0] for name, tensor in tensors.items() if ".lora_A." in name} == {config["r"]}
    assert {tensor.shape[1] for name, tensor in tensors.items() if ".lora_B." in name} == {config["r"]}


BROKEN: list[tuple[str, dict[str, object], str]] = [
    # validate_legal of vllm/lora/peft_helper.py
    ("modules_to_save must be empty", {"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ("no DoRA", {"use_dora": True}, "use_dora"),
    ("no bias", {"bias": "lora_only"}, "bias is 'lora_only'"),
    ("rank up to the largest of MaxLoRARanks, vllm/config/lora.py", {"r": 1024}, "rank 1024 is above 512"),
    # PEFTHelper has one rank and one scale and reads no patterns
    ("one rank", {"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
    ("one scale", {"alpha_pattern": {"q_proj": 2}}, "alpha_pattern"),
    # FilesystemResolver
    ("of type LORA", {"peft_type": "IA3"}, "peft_type is 'IA3'"),
    ("names its base", {"base_model_name_or_path": None}, "names no base"),
]


@pytest.mark.parametrize(("change", "told"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_a_configuration_that_vllm_refuses_is_told(folder: Path, change: dict[str, object], told: str) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(config_of(folder) | change))
    assert [text for text in objections(folder) if told in text]


@pytest.mark.parametrize("name", ["r", "lora_alpha", "target_modules"])
def test_a_configuration_without_a_required_field_is_told(folder: Path, name: str) -> None:
    config = config_of(folder)
    del config[name]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert objections(folder) == [f"adapter_config.json lacks {name}"]


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_told(folder: Path, name: str) -> None:
    (folder / name).rename(folder / "other")
    assert objections(folder) == [f"{name} is missing"]


@pytest.mark.parametrize(
    "name",
    ["base_model.model.model.embed_tokens.lora_embedding_A", "base_model.model.model.layers.0.mlp.up_proj.bias"],
)
def test_a_tensor_that_is_no_factor_of_a_linear_layer_is_told(folder: Path, name: str) -> None:
    # parse_fine_tuned_lora_name of vllm/lora/utils.py; lora_embedding_A needs a vocabulary of vLLM's own size
    file = folder / "adapter_model.safetensors"
    save_file({**load_file(file), name: torch.zeros(2)}, file)
    assert objections(folder) == [f"tensor {name!r} is no factor of a linear layer"]


@pytest.mark.parametrize(("rank", "allowed"), [(1, 8), (8, 8), (9, 16), (64, 64), (129, 256), (257, 320), (512, 512)])
def test_the_rank_served_is_the_least_that_vllm_takes(rank: int, allowed: int) -> None:
    assert max_lora_rank(rank) == allowed
    # MaxLoRARanks of vllm/config/lora.py; newer versions take 1 as well
    assert set(RANKS) <= {1, 8, 16, 32, 64, 128, 256, 320, 512}


def test_a_rank_above_the_largest_is_refused() -> None:
    with pytest.raises(Refused, match="up to rank 512, this one has 513"):
        max_lora_rank(513)


def modules_of(command: str) -> Callable[[], tuple[str, str]]:
    """Read a command line as vLLM does: LoRAParserAction of vllm/entrypoints/openai/cli_args.py."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--enable-lora", action="store_true")
    parser.add_argument("--revision")
    parser.add_argument("--dtype", choices=["auto", "half", "float16", "bfloat16", "float", "float32"])
    parser.add_argument("--max-lora-rank", type=int, choices=RANKS)
    parser.add_argument("--lora-modules", nargs="+")
    program, verb, *arguments = shlex.split(command)
    assert (program, verb) == ("vllm", "serve")
    given = parser.parse_args(arguments)
    assert given.enable_lora
    (item,) = given.lora_modules
    if "=" in item and "," not in item:
        name, path = item.split("=")
        return lambda: (name, path)
    told = json.loads(item)
    assert set(told) == {"name", "path"}
    return lambda: (told["name"], told["path"])


@pytest.mark.parametrize("place", ["/a/b", "/a b/c's", "/a=b/c", "/a,b", '/a"b,c', "/é=ü"])
def test_vllm_reads_the_command_as_it_is_meant(place: str) -> None:
    command = serve_adapter("owner/base", "c0ffee", NAME, Path(place), 12, "bfloat16")
    assert modules_of(command)() == (NAME, place)
    assert "--revision c0ffee --dtype bfloat16" in command
    assert command.endswith("--max-lora-rank 16")


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")])
def test_the_lines_load_the_base_as_the_study_held_it(
    client, register, chosen, base, tmp_path: Path, precision: str, dtype: str
) -> None:
    register(precision=precision)
    pulled = pull(client, chosen(name=NAME), tmp_path / "adapter", base=str(base))
    python, shell = "\n".join(usage(pulled)).split("  vLLM:")
    card = (pulled.folder / "README.md").read_text()
    for text in (shell, card):
        assert f" --dtype {dtype} " in text
        assert "prompt_logprobs" in text.replace("\\", "")
        assert ("LoRA kernels take 16 bits only" in text) == (precision == "fp32")
    for text in (python, card):
        assert f', dtype="{dtype}")' in text
    lines = dict(line.strip().split(" = ") for line in python.splitlines() if line.strip().startswith("base = "))
    assert eval(lines["base"], {"AutoModelForCausalLM": AutoModelForCausalLM}).dtype == getattr(torch, dtype)


def test_a_quantised_base_is_loaded_quantised(client, register, chosen, base, tmp_path: Path) -> None:
    register(precision="bf16", quantization="4bit")
    pulled = pull(client, chosen(name=NAME), tmp_path / "adapter", base=str(base))
    for text in ("\n".join(usage(pulled)), (pulled.folder / "README.md").read_text()):
        assert "AutoTokenizer, BitsAndBytesConfig" in text
        (called,) = re.findall(r"quantization_config=(BitsAndBytesConfig\(.*?\))\)", text)
        made = eval(called, {"BitsAndBytesConfig": BitsAndBytesConfig})
        assert made.to_dict() == quantization_config("4bit", torch.bfloat16).to_dict()


def test_a_merged_model_is_served_in_its_own_type(client, register, chosen, base, tmp_path: Path) -> None:
    register()
    for dtype in ("float32", "bfloat16"):
        pulled = pull(client, chosen(name=NAME), tmp_path / dtype, merged=dtype, base=str(base))
        text = "\n".join([*usage(pulled), (pulled.folder / "README.md").read_text()])
        assert text.count(f"--dtype {dtype}") == text.count(f'dtype="{dtype}"') == text.count("vllm serve") == 2
