"""Score a registered adapter, or its untouched base model, on every target of a study."""

from __future__ import annotations

import argparse
from pathlib import Path

from entrypoints.caller import runnable_here
from entrypoints.command import (
    CommandParser,
    add_adapter_parameters,
    add_flag,
    add_study_parameters,
    require_output,
    run_command,
    where_to_look,
)


def command_line() -> CommandParser:
    """Return the parser of the parameters."""
    parser = CommandParser("evaluate", __doc__, "-P task=kind -P language=tr")
    add_adapter_parameters(parser)
    add_flag(parser, "--base", help="true scores the base model without an adapter")
    add_study_parameters(parser)
    parser.add_argument(
        "--output", default="", help="folder for scores.csv and outcomes.parquet; empty: none are written"
    )
    return parser


def main(words: list[str] | None = None) -> None:
    """Parse, evaluate, print the regimes."""
    given = command_line().parse_args(words)
    run_command(lambda: _evaluate(given))


def _evaluate(given: argparse.Namespace) -> int:
    from registry.config.files import load_study
    from registry.runner.single import evaluate_one, narrowed
    from registry.tracking.runs import annotate_launch, launching_run

    launch = launching_run()
    if given.output:
        require_output(Path(given.output))
    study = load_study(given.study, data=given.data or None)
    chosen = narrowed(study, model=given.model, task=given.task, language=given.language, seed=given.seed)
    result = evaluate_one(chosen, base=given.base)
    print(f"{'already evaluated' if result.reused else 'evaluated'}: {result.job}")
    print(result.table())
    print(f"  run {result.run.info.run_id} in experiment {study.name!r} of {result.store}")
    if given.output:
        print(f"  files: {result.download(given.output)}")
    print("next:")
    print(runnable_here(f"  the whole grid:  mlflow run . -e study --env-manager local -P study={given.study}"))
    print(f"  look at it:      {where_to_look(result.store, result.run.info.experiment_id)}")
    annotate_launch(result.client, launch, f"Evaluation run `{result.run.info.run_id}`.")
    return 0


if __name__ == "__main__":
    main()
