"""``make bench-published``: a table of the published study's size, imported and analysed by the entry points.

The table is made up: 9 models × 44 sources × 44 targets, three seeds averaged; sources and targets have effects of
their own, as in real studies, or none (`--plain`), where mixed models find variances of zero and take longest. Every
command runs on one core, from start to end, with a store that is there. CPU seconds, and seconds by the clock.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from registry.paths import PROJECT
from registry.runner.worker import ONE_THREAD
from registry.tracking.store import open_store
from tests.imports.published_table import published_table

_STUDY = ["--study", "published"]
#: Commands by what they do, in the order in which they run.
_COMMANDS = {
    "import": ["entrypoints.import_results", "--source", "cells.csv", *_STUDY],
    "analyze, published alone": [
        "entrypoints.analyze", *_STUDY, "--mixed-models", "false", "--corrected", "false", "--output", "a",
    ],
    "analyze, both layers": ["entrypoints.analyze", *_STUDY, "--mixed-models", "false", "--output", "b"],
    "analyze, mixed models too": ["entrypoints.analyze", *_STUDY, "--output", "c"],
}  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="tests.bench.published", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="times each command runs (default 3)")
    parser.add_argument("--plain", action="store_true", help="no effects of sources and targets")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-published-") as name:
        folder = Path(name)
        table = published_table(effects=not options.plain)
        table.to_csv(folder / "cells.csv", index=False)
        print(f"{len(table):,} cells; CPU seconds (by the clock), medians of {options.rounds} rounds")
        open_store(f"sqlite:///{folder / 'mlflow.db'}")
        for what, command in _COMMANDS.items():
            took = [_took(command, folder) for _ in range(options.rounds)]
            cpu, wall = (median(one[place] for one in took) for place in (0, 1))
            each = ", ".join(f"{one[0]:.1f}" for one in took)
            print(f"  {what:<28}{cpu:6.1f} ({wall:.1f})   {each}", flush=True)


def _took(command: list[str], folder: Path) -> tuple[float, float]:
    """Run an entry point on one core; return CPU seconds and seconds."""
    environment = os.environ | ONE_THREAD | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "PYTHONPATH": str(PROJECT),
    }  # fmt: skip
    before, began = _children(), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
    )
    return _children() - before, time.perf_counter() - began


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
