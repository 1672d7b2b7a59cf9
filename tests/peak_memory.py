"""What is measured of memory, and on what: storages at their peak, two bases, and texts."""

from __future__ import annotations

from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from registry.lora.encoding import Example

LLAMA_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    tie_word_embeddings=False,
)


class Peak(TorchDispatchMode):
    """Most bytes that storages made inside it take at once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if torch.is_tensor(tensor)}
        result = func(*args, **(kwargs or {}))
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        for tensor in tree_leaves(result):
            if torch.is_tensor(tensor) and (key := tensor.untyped_storage()._cdata) not in given:
                self._alive[key] = (StorageWeakRef(tensor.untyped_storage()), tensor.untyped_storage().nbytes())
        self.bytes = max(self.bytes, sum(size for _, size in self._alive.values()))
        return result


def skeleton(config: LlamaConfig) -> PreTrainedModel:
    """Make a base without its weights."""
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def medium(dtype: torch.dtype, *, layers: int = 10) -> PreTrainedModel:
    """Make a base of 19 million parameters, or less with fewer layers."""
    config = LlamaConfig(
        vocab_size=4000,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=layers,
        num_attention_heads=6,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(dtype).eval().requires_grad_(False)


def texts(count: int, length: int, supervised_from: int) -> list[Example]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(4000, (count, length), generator=generator).tolist()
    return [Example(tuple(tokens), supervised_from) for tokens in drawn]
