"""What a benchmark's processes agree on: one file in its folder."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Settings", "add_common_options", "common_options"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Model, workload and device of one benchmark.

    Attributes
    ----------
    shape
        A name of :data:`tests.bench.shape.SHAPES`.
    dtype
        ``float32`` or ``bfloat16``. Parity is checked in float32 only: rounding in bf16 depends on a batch's layout.
    questions, examples, epochs
        How much is scored, and how much is trained on how often.
    text_tokens
        Mean length of a training text.
    tokens_per_batch
        Of our scorer; a study's own default.
    harness_batch
        Batch size of the ``lm_eval`` command.
    """

    shape: str
    device: str
    dtype: str
    questions: int = 0
    examples: int = 0
    epochs: int = 1
    text_tokens: int = 80
    tokens_per_batch: int = 2048
    harness_batch: int = 1
    seed: int = 17

    @property
    def exact(self) -> bool:
        """Whether both sides must agree to the last digits that float32 leaves."""
        return self.dtype == "float32"

    @property
    def unit(self) -> str:
        """What is measured on this device."""
        return "CPU seconds" if self.device == "cpu" else "wall seconds"

    def write(self, folder: Path) -> None:
        """Leave the settings for the child processes."""
        (folder / "settings.json").write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Settings:
        """Read what :meth:`write` left."""
        return cls(**json.loads((folder / "settings.json").read_text(encoding="utf-8")))


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that both benchmarks have."""
    parser.add_argument("--rounds", type=int, default=3, help="times each side runs, in turn (default 3)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", choices=("bench", "0.5b", "8b"), default="bench", help="size of the random model")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="float32 on a CPU, bfloat16 on a GPU")


def common_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that both benchmarks have."""
    dtype = options.dtype or ("float32" if options.device == "cpu" else "bfloat16")
    return {"shape": options.shape, "device": options.device, "dtype": dtype}
