"""What vLLM asks of an adapter's folder, and the command that serves it.

The rules are those of vLLM's own sources: ``vllm/lora/peft_helper.py`` (features, rank), ``vllm/config/lora.py`` (the
values of ``--max-lora-rank``), ``vllm/lora/lora_model.py`` and ``vllm/lora/utils.py`` (files, names of tensors), and
``LoRAParserAction`` of ``vllm/entrypoints/openai/cli_args.py`` (how ``--lora-modules`` is read).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import safe_open

from registry.cards.base_model import Dtype
from registry.errors import Refused

__all__ = ["RANKS", "cautions", "max_lora_rank", "objections", "serve_adapter", "serve_merged"]

#: Values that every version of vLLM takes for ``--max-lora-rank``; its default is 16.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)

# Where PEFT put the two factors of a linear layer; embeddings and trained biases are called otherwise.
_TENSOR = re.compile(r"base_model\.model\..+\.lora_[AB]\.weight")


def max_lora_rank(rank: int) -> int:
    """Return the smallest value of ``--max-lora-rank`` that admits a rank.

    Raises
    ------
    Refused
        If vLLM serves no adapter of that rank.
    """
    for allowed in RANKS:
        if rank <= allowed:
            return allowed
    raise Refused(f"vLLM serves adapters up to rank {RANKS[-1]}, this one has {rank}; pull it with -P merged=true")


def objections(folder: Path) -> list[str]:
    """Say why vLLM would not load an adapter's folder, a text per reason; none if it would."""
    missing = [name for name in ("adapter_config.json", "adapter_model.safetensors") if not (folder / name).is_file()]
    if missing:
        return [f"{name} is missing" for name in missing]
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    with safe_open(folder / "adapter_model.safetensors", framework="numpy") as file:
        names = list(file.keys())
    return [*_features(config), *_tensors(names)]


def _features(config: dict[str, Any]) -> list[str]:
    found = [
        f"adapter_config.json lacks {name}" for name in ("r", "lora_alpha", "target_modules") if name not in config
    ]
    if config.get("peft_type") != "LORA":
        found.append(f"peft_type is {config.get('peft_type')!r}, not 'LORA'")
    if not config.get("base_model_name_or_path"):
        found.append("base_model_name_or_path names no base")
    if config.get("bias", "none") != "none":
        found.append(f"bias is {config['bias']!r}, not 'none'")
    if config.get("modules_to_save"):
        found.append("modules_to_save is not empty")
    if config.get("use_dora"):
        found.append("use_dora is set")
    # One rank and one scale are read for the whole adapter.
    found += [f"{name} gives some modules another" for name in ("rank_pattern", "alpha_pattern") if config.get(name)]
    if config.get("r", 0) > RANKS[-1]:
        found.append(f"rank {config['r']} is above {RANKS[-1]}")
    return found


def _tensors(names: Iterable[str]) -> list[str]:
    odd = [name for name in names if not _TENSOR.fullmatch(name)]
    return [f"tensor {odd[0]!r} is no factor of a linear layer"] if odd else []


def serve_adapter(base: str, revision: str | None, name: str, folder: Path | str, rank: int, dtype: Dtype) -> str:
    """Return the command that serves a base with an adapter beside it.

    Parameters
    ----------
    base, revision
        Hub id and commit, or a folder and None.
    name
        What requests will call the adapter.
    dtype
        That the study computed in; without it vLLM rounds float32 weights to 16 bits.
    """
    module = f"{name}={folder}"
    if module.count("=") > 1 or "," in module:  # vLLM would cut it there; what is no name=path is read as JSON
        module = json.dumps({"name": name, "path": str(folder)}, ensure_ascii=False)
    pinned = ["--revision", revision] if revision else []
    parts = ["vllm", "serve", base, *pinned, "--dtype", dtype, "--enable-lora", "--lora-modules", module]
    return shlex.join([*parts, "--max-lora-rank", str(max_lora_rank(rank))])


def serve_merged(folder: Path | str, name: str, dtype: str) -> str:
    """Return the command that serves a merged model's folder, its weights in ``dtype``."""
    return shlex.join(["vllm", "serve", str(folder), "--dtype", dtype, "--served-model-name", name])


def cautions(dtype: Dtype) -> list[str]:
    """Return what to know before serving an adapter of a base that the study held in ``dtype``, a sentence each."""
    found = []
    if dtype == "float32":
        # lora_shrink and lora_expand of vllm/lora/ops/triton_ops assert 16 bits; the CPU's are plain torch.
        found.append(
            "On a GPU vLLM's LoRA kernels take 16 bits only: pull with -P merged=true, or take --dtype bfloat16 and "
            "expect other log-likelihoods."
        )
    found.append(
        "On a CPU with --enable-lora, request prompt_logprobs one at a time: two such requests in a batch end the "
        "engine (vLLM 0.32.0)."
    )
    return found
