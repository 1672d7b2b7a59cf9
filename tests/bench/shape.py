"""Random models of real shapes, their tokenizer, and an adapter with something in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from registry.config.study import LoraSpec, Recipe

__all__ = ["SHAPES", "body_parameters", "load_base", "lora_parameters", "make_adapter", "make_base", "recipe"]

VOCABULARY = 16384
_POSITIONS = 2048
#: Weights large enough for options to differ by nats, as those of a trained model do.
_SPREAD = {"bench": 0.04, "0.5b": 0.04, "8b": 0.02}
_LORA = LoraSpec(rank=32, alpha=64.0)

#: ``bench`` has the head-to-body ratio of a real model of 0.5 to 1 B: 8.4 M to 22.6 M. The others are as large as
#: Qwen2.5-0.5B and Llama-3.1-8B. All use the benchmark's tokenizer, so the larger ones leave ids unused; the head's
#: cost is the full one.
SHAPES: dict[str, dict[str, Any]] = {
    "bench": {
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "intermediate_size": 1408,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
    },
    "0.5b": {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "8b": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    },
}


def make_base(folder: Path, shape: str, *, device: str, dtype: str) -> None:
    """Write a random base model of a shape, decided by a fixed seed."""
    config = LlamaConfig(
        **SHAPES[shape],
        max_position_embeddings=_POSITIONS,
        initializer_range=_SPREAD[shape],
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    with torch.device(device):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)


def load_base(folder: Path, *, device: str, dtype: str) -> LlamaForCausalLM:
    """Load the base for inference, frozen: what a resident process holds."""
    model: Any = LlamaForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    base: LlamaForCausalLM = model.to(device).eval().requires_grad_(False)
    return base


def make_adapter(base: PreTrainedModel, folder: Path) -> None:
    """Write a PEFT folder whose adapter changes every projection: fresh ones have B = 0 and would change nothing."""
    model = get_peft_model(base, lora_config())
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.01)
    model.save_pretrained(str(folder), save_embedding_layers=False)


def lora_config() -> LoraConfig:
    """Return the adapter of the benchmarks as PEFT configures it: rank 32, alpha 64, the seven projections."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=_LORA.rank,
        lora_alpha=int(_LORA.alpha),
        lora_dropout=_LORA.dropout,
        target_modules=list(_LORA.targets),
    )


def recipe(*, epochs: int, dtype: str) -> Recipe:
    """Return the training recipe of "Donors and Recipients" (arXiv 2511.13368), on both sides."""
    return Recipe(
        lora=_LORA,
        learning_rate=5e-5,
        epochs=epochs,
        batch_size=8,
        warmup=0.1,
        clip=1.0,
        validation=0.1,
        max_length=256,
        precision="fp32" if dtype == "float32" else "bf16",
    )


def body_parameters(shape: str) -> int:
    """Weights of all projections of all layers, embeddings and head left out."""
    return _layers(shape) * sum(inputs * outputs for inputs, outputs in _projections(shape))


def lora_parameters(shape: str) -> int:
    """Weights of the benchmarks' adapter."""
    return _layers(shape) * sum(_LORA.rank * (inputs + outputs) for inputs, outputs in _projections(shape))


def _layers(shape: str) -> int:
    return int(SHAPES[shape]["num_hidden_layers"])


def _projections(shape: str) -> list[tuple[int, int]]:
    """(inputs, outputs) of q, k, v, o, gate, up and down."""
    size = SHAPES[shape]
    hidden, inner = int(size["hidden_size"]), int(size["intermediate_size"])
    key = hidden // int(size["num_attention_heads"]) * int(size["num_key_value_heads"])
    return (
        [(hidden, hidden), (hidden, key), (hidden, key), (hidden, hidden)] + [(hidden, inner)] * 2 + [(inner, hidden)]
    )
