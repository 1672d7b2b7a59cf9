"""``make bench-analysis``: what the corrected analyses of a full grid cost, and the decomposition against statsmodels.

The frame has 9 models × 44 sources × 44 targets, 400 questions and 3 seeds, all synthetic. All corrected analyses run
in a process of their own, with the outcomes of single questions and without. Then the seven variance components with
their intervals are fitted in turn with the published three components (statsmodels' MixedLM), both from the same table
of cells. CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import pandas as pd
import statsmodels.formula.api as smf

import analysis.corrected
from analysis.corrected.variance.model import OVERALL, scope_components
from analysis.measures.answers import StudyOutcomes
from tests.analysis.corrected.simulation import simulate
from tests.analysis.synthetic import synthetic_frame
from tests.bench.measure import Memory

MODELS, TASKS, LANGUAGES, QUESTIONS, SEEDS = 9, 4, 11, 400, 3

_MIB = 2**20
#: Ways to run all corrected analyses, with their aims: seconds and MiB.
_WAYS = {"with outcomes": (30, 2048), "without outcomes": (5, 2048)}
_KEY = ["model", "source_task", "source_language", "target_task", "target_language", "regime"]


def main() -> None:
    """Run the benchmark, or, in a process of its own, one way through all corrected analyses."""
    parser = argparse.ArgumentParser(prog="tests.bench.analysis", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="times each decomposition runs, in turn (default 3)")
    parser.add_argument("--way", choices=tuple(_WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(_correct_all(options.way)))
        return
    _report_all()
    _report_decompositions(options.rounds)


# --- all corrected analyses


def _report_all() -> None:
    for way, (seconds, memory) in _WAYS.items():
        print(f"all corrected analyses, {way}: running", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "tests.bench.analysis", "--way", way]
        child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(child.stdout.splitlines()[-1])
        print(
            f"all corrected analyses, {way}: {found['seconds']:.1f} s (aim {seconds}), "
            f"{found['memory'] / _MIB:.0f} MiB over the loaded study (aim {memory})"
        )


def _correct_all(way: str) -> dict[str, float]:
    """Run all corrected analyses once and return CPU seconds and peak memory over the inputs, in bytes."""
    cells, outcomes = _study()
    given = outcomes if way == "with outcomes" else None
    memory, start = Memory("cpu"), time.process_time()
    analysis.corrected.correct(cells, outcomes=given)
    return {"seconds": time.process_time() - start, "memory": memory.peak()}


def _study() -> tuple[pd.DataFrame, StudyOutcomes]:
    """Simulate every question's outcome, and average them to cells."""
    drawn = simulate(1, models=MODELS, tasks=TASKS, languages=LANGUAGES, questions=QUESTIONS, seeds=SEEDS)
    rows = []
    for block in drawn.outcomes:
        (baseline,) = block.baselines.values()
        for source, changes in block.changes().items():
            names = (block.model, source.task, source.language, block.target.task, block.target.language)
            rows.append((*names, float(baseline.mean()), 100 * float(changes.mean())))
    measured = pd.DataFrame(rows, columns=[*_KEY[:-1], "baseline", "delta"])
    cells = drawn.cells[_KEY].merge(measured, on=_KEY[:-1], validate="one_to_one")
    about = {"model_family": "Simulated", "model_size_b": 1.0, "n_seeds": SEEDS}
    return cells.assign(score=cells["baseline"] + cells["delta"] / 100, **about), drawn.outcomes


# --- the decomposition against statsmodels


def _report_decompositions(rounds: int) -> None:
    cells = synthetic_frame(MODELS, TASKS, LANGUAGES, items=QUESTIONS, n_seeds=SEEDS)
    gappy = synthetic_frame(MODELS, TASKS, LANGUAGES, items=QUESTIONS, n_seeds=SEEDS, missing=0.1)
    sides: dict[str, Callable[[], object]] = {
        "published, three components, statsmodels": lambda: _published(cells),
        "corrected, seven components and intervals": lambda: scope_components(OVERALL, cells),
        "corrected, 10 % of the cells missing": lambda: scope_components(OVERALL, gappy),
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(1, rounds + 1):
        for name, fit in sides.items():
            found[name].append(_seconds(fit))
            print(f"round {number} of {rounds}, {name}: {found[name][-1]:.3f} s", file=sys.stderr, flush=True)
    print(f"\nCPU seconds of one decomposition of {len(cells):,} cells, medians of {rounds} rounds")
    for name, seconds in found.items():
        print(f"  {name:<44}{median(seconds):8.3f}   ({', '.join(f'{one:.3f}' for one in seconds)})")
    published, corrected, _ = (median(seconds) for seconds in found.values())
    print(f"analysis: {published / corrected:.0f}x")


def _published(cells: pd.DataFrame) -> object:
    """Fit what the paper fits: source and target as variance components within groups that are the models."""
    data = pd.DataFrame({"delta": cells["delta"].to_numpy(), "model": cells["model"].to_numpy(dtype=object)})
    for end in ("source", "target"):
        data[end] = (cells[f"{end}_task"] + "/" + cells[f"{end}_language"]).to_numpy(dtype=object)
    parts = {"source": "0 + C(source)", "target": "0 + C(target)"}
    return smf.mixedlm("delta ~ 1", data, groups="model", vc_formula=parts).fit(reml=True)


def _seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


if __name__ == "__main__":
    main()
