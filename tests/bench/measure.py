"""Clocks, memory, the machine's GEMM rate, and what of it a run needs."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from registry.lora.encoding import Continuations, Example
from tests.bench.shape import SHAPES, body_parameters, lora_parameters

__all__ = ["Memory", "clock", "gemm_rate", "scoring_flops", "training_flops"]


def clock(device: str) -> float:
    """Return this process's CPU seconds, user and system; on a GPU wall seconds once all its work is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def gemm_rate(device: str, dtype: str) -> float:
    """Return the best rate of a square matrix product, in FLOP/s: 1024 wide on one CPU thread, 8192 on a GPU."""
    size, times = (1024, 12) if device == "cpu" else (8192, 30)
    left, right = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    seconds = []
    for _ in range(times):
        start = clock(device)
        left @ right
        seconds.append(clock(device) - start)
    return 2 * size**3 / min(seconds)


class Memory:
    """Peak memory over what the process held when this was made: resident memory, on a GPU what torch allocated."""

    def __init__(self, device: str) -> None:
        self._device = device
        if device == "cpu":
            with suppress(OSError):  # where the kernel lets it: loading the base may have left a peak above the start
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._start = psutil.Process().memory_info().rss
        else:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._start = torch.cuda.memory_allocated()

    def peak(self) -> int:
        """Return the peak so far, in bytes over the start."""
        if self._device != "cpu":
            return torch.cuda.max_memory_allocated() - self._start
        return _peak_resident() - self._start


def _peak_resident() -> int:
    # Not ru_maxrss: Linux counts the memory of the process that started this one into it.
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    if found is None:
        raise RuntimeError("/proc/self/status tells no VmHWM: peak memory is measured on Linux only")
    return int(found[1]) * 1024


def scoring_flops(shape: str, queries: Sequence[Continuations], styles: Sequence[str], *, tokens: int) -> float:
    """Matrix products that scoring needs, in FLOPs.

    ``2 · body · tokens + 4 · hidden · layers · (pairs of a token and one it sees) + 2 · hidden · vocabulary · heads``,
    with ``tokens`` those that really ran, and ``heads`` the positions that predict an option's token. Softmax, norms,
    masked-out products and padding are not needed, so they lower the share. What an engine finds a way to leave out of
    the last layer still counts, which raises it.

    Parameters
    ----------
    tokens
        Tokens that the engine ran. Those it left out are taken to be the start that all contexts of a style share.
    """
    heads = sum(1 + sum(len(option) - 1 for option in query.options) for query in queries)
    pairs = float(sum(_pairs(query) for query in queries))
    inputs = sum(len(query.context) + sum(len(option) - 1 for option in query.options) for query in queries)
    repeated_tokens, repeated_pairs = _repeated(queries, styles)
    if repeated_tokens:
        pairs -= repeated_pairs * min(1.0, (inputs - tokens) / repeated_tokens)
    return 2 * body_parameters(shape) * tokens + _attention(shape) * pairs + 2 * _head(shape) * heads


def training_flops(shape: str, training: Sequence[Example], held: Sequence[Example], *, tokens: int) -> float:
    """Matrix products that training needs, in FLOPs.

    Per token of training: ``2 · 2 · body`` (forward, and backward to the activations: frozen weights need no gradient),
    ``3 · 2 · lora``, three times the attention products of :func:`scoring_flops`; ``2 · 2 · hidden · vocabulary`` per
    label. Validation: the forward products alone.

    Parameters
    ----------
    training, held
        Examples of one epoch.
    tokens
        Training tokens that the engine ran over all epochs.
    """
    body, lora, head = body_parameters(shape), lora_parameters(shape), _head(shape)
    epochs = tokens / sum(len(example.tokens) - 1 for example in training)
    step: float = (4 * body + 6 * lora) * tokens
    step += epochs * sum(
        3 * _attention(shape) * _triangle(len(example.tokens) - 1) + 4 * head * _labels(example) for example in training
    )
    validation = epochs * sum(
        2 * (body + lora) * (len(example.tokens) - 1)
        + _attention(shape) * _triangle(len(example.tokens) - 1)
        + 2 * head * _labels(example)
        for example in held
    )
    return step + validation


def _head(shape: str) -> int:
    return int(SHAPES[shape]["hidden_size"]) * int(SHAPES[shape]["vocab_size"])


def _attention(shape: str) -> int:
    """FLOPs of one pair of a token and one it sees, over all layers: query times key, and weight times value."""
    return 4 * int(SHAPES[shape]["hidden_size"]) * int(SHAPES[shape]["num_hidden_layers"])


def _labels(example: Example) -> int:
    return len(example.tokens) - example.supervised_from


def _triangle(length: int) -> int:
    return length * (length + 1) // 2


def _pairs(query: Continuations) -> int:
    context = len(query.context)
    return _triangle(context) + sum(
        (len(option) - 1) * context + _triangle(len(option) - 1) for option in query.options
    )


def _repeated(queries: Sequence[Continuations], styles: Sequence[str]) -> tuple[int, int]:
    """Return tokens and pairs that would be saved if each style's common start were computed once."""
    contexts: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for query, style in zip(queries, styles, strict=True):
        contexts[style].append(query.context)
    tokens = pairs = 0
    for group in contexts.values():
        first, last = min(group), max(group)
        same = next((i for i, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
        tokens += (len(group) - 1) * same
        pairs += (len(group) - 1) * _triangle(same)
    return tokens, pairs
