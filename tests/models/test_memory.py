"""What a base's weights take, and that what does not fit is refused."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Callable

import psutil
import pytest
import torch

from registry.errors import Refused
from registry.models.memory import HEADROOM, require_full_memory, require_memory, weight_bytes
from registry.paths import PROJECT
from tests.peak_memory import LLAMA_8B, medium, skeleton


def test_the_weights_take_what_a_loaded_base_takes() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        base = medium(dtype)
        assert weight_bytes(base, dtype) == sum(weight.nbytes for weight in base.parameters())


def test_a_quantised_base_has_its_projections_in_fewer_bits() -> None:
    base = skeleton(medium(torch.float32).config)
    rest = 2 * 4000 * 384 + 21 * 384  # embeddings, LM head, norms
    projections = base.num_parameters() - rest
    assert weight_bytes(base, torch.bfloat16, "8bit") == 2 * rest + projections
    assert weight_bytes(base, torch.bfloat16, "4bit") == pytest.approx(2 * rest + 0.516 * projections, rel=1e-3)


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library gives freed memory back itself"
)
def test_a_job_leaves_no_freed_memory_with_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.freed_memory"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {"trained", "scored", "merged_once"}
    assert min(found.values()) > 0.75, found


@pytest.fixture
def free(monkeypatch) -> Callable[[int], None]:
    """Have the machine say that so many bytes are free."""

    def say(count: int) -> None:
        class Said:
            available = count

        monkeypatch.setattr(psutil, "virtual_memory", Said)

    return say


def test_weights_that_do_not_fit_are_refused_with_the_arithmetic(free) -> None:
    base = skeleton(LLAMA_8B)
    needed = round(HEADROOM * 4 * base.num_parameters())
    free(needed - 1)
    with pytest.raises(Refused) as caught:
        require_memory(base, "llama", dtype=torch.float32, device="cpu")
    assert str(caught.value) == (
        "model 'llama' does not fit into the machine's memory: 8.03 B parameters × 4 bytes × 1.1 headroom = 35.3 GB, "
        "free are 35.3 GB; set recipe.precision to bf16, or set quantization to 4bit or 8bit, or set placement to "
        "spread, which adds the machine's other devices"
    )
    free(needed + 1)
    require_memory(base, "llama", dtype=torch.float32, device="cpu")


def test_remedies_that_are_already_taken_are_not_named(free) -> None:
    free(10**9)
    with pytest.raises(Refused, match=r"free are 1 GB; take a smaller model$"):
        require_memory(
            skeleton(LLAMA_8B),
            "llama",
            dtype=torch.bfloat16,
            device="cpu",
            placement="spread",
            quantization="4bit",
        )


@pytest.mark.parametrize(
    ("placement", "quantization", "device", "told"),
    [
        ("one", None, "cuda:1", "the memory of cuda:1: .* free are 2 GB"),
        ("spread", None, "cuda:1", "the memory of 2 GPUs and of the machine: .* free are 6 GB"),
        ("spread", "8bit", "cuda:1", "the memory of 2 GPUs .*: .* free are 3 GB"),
    ],
)
def test_what_is_free_is_asked_where_the_weights_are_to_go(
    free, monkeypatch, placement, quantization, device: str, told: str
) -> None:
    free(3 * 10**9)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda one: (2 * 10**9 if one == "cuda:1" else 1.5 * 10**9, None))
    with pytest.raises(Refused, match=told):
        require_memory(
            skeleton(LLAMA_8B),
            "llama",
            dtype=torch.float32,
            device=device,
            placement=placement,
            quantization=quantization,
        )


def test_a_full_training_that_does_not_fit_is_refused_with_the_arithmetic(free) -> None:
    base = medium(torch.bfloat16)
    needed = round(HEADROOM * 20 * base.num_parameters())
    free(needed - 1)
    with pytest.raises(
        Refused, match=r"'medium' cannot be trained in the machine's memory: .* × 20 bytes × 1\.1 .*lora"
    ):
        require_full_memory(base, "medium", device="cpu")
    free(needed + 1)
    require_full_memory(base, "medium", device="cpu")


@pytest.mark.parametrize(
    ("on_gpu", "in_main", "told"),
    [(16, 99, "the memory of cuda:0: .* × 16 bytes"), (99, 4, "the machine's memory: .* × 4 bytes"), (18, 5, None)],
)
def test_a_full_training_asks_both_memories_of_a_gpu(
    free, monkeypatch, on_gpu: int, in_main: int, told: str | None
) -> None:
    base = medium(torch.bfloat16)
    count = base.num_parameters()
    free(in_main * count)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (on_gpu * count, None))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    if told is None:
        require_full_memory(base, "medium", device="cuda:0")
        return
    with pytest.raises(Refused, match=told):
        require_full_memory(base, "medium", device="cuda:0")
