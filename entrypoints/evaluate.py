"""Score a registered adapter, or its untouched base, on every target cell of a study."""

from __future__ import annotations

from pathlib import Path

from entrypoints.command import (
    add_adapter_arguments,
    add_study_arguments,
    boolean,
    parser,
    require_output,
    run_command,
    where_to_look,
)


def main() -> None:
    """Parse, evaluate, show the regimes."""
    arguments = parser(__doc__, "mlflow run . -e evaluate --env-manager local -P task=kind -P language=tr")
    add_adapter_arguments(arguments)
    arguments.add_argument(
        "--base", nargs="?", const=True, default=False, type=boolean, help="true scores the base without an adapter"
    )
    add_study_arguments(arguments, output="folder for scores.csv and outcomes.parquet; empty writes none")
    given = arguments.parse_args()

    def evaluate() -> int:
        from entrypoints.caller import pasted
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
        print(pasted(f"  the whole grid:  mlflow run . -e study --env-manager local -P study={given.study}"))
        print(f"  look at it:      {where_to_look(result.store, result.run.info.experiment_id)}")
        annotate_launch(result.client, launch, f"Evaluation run `{result.run.info.run_id}`.")
        return 0

    run_command(evaluate)


if __name__ == "__main__":
    main()
