"""Run a whole study: baselines, then fine-tune and evaluate each base model, source and seed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from entrypoints.caller import runnable_here
from entrypoints.command import CommandParser, add_flag, add_study_parameters, require_output, run_command

if TYPE_CHECKING:  # slow to import, and --help does not need it
    from registry.config.study import Study
    from registry.runner.on_ray.cluster import OnRay


def command_line() -> CommandParser:
    """Return the parser of the parameters."""
    parser = CommandParser("study", __doc__, "-P study=demo -P workers=2")
    add_study_parameters(parser)
    parser.add_argument(
        "--workers",
        default=0,
        type=int,
        help="processes; 0: one per GPU, or one per core without GPUs; on Ray the largest number, 0: as many as fit",
    )
    add_flag(parser, "--dry-run", help="true prints the plan and its cost, and leaves the store unchanged")
    parser.add_argument(
        "--output", default="", help="folder for the plan and the resolved study; empty: none is written"
    )
    parser.add_argument("--runner", default="local", help="local: processes on this machine; ray: a Ray cluster")
    parser.add_argument(
        "--ray-address",
        default="",
        help="address of the Ray cluster, host:port or auto; empty: RAY_ADDRESS, else Ray starts on this machine",
    )
    parser.add_argument(
        "--gpus-per-worker",
        default=1.0,
        type=float,
        help="on Ray: GPUs of each worker, below 1 for several workers on one; ignored on machines without GPUs",
    )
    return parser


def main(words: list[str] | None = None) -> None:
    """Parse, plan, run what is left, report the result; one study after another where the file holds several."""
    given = command_line().parse_args(words)
    run_command(lambda: _studies(given))


def _studies(given: argparse.Namespace) -> int:
    from registry.config.files import load_studies

    if given.output:
        require_output(Path(given.output))
    on_ray = _on_ray(given.runner, given.ray_address, given.gpus_per_worker)
    found = load_studies(given.study, data=given.data or None)
    code = 0
    for study in found:
        # The studies of a comparison have a folder each.
        output = str(Path(given.output) / study.name) if given.output and len(found) > 1 else given.output
        code = max(code, _study(study, given.workers, on_ray, dry_run=given.dry_run, output=output))
    return code


def _on_ray(runner: str, address: str, gpus_per_worker: float) -> OnRay | None:
    """Return how to run on Ray, None to run on this machine, as the parameters say."""
    from registry.errors import unknown

    if runner == "local":
        return None
    if runner != "ray":
        raise unknown("runner", runner, ("local", "ray"))
    from registry.runner.on_ray.cluster import OnRay, require_ray

    require_ray()
    return OnRay(address, gpus_per_worker)


def _study(study: Study, workers: int, on_ray: OnRay | None, *, dry_run: bool, output: str) -> int:
    from registry.runner.session import prospect, rehearse, run_study
    from registry.tracking.runs import annotate_launch, launching_run

    if dry_run:
        print(rehearse(study, workers=workers, output=output))
        if power := _detectable_effects(study):
            print(f"  detects       {power}")
        return 0
    launch = launching_run()
    ready = prospect(study, workers=workers, on_ray=on_ray)
    print(ready.summary())
    if output:
        print(f"  written to {ready.write(output)}")
    failures = run_study(ready)
    for failure in failures:
        print(f"failed: {failure.job}: {failure.reason}", file=sys.stderr)
    done = len(ready.plan.todo) - len(failures)
    print(f"study {study.name!r}: {done} jobs done, {len(failures)} failed")
    print(runnable_here(f"next: mlflow run . -e analyze --env-manager local -P study={study.name}"))
    annotate_launch(ready.client, launch, f"Study `{study.name}`: {done} jobs done, {len(failures)} failed.")
    return 1 if failures else 0


def _detectable_effects(study: Study) -> str:
    """Return which effects the planned study can detect; empty where the number of test items is not fixed."""
    from analysis.corrected.power import StudyDesign, foreseen
    from registry.benchmarks.kinds import load_benchmark

    grid = load_benchmark(study.benchmark).select(study.tasks, study.languages)
    items = [study.split.count("test", task) for task in grid.tasks]
    if not all(items):
        return ""
    sizes = {"seeds": len(study.seeds), "models": len(study.models), "tasks": len(grid.tasks)}
    return foreseen(StudyDesign(items=min(items), languages=len(grid.languages), **sizes))


if __name__ == "__main__":
    main()
