"""``make bench-spine``: how much of the project a reader meets on the way through `finetune` and `analyze`.

Each entry point runs once under `sys.setprofile`, which lists the project's files in which a function body is entered
(code at the level of a module or of a class body, which an import runs, does not count). `finetune` trains one adapter
of the built-in study; `analyze` analyses a small imported table, whose noise is assumed, and a small study recorded
with the outcomes of its questions. Then `finetune` runs without a profile: CPU seconds of the process, user and system,
on one core, with a store whose tables are there. The lengths are those of the files under registry/, analysis/ and
entrypoints/.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import runpy
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from inspect import CO_OPTIMIZED
from pathlib import Path
from statistics import median
from types import FrameType

from registry.cells import Cell
from registry.paths import PROJECT
from registry.runner.worker import ONE_THREAD
from registry.tracking.store import open_store
from tests.analysis.conftest import MODELS, Recorder
from tests.analysis.test_stored_outcomes import log, options, scores, told
from tests.imports.published_table import published_table

_PARTS = ("registry", "analysis", "entrypoints")
_FINETUNE = ["entrypoints.finetune", "--task", "kind", "--language", "tr"]
_IMPORT = ["entrypoints.import_results", "--source", "cells.csv", "--study", "published"]
_ANALYZE = ["entrypoints.analyze", "--output", "report", "--study"]


def main() -> None:
    """Run the benchmark, or with ``--profile`` one entry point under a profile."""
    if sys.argv[1:2] == ["--profile"]:
        _profile(Path(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(prog="tests.bench.spine", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="times finetune is timed (default 5)")
    parser.add_argument("--files", action="store_true", help="list the files entered")
    options = parser.parse_args()
    _lengths()
    with tempfile.TemporaryDirectory(prefix="bench-spine-") as name:
        folder = Path(name)
        published_table(("Qwen2.5-0.5B-Instruct", "gemma-3-4b-it"), languages=("de", "en", "hi")).to_csv(
            folder / "cells.csv", index=False
        )
        _run(folder, ["-m", *_IMPORT])
        _record(folder)
        shutil.copyfile(folder / "mlflow.db", folder / "before.db")
        _report("finetune", [_entered(folder, _FINETUNE)], options.files)
        imported, recorded = (_entered(folder, [*_ANALYZE, study]) for study in ("published", "recorded"))
        _report("analyze", [imported, recorded], options.files)
        seconds = []
        for _ in range(options.rounds):
            shutil.copyfile(folder / "before.db", folder / "mlflow.db")
            shutil.rmtree(folder / "cache", ignore_errors=True)
            seconds.append(_run(folder, ["-m", *_FINETUNE]))
        each = ", ".join(f"{one:.2f}" for one in seconds)
        print(f"finetune: {median(seconds):.2f} CPU seconds, median of {options.rounds} ({each})")


def _lengths() -> None:
    """Print the median and the largest length of the project's files."""
    files = [path for part in _PARTS for path in (PROJECT / part).rglob("*.py")]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    longest = max(lengths, key=lambda path: lengths[path])
    print(
        f"{len(files)} files, {sum(lengths.values()):,} lines; median {median(lengths.values()):.0f}, longest "
        f"{lengths[longest]} ({longest.relative_to(PROJECT)})"
    )


def _record(folder: Path) -> None:
    """Record a study of two base models, four source cells and two seeds, with the outcomes of its questions."""
    recorder = Recorder(open_store(f"sqlite:///{folder / 'mlflow.db'}"), "recorded")
    cells = [Cell(task, language) for task in ("arc", "mmlu") for language in ("de", "hi")]
    for place, model in enumerate(MODELS):
        base = options(place, 40, cells)
        base_run = recorder.baseline(model, scores(base), **told())
        log(recorder, base_run, base, folder)
        for number, (source, seed) in enumerate((source, seed) for source in cells for seed in (17, 42)):
            mine = options(10 + 20 * place + number, 40, cells)
            run = recorder.evaluation(model, source, seed, scores(mine), scores(base), base_run, **told())
            log(recorder, run, mine, folder)


def _report(name: str, entered: Sequence[set[str]], listed: bool) -> None:
    """Print how many files were entered: the most of several runs counts."""
    counts = " and ".join(str(len(files)) for files in entered)
    print(f"{name}: functions of {counts} files entered", flush=True)
    if listed:
        for file in sorted(set().union(*entered)):
            print(f"  {file}")


def _entered(folder: Path, command: Sequence[str]) -> set[str]:
    """Return the project's files in which an entry point enters a function body."""
    found = folder / "entered.json"
    _run(folder, ["-m", "tests.bench.spine", "--profile", str(found), *command])
    return set(json.loads(found.read_text(encoding="utf-8")))


def _profile(path: Path, command: Sequence[str]) -> None:
    """Run an entry point in this process and write which files it entered."""
    seen: set[str] = set()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_flags & CO_OPTIMIZED and frame.f_code.co_filename.endswith(".py"):
            seen.add(frame.f_code.co_filename)

    sys.argv = list(command)
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    finally:
        sys.setprofile(None)
        inside = [Path(file) for file in seen if Path(file).is_relative_to(PROJECT)]
        relative = sorted(file.relative_to(PROJECT).as_posix() for file in inside)
        path.write_text(json.dumps([file for file in relative if file.startswith(_PARTS)]), encoding="utf-8")


def _run(folder: Path, command: Sequence[str]) -> float:
    """Run Python on one core in a folder; return its CPU seconds."""
    environment = os.environ | ONE_THREAD | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(PROJECT),
    }  # fmt: skip
    before = _children()
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
    return _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
