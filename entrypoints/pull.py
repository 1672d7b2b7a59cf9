"""Pull a registered adapter into a folder that PEFT and vLLM load, or merged into its base; or push it to the hub."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from entrypoints.command import STUDY, boolean, parser, require_output, run_command, seed_number
from registry.cards.base_model import Dtype


def main() -> None:
    """Parse, find the version, pull it, say how it is used."""
    arguments = parser(__doc__, "mlflow run . -e pull --env-manager local -P name=demo-wide--kind--tr -P version=1")
    _add_which(arguments)
    _add_where(arguments)
    given = arguments.parse_args()

    def pull_adapter() -> int:
        from registry.config.names import recorded_name
        from registry.deploy.pull import default_folder, pull, usage
        from registry.deploy.push import check_repository, push
        from registry.deploy.resolve import VersionQuery, choose
        from registry.tracking.names import Tag
        from registry.tracking.runs import annotate_launch, launching_run
        from registry.tracking.store import open_store

        launch = launching_run()
        if given.push:
            check_repository(given.push)
        client = open_store()
        which = ("name", "version", "model", "task", "language", "seed", "best_for")
        study = recorded_name(given.study)
        chosen = choose(client, VersionQuery(study=study, **{part: getattr(given, part) for part in which}))
        merged = given.dtype if given.merged else None
        target = Path(given.output) if given.output else default_folder(chosen, merged)
        require_output(target)
        pulled = pull(client, chosen, target, merged=merged, base=given.base, overwrite=given.overwrite, say=_say)
        for note in chosen.notes:
            print(f"  {note}")
        print(f"{'already there' if pulled.kept else 'pulled'}: {chosen.adapter.uri}")
        print(f"  folder {pulled.folder}{', its card brought up to date' if pulled.refreshed else ''}")
        tags = chosen.tags
        print(f"  base {pulled.facts.base}, source {pulled.facts.source}, seed {tags.get(Tag.SEED)}")
        print(f"  SHA-256 of the adapter {tags.get(Tag.DIGEST)}, as recorded")
        if given.push:
            print(f"  pushed: {push(pulled.folder, given.push, private=given.private)}")
        if pulled.base_missing:
            print(f"  {pulled.base_missing}")
        print("use it:")
        print("\n".join(usage(pulled)))
        annotate_launch(client, launch, f"Pulled `{chosen.adapter.uri}`.")
        return 0

    run_command(pull_adapter)


def _add_which(arguments: argparse.ArgumentParser) -> None:
    """Add what says which adapter."""
    arguments.add_argument(
        "--name", default="", help="registered name, or an address models:/<name>/<version> or models:/<name>@<alias>"
    )
    arguments.add_argument("--version", default="", help="version's number or alias; empty takes the newest that fits")
    arguments.add_argument("--model", default="", help="in place of name: base of the adapter")
    arguments.add_argument("--task", default="", help="in place of name: source task")
    arguments.add_argument("--language", default="", help="in place of name: source language")
    arguments.add_argument("--seed", default="", type=seed_number, help="seed; empty takes the newest that fits")
    arguments.add_argument("--study", default="", help=f"only versions and evaluations of this study: {STUDY}")
    arguments.add_argument(
        "--best-for", default="", help="in place of name: target task/language that the adapter helps most"
    )


def _add_where(arguments: argparse.ArgumentParser) -> None:
    """Add what is made of it and where."""
    arguments.add_argument(
        "--output", default="", help="the adapter's folder itself; empty takes adapters/<name>/<version>"
    )
    arguments.add_argument(
        "--overwrite", nargs="?", const=True, default=False, type=boolean, help="replace another pulled folder there"
    )
    arguments.add_argument(
        "--merged", nargs="?", const=True, default=False, type=boolean, help="write base + adapter as one whole model"
    )
    arguments.add_argument(
        "--dtype", default="float32", choices=get_args(Dtype), help="data type of a merged model's weights"
    )
    arguments.add_argument(
        "--base", default="", help="folder of the base; empty takes where it was when the adapter was trained"
    )
    arguments.add_argument("--push", default="", help="hub repository owner/name to upload the folder to")
    arguments.add_argument(
        "--private", nargs="?", const=True, default=True, type=boolean, help="make a new hub repository private"
    )


def _say(step: str) -> None:
    print(f"{step} ...", flush=True)


if __name__ == "__main__":
    main()
