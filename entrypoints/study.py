"""Run a whole study: baselines, then one fine-tune and evaluation per base, source cell and seed."""

from __future__ import annotations

import sys

from entrypoints.command import add_study_arguments, boolean, parser, run_command


def main() -> None:
    """Parse, plan, run what is left, say what came of it."""
    arguments = parser(__doc__, "mlflow run . -e study --env-manager local -P study=demo -P workers=2")
    add_study_arguments(arguments, output="folder for the plan and the resolved study; empty writes none")
    arguments.add_argument("--workers", default=0, type=int, help="processes; 0 takes one per GPU, else one per core")
    arguments.add_argument(
        "--dry-run",
        "--dry_run",
        nargs="?",
        const=True,
        default=False,
        type=boolean,
        help="true prints the plan and does nothing",
    )
    given = arguments.parse_args()

    def study() -> int:
        from registry.runner.session import prospect, run_study
        from registry.studyfile import load_study
        from registry.tracking.launch import annotate_launch, launching_run

        launch = launching_run()
        ready = prospect(load_study(given.study, data=given.data or None), workers=given.workers, dry_run=given.dry_run)
        print(ready.summary(cost=given.dry_run))
        if given.output:
            print(f"  written to {ready.write(given.output)}")
        if given.dry_run:
            return 0
        failures = run_study(ready)
        for failure in failures:
            print(f"failed: {failure.job}: {failure.reason}", file=sys.stderr)
        name, done = ready.experiment.study.name, len(ready.plan.todo) - len(failures)
        print(f"study {name!r}: {done} jobs done, {len(failures)} failed")
        print(f"next: mlflow run . -e analyze --env-manager local -P study={name}")
        annotate_launch(ready.client, launch, f"Study `{name}`: {done} jobs done, {len(failures)} failed.")
        return 1 if failures else 0

    run_command(study)


if __name__ == "__main__":
    main()
