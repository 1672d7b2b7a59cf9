"""Search for a LoRA recipe with Optuna, judged on training items held out, and write the study with the best one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from entrypoints.command import (
    add_adapter_arguments,
    add_study_arguments,
    parser,
    require_output,
    run_command,
    where_to_look,
)


def main() -> None:
    """Parse, search, say what is best and how to run it."""
    arguments = parser(__doc__, "mlflow run . -e tune --env-manager local -P study=demo -P trials=20")
    add_adapter_arguments(arguments)
    add_study_arguments(
        arguments, output="folder, or .yaml file, for the tuned study; empty takes reports/<study>/tune"
    )
    _add_search_arguments(arguments)
    given = arguments.parse_args()

    def tune() -> int:
        from registry.config.files import load_study, spec_of

        study = load_study(given.study, data=given.data or None)
        chosen = {name: getattr(given, name) for name in ("trials", "timeout", "objective", "harm_weight")}
        spec = spec_of(study, **chosen)

        from entrypoints.caller import pasted
        from registry.tracking.runs import annotate_launch, launching_run
        from registry.tracking.store import experiment_id, open_store, shown_uri, tracking_uri
        from registry.tuning.preparation import prepare_search
        from registry.tuning.search import run_search
        from registry.tuning.storage import open_storage, open_trials, storage_url

        launch = launching_run()
        output = Path(given.output or Path("reports") / study.name / "tune")
        require_output(output.parent if output.suffix in (".yaml", ".yml") else output)
        search = prepare_search(
            study,
            spec,
            model=given.model,
            task=given.task,
            language=given.language,
            seed=given.seed,
        )
        url = storage_url(tracking_uri(), given.storage)
        storage, client = open_storage(url), open_store()
        found = run_search(
            open_trials(search, storage, client, experiment_id(client, study.name, writing=True)), given.output
        )
        print(f"best: trial {found.number}, {search.spec.objective} {found.value:.6g}")
        for name in ("learning_rate", "epochs", "batch_size"):
            print(f"  {name:<14} {getattr(found.study.recipe, name):g}")
        for name in ("rank", "alpha", "dropout"):
            print(f"  {name:<14} {getattr(found.study.recipe.lora, name):g}")
        print(f"  targets        {', '.join(found.study.recipe.lora.targets)}")
        print(f"  files: {found.folder}; trials: {shown_uri(url)}")
        if found.run_id:
            print(f"  run {found.run_id} in experiment {study.name!r} of {shown_uri(client.tracking_uri)}")
        print("next:")
        print(pasted(f"  the tuned study:  {found.command}"))
        experiment = experiment_id(client, study.name)
        print(f"  look at it:       {where_to_look(shown_uri(client.tracking_uri), experiment)}")
        annotate_launch(client, launch, f"Search run `{found.run_id}`, best trial {found.number}: {found.value:.6g}.")
        return 0

    run_command(tune)


def _add_search_arguments(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument(
        "--trials", default="", type=_given(int), help="trials in all, earlier ones included; empty takes the study's"
    )
    arguments.add_argument(
        "--timeout", default="", type=_given(float), help="seconds after which none is begun; empty takes the study's"
    )
    arguments.add_argument(
        "--objective", default="", type=_given(str), help="validation_loss or transfer; empty takes the study's"
    )
    arguments.add_argument(
        "--harm-weight",
        default="",
        type=_given(float),
        help="how much harm off the task weighs in transfer; empty takes the study's",
    )
    arguments.add_argument(
        "--storage", default="", help="Optuna's storage, a file or address; empty takes tune.db beside the store"
    )


def _given(kind: Callable[[str], object]) -> Callable[[str], object]:
    """Read a value, or None where nothing was given."""

    def read(text: str) -> object:
        try:
            return kind(text) if text else None
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None

    return read


if __name__ == "__main__":
    main()
