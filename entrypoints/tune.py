"""Search for a LoRA recipe with Optuna and write a study file with the best one.

Trials are scored on held-out training items.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from entrypoints.caller import runnable_here
from entrypoints.command import (
    CommandParser,
    add_adapter_parameters,
    add_study_parameters,
    require_output,
    run_command,
    where_to_look,
)


def command_line() -> CommandParser:
    """Return the parser of the parameters."""
    parser = CommandParser("tune", __doc__, "-P study=demo -P trials=20")
    add_adapter_parameters(parser)
    add_study_parameters(parser)
    parser.add_argument(
        "--output", default="", help="folder, or .yaml file, for the tuned study; empty: reports/<study>/tune"
    )
    _add_search_parameters(parser)
    return parser


def main(words: list[str] | None = None) -> None:
    """Parse, search, print the best recipe and how to run it."""
    given = command_line().parse_args(words)
    run_command(lambda: _tune(given))


def _tune(given: argparse.Namespace) -> int:
    from registry.config.files import load_study, spec_of

    study = load_study(given.study, data=given.data or None)
    chosen = {name: getattr(given, name) for name in ("trials", "timeout", "objective", "harm_weight")}
    spec = spec_of(study, **chosen)

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
    print(runnable_here(f"  the tuned study:  {found.command}"))
    experiment = experiment_id(client, study.name)
    print(f"  look at it:       {where_to_look(shown_uri(client.tracking_uri), experiment)}")
    annotate_launch(client, launch, f"Search run `{found.run_id}`, best trial {found.number}: {found.value:.6g}.")
    return 0


def _add_search_parameters(parser: CommandParser) -> None:
    parser.add_argument(
        "--trials", default="", type=_optional(int), help="number of trials, earlier ones included; empty: the study's"
    )
    parser.add_argument(
        "--timeout", default="", type=_optional(float), help="seconds after which no trial starts; empty: the study's"
    )
    parser.add_argument(
        "--objective", default="", type=_optional(str), help="validation_loss or transfer; empty: the study's"
    )
    parser.add_argument(
        "--harm-weight",
        default="",
        type=_optional(float),
        help="weight of harm on other tasks in the objective transfer; empty: the study's",
    )
    parser.add_argument(
        "--storage", default="", help="Optuna's storage, a file or address; empty: tune.db beside the store"
    )


def _optional(kind: Callable[[str], object]) -> Callable[[str], object]:
    """Return a reader of values that reads an empty text as None."""

    def read(text: str) -> object:
        try:
            return kind(text) if text else None
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None

    return read


if __name__ == "__main__":
    main()
