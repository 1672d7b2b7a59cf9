"""Running the two sides as child processes, one at a time, and what each cost."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

__all__ = ["Children"]

#: One thread, and nothing that asks a hub or leaves files outside the benchmark's folder.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class Children:
    """Starts processes that work in one folder.

    Attributes
    ----------
    folder
        Where model, texts and results lie.
    device
        ``cpu``: a process costs its CPU seconds, user and system. Otherwise: its wall seconds.
    """

    folder: Path
    device: str

    def run(self, command: Sequence[str], label: str) -> float:
        """Run a command to its end and return its cost, start-up included. Tells on stderr how long it has run.

        Raises
        ------
        SystemExit
            If it fails; with the end of what it said.
        """
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
            before, started = _children_seconds(), time.perf_counter()
            environment = {**os.environ, **_ENVIRONMENT, "HF_HOME": str(self.folder / "cache")}
            child = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment)
            with _ended(child):
                _watch(child, label, started)
            wall = time.perf_counter() - started
            if child.returncode:
                raise SystemExit(f"{label} failed: {' '.join(command)}\n{_tail(said)}")
        return _children_seconds() - before if self.device == "cpu" else wall

    def work(self, task: str, label: str, *arguments: str) -> dict[str, Any]:
        """Run a function of :mod:`tests.bench.worker` and return what it found; ``process`` is the process's cost."""
        result = self.folder / "result.json"
        command = [sys.executable, "-m", "tests.bench.worker", task, str(self.folder), *arguments]
        cost = self.run(command, label)
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        result.unlink()
        return {**found, "process": cost}


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def _ended(child: subprocess.Popen[bytes]) -> Any:
    """End the child if the program is interrupted."""
    try:
        yield
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def _watch(child: subprocess.Popen[bytes], label: str, started: float) -> None:
    """Wait for a child; a terminal shows the seconds as they pass, a file one line at the end."""
    live = sys.stderr.isatty()
    while child.poll() is None:
        try:
            child.wait(timeout=1)
        except subprocess.TimeoutExpired:
            if live:
                print(f"\r{label}: {time.perf_counter() - started:.0f} s ", end="", file=sys.stderr, flush=True)
    opening = "\r" if live else ""
    print(f"{opening}{label}: {time.perf_counter() - started:.1f} s wall", file=sys.stderr, flush=True)


def _tail(said: IO[str]) -> str:
    said.seek(0)
    return said.read()[-3000:]
