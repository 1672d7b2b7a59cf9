"""Download a registered adapter for PEFT and vLLM, or merged into its base model; upload it to the hub."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from entrypoints.caller import runnable_here
from entrypoints.command import STUDY, CommandParser, add_flag, require_output, run_command, seed_number


def command_line() -> CommandParser:
    """Return the parser of the parameters."""
    parser = CommandParser("pull", __doc__, "-P name=demo-wide--kind--tr -P version=1")
    _add_selection(parser)
    _add_destination(parser)
    return parser


def main(words: list[str] | None = None) -> None:
    """Parse, find the version, pull it, print how to use it."""
    given = command_line().parse_args(words)
    run_command(lambda: _pull(given))


def _pull(given: argparse.Namespace) -> int:
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
    pulled = pull(client, chosen, target, merged=merged, base=given.base, overwrite=given.overwrite, say=_print_step)
    for note in chosen.notes:
        print(f"  {note}")
    print(f"{'already there' if pulled.kept else 'pulled'}: {chosen.adapter.uri}")
    print(f"  folder {pulled.folder}{', its card updated' if pulled.refreshed else ''}")
    tags = chosen.tags
    print(f"  base model {pulled.facts.base}, source {pulled.facts.source}, seed {tags.get(Tag.SEED)}")
    print(f"  SHA-256 of the adapter {tags.get(Tag.DIGEST)}, as recorded")
    if given.push:
        print(f"  pushed: {push(pulled.folder, given.push, private=given.private)}")
    if pulled.base_missing:
        print(runnable_here(f"  {pulled.base_missing}"))
    print("use it:")
    print(runnable_here("\n".join(usage(pulled))))
    annotate_launch(client, launch, f"Pulled `{chosen.adapter.uri}`.")
    return 0


def _add_selection(parser: CommandParser) -> None:
    """Add what selects the adapter."""
    parser.add_argument(
        "--name", default="", help="registered name, or an address models:/<name>/<version> or models:/<name>@<alias>"
    )
    parser.add_argument("--version", default="", help="version number or alias; empty: the newest that fits")
    parser.add_argument("--model", default="", help="instead of name: base model of the adapter")
    parser.add_argument("--task", default="", help="instead of name: source task")
    parser.add_argument("--language", default="", help="instead of name: source language")
    parser.add_argument("--seed", default="", type=seed_number, help="seed; empty: of the newest version that fits")
    parser.add_argument("--study", default="", help=f"only versions and evaluations of this study: {STUDY}")
    parser.add_argument("--best-for", default="", help="instead of name: target task/language that gained most")


def _add_destination(parser: CommandParser) -> None:
    """Add what is written and where."""
    parser.add_argument("--output", default="", help="the adapter's folder itself; empty: adapters/<name>/<version>")
    add_flag(parser, "--overwrite", help="replace a folder that was pulled there before")
    add_flag(parser, "--merged", help="merge the adapter into its base model and write one whole model")
    parser.add_argument(
        "--dtype", default="float32", type=_dtype, help="data type of a merged model: float32, bfloat16 or float16"
    )
    parser.add_argument(
        "--base", default="", help="folder of the base model; empty: where it was when the adapter was trained"
    )
    parser.add_argument("--push", default="", help="hub repository owner/name to upload the folder to")
    add_flag(parser, "--private", default=True, help="make a new hub repository private")


def _dtype(text: str) -> str:
    from registry.cards.base_model import Dtype  # slow to import, and --help does not need it
    from registry.errors import unknown

    if text not in get_args(Dtype):
        raise argparse.ArgumentTypeError(str(unknown("data type", text, get_args(Dtype))))
    return text


def _print_step(step: str) -> None:
    print(f"{step} ...", flush=True)


if __name__ == "__main__":
    main()
