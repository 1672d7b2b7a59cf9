"""How much freed memory a job gives back to the system: ``python -m tests.freed_memory``, in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable

import psutil
import torch
from transformers import PreTrainedModel

from registry.config.study import LoraSpec, Recipe
from registry.lora.adapter import fresh_adapter
from registry.lora.bank import merged
from registry.lora.encoding import Continuations, Example
from registry.lora.score import ScoringSet, loglikelihoods
from registry.lora.train import Assignment, train_adapter
from tests.architectures.tiny import tiny_config, tiny_model

BLOCKS, BLOCK, BETWEEN = 200, 2**20, 2**17


def trained(llama: PreTrainedModel) -> None:
    examples = [Example((1, 5, 6, 7), 2)] * 2
    train_adapter(llama, Assignment(fresh_adapter(llama, LoraSpec(rank=2), seed=0), examples, 0), Recipe(epochs=1))


def scored(llama: PreTrainedModel) -> None:
    loglikelihoods(llama, ScoringSet([Continuations((1, 5), ((6,), (7,)))], tokens_per_batch=64, max_length=16))


def merged_once(llama: PreTrainedModel) -> None:
    with merged(llama, fresh_adapter(llama, LoraSpec(rank=2), seed=0)):
        pass


def given_back(job: Callable[[PreTrainedModel], None], llama: PreTrainedModel) -> float:
    """Free blocks, do a job, and return the share of them that the process no longer holds."""
    # With something that stays behind each block, nothing is at the heap's end, which glibc gives back by itself.
    pairs = [(torch.ones(BLOCK, dtype=torch.uint8), torch.ones(BETWEEN, dtype=torch.uint8)) for _ in range(BLOCKS)]
    kept = [small for _, small in pairs]
    del pairs
    before = psutil.Process().memory_info().rss
    job(llama)
    freed = before - psutil.Process().memory_info().rss
    assert all(small.sum() == BETWEEN for small in kept)
    return freed / (BLOCKS * BLOCK)


def main() -> None:
    """Print the share for each job as JSON."""
    torch.set_num_threads(1)
    torch.empty(30 * BLOCK, dtype=torch.uint8)  # once freed, glibc takes blocks up to this size from its heap
    llama = tiny_model(tiny_config("llama"))
    print(json.dumps({job.__name__: given_back(job, llama) for job in (trained, scored, merged_once)}))


if __name__ == "__main__":
    main()
