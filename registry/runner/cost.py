"""What a plan is expected to cost, and the rate that such expectations start from."""

from __future__ import annotations

import time
from dataclasses import dataclass

__all__ = [
    "ITEM_BYTES",
    "OUTCOME_BYTES",
    "RECORDING_SECONDS",
    "SHARE_OF_GEMM",
    "Estimate",
    "gemm_rate",
]

#: Bytes of a number in a recipe's precision.
ITEM_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}

#: Store and registry time of one run, a training's or a scoring's; seen on a local SQLite store: 0.16 to 0.19 s of two.
RECORDING_SECONDS = 0.1

#: Share of the machine's matrix-product rate that training and scoring reach; seen on a CPU.
SHARE_OF_GEMM = 0.7

#: Parquet with zstd takes about ten bytes a question and option, the log-likelihood eight of them.
OUTCOME_BYTES = 10


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected cost of a plan.

    Attributes
    ----------
    seconds : float
        Wall time, the workers sharing the work.
    adapters, outcomes : int
        Bytes in the store.
    downloads : int
        Bytes of models that the hub's cache lacks.
    basis : str
        What the time rests on.
    gpus : int
        GPUs that are busy for that time, 0 on a CPU.
    """

    seconds: float
    adapters: int
    outcomes: int
    downloads: int
    basis: str
    gpus: int = 0

    @property
    def bytes(self) -> int:
        """Disk that the store's artifacts take."""
        return self.adapters + self.outcomes


def gemm_rate(precision: str) -> float:
    """Measure the FLOP/s of a square matrix product in a precision, on the one thread or the GPU that a worker has."""
    import torch

    from registry.loading import dtype_of

    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = 4096 if device == "cuda" else 512
    matrix = torch.randn(side, side, device=device).to(dtype_of(precision))
    best = float("inf")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(5):
            started = time.perf_counter()
            float((matrix @ matrix)[0, 0])  # reading one number waits for the device
            best = min(best, time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return float(2 * side**3 / best)
