"""Fine-tune a base model on one source cell and register the adapter.

With ``method: full`` in the recipe, the whole model is trained and recorded.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from entrypoints.caller import runnable_here
from entrypoints.command import (
    CommandParser,
    add_adapter_parameters,
    add_study_parameters,
    in_python,
    require_output,
    run_command,
    where_to_look,
)


def command_line() -> CommandParser:
    """Return the parser of the parameters."""
    parser = CommandParser("finetune", __doc__, "-P task=kind -P language=tr")
    add_adapter_parameters(parser)
    add_study_parameters(parser)
    parser.add_argument(
        "--output", default="", help="folder that the PEFT folder, or the whole model, is copied to; empty: no copy"
    )
    return parser


def main(words: list[str] | None = None) -> None:
    """Parse, fine-tune, print where the adapter is."""
    given = command_line().parse_args(words)
    run_command(lambda: _finetune(given))


def _finetune(given: argparse.Namespace) -> int:
    from registry.config.files import load_study
    from registry.runner.single import finetune_one, narrowed
    from registry.tracking.metric_names import FINAL_LOSS
    from registry.tracking.runs import annotate_launch, launching_run

    launch = launching_run()
    if given.output:
        require_output(Path(given.output))
    study = load_study(given.study, data=given.data or None)
    chosen = narrowed(study, model=given.model, task=given.task, language=given.language, seed=given.seed)
    adapter = finetune_one(chosen)
    named = f"-P study={given.study} {adapter.parameters}"
    done = "recorded" if adapter.full else "registered"
    print(f"{'already ' if adapter.reused else ''}{done}: {adapter.uri}")
    print(
        f"  base model {adapter.job.model}, source {adapter.job.source}, seed {adapter.job.seed}, "
        f"training loss {adapter.run.data.metrics[FINAL_LOSS]:.3f}"
    )
    print(f"  run {adapter.run.info.run_id} in experiment {study.name!r} of {adapter.store}")
    if given.output:
        print(f"  {'model' if adapter.full else 'PEFT'} folder: {adapter.download(given.output)}")
    print("next:")
    print(runnable_here(f"  score it on every target:  mlflow run . -e evaluate --env-manager local {named}"))
    print(f"  use it in Python:          {in_python(adapter.store, adapter.uri)}")
    print(f"  look at it:                {where_to_look(adapter.store, adapter.run.info.experiment_id)}")
    made = "Model" if adapter.full else "Adapter"
    annotate_launch(adapter.client, launch, f"{made} `{adapter.uri}`, run `{adapter.run.info.run_id}`.")
    return 0


if __name__ == "__main__":
    main()
