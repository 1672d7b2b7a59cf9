"""Fine-tune one LoRA adapter on one source cell and register it as a model version."""

from __future__ import annotations

from entrypoints.command import add_adapter_arguments, add_study_arguments, parser, run_command, where_to_look


def main() -> None:
    """Parse, fine-tune, say where the adapter is."""
    arguments = parser(__doc__, "mlflow run . -e finetune --env-manager local -P task=kind -P language=tr")
    add_adapter_arguments(arguments)
    add_study_arguments(arguments, output="folder to copy the adapter's PEFT folder into; empty copies nothing")
    given = arguments.parse_args()

    def finetune() -> int:
        from registry.runner.single import finetune_one, narrowed
        from registry.studyfile import load_study
        from registry.tracking.launch import annotate_launch, launching_run

        launch = launching_run()
        study = load_study(given.study, data=given.data or None)
        chosen = narrowed(study, model=given.model, task=given.task, language=given.language, seed=given.seed)
        adapter = finetune_one(chosen)
        named = f"-P study={given.study} {adapter.parameters}"
        print(f"{'already registered' if adapter.reused else 'registered'}: {adapter.uri}")
        print(
            f"  base {adapter.job.model}, source {adapter.job.source}, seed {adapter.job.seed}, "
            f"training loss {adapter.run.data.metrics['train/final_loss']:.3f}"
        )
        print(f"  run {adapter.run.info.run_id} in experiment {study.name!r} of {adapter.store}")
        if given.output:
            print(f"  PEFT folder: {adapter.download(given.output)}")
        print("next:")
        print(f"  score it on every target:  mlflow run . -e evaluate --env-manager local {named}")
        print(f"  use it in Python:          mlflow.pyfunc.load_model({adapter.uri!r})")
        print(f"  look at it:                {where_to_look(adapter.store, adapter.run.info.experiment_id)}")
        annotate_launch(adapter.client, launch, f"Adapter `{adapter.uri}`, run `{adapter.run.info.run_id}`.")
        return 0

    run_command(finetune)


if __name__ == "__main__":
    main()
