"""Fine-tune on one source cell: a LoRA adapter, registered as a model version, or with method full a whole model."""

from __future__ import annotations

from pathlib import Path

from entrypoints.command import (
    add_adapter_arguments,
    add_study_arguments,
    in_python,
    parser,
    require_output,
    run_command,
    where_to_look,
)


def main() -> None:
    """Parse, fine-tune, say where the adapter is."""
    arguments = parser(__doc__, "mlflow run . -e finetune --env-manager local -P task=kind -P language=tr")
    add_adapter_arguments(arguments)
    add_study_arguments(
        arguments, output="folder to copy the PEFT folder, or the whole model, into; empty copies nothing"
    )
    given = arguments.parse_args()

    def finetune() -> int:
        from entrypoints.caller import pasted
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
            f"  base {adapter.job.model}, source {adapter.job.source}, seed {adapter.job.seed}, "
            f"training loss {adapter.run.data.metrics[FINAL_LOSS]:.3f}"
        )
        print(f"  run {adapter.run.info.run_id} in experiment {study.name!r} of {adapter.store}")
        if given.output:
            print(f"  {'model' if adapter.full else 'PEFT'} folder: {adapter.download(given.output)}")
        print("next:")
        print(pasted(f"  score it on every target:  mlflow run . -e evaluate --env-manager local {named}"))
        print(f"  use it in Python:          {in_python(adapter.store, adapter.uri)}")
        print(f"  look at it:                {where_to_look(adapter.store, adapter.run.info.experiment_id)}")
        made = "Model" if adapter.full else "Adapter"
        annotate_launch(adapter.client, launch, f"{made} `{adapter.uri}`, run `{adapter.run.info.run_id}`.")
        return 0

    run_command(finetune)


if __name__ == "__main__":
    main()
