"""Erase a study or one registered version for good: records, files, caches and checkpoints.

Lists what would be erased unless ``dry_run=false`` and ``confirm=<its name>``.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from entrypoints.caller import runnable_here
from entrypoints.command import STUDY, CommandParser, add_flag, run_command

if TYPE_CHECKING:  # slow to import, and --help does not need it
    from registry.erasure.inventory import Subject


def command_line() -> CommandParser:
    """Return the parser of the parameters."""
    parser = CommandParser("forget", __doc__, "-P study=demo")
    parser.add_argument("--study", default="", help=f"study to erase: {STUDY}")
    parser.add_argument("--name", default="", help="instead of study: registered name of an adapter")
    parser.add_argument("--version", default="", help="with name: number of the version to erase")
    add_flag(parser, "--dry-run", default=True, help="list what would be erased, and erase nothing")
    parser.add_argument(
        "--confirm",
        default="",
        help="with dry_run=false: the study's name, or name/version, once more; without it nothing is erased",
    )
    return parser


def main(words: list[str] | None = None) -> None:
    """Parse, list what would be erased, and erase it if that was confirmed."""
    given = command_line().parse_args(words)
    run_command(lambda: _forget(given))


def _forget(given: argparse.Namespace) -> int:
    from registry.erasure.erase import plan_erasure
    from registry.errors import Refused
    from registry.tracking.runs import annotate_launch, launching_run
    from registry.tracking.store import open_store, shown_uri

    launch, subject = launching_run(), _subject(given)
    if not given.dry_run and given.confirm != str(subject):
        raise Refused(
            f"confirm={given.confirm!r} is not {str(subject)!r}, so nothing was erased. To list what would be erased:\n"
            f"{_command(given, dry_run=True)}"
        )
    client = open_store()
    plan = plan_erasure(client, subject, lambda number: _caches(client.tracking_uri, number))
    print(f"forget {subject} in {shown_uri(client.tracking_uri)}:")
    for line in plan.lines():
        print(line)
    if given.dry_run:
        print("dry run: nothing was erased. Erasing cannot be undone; docs/server.md describes backups. To erase it:")
        print(runnable_here(f"  {_command(given, dry_run=False)} -P confirm={shlex.quote(str(subject))}"))
        return 0
    left = plan.carry_out()
    print(f"erased: {subject}; folders that commands wrote for you (reports/, adapters/) are kept")
    for line in left:
        print(line)
    annotate_launch(client, launch, f"Erased `{subject}`.")
    return 1 if any(line.startswith("files could not") for line in left) else 0


def _subject(given: argparse.Namespace) -> Subject:
    from registry.config.names import recorded_name
    from registry.erasure.inventory import Subject
    from registry.errors import Refused

    if bool(given.study) == bool(given.name) or bool(given.name) != bool(given.version):
        raise Refused("name what to erase: study=<name>, or name=<registered model> version=<number>")
    return Subject(recorded_name(given.study) if given.study else "", given.name, given.version)


def _command(given: argparse.Namespace, *, dry_run: bool) -> str:
    named = {key: value for key in ("study", "name", "version") if (value := getattr(given, key))}
    words = " ".join(f"-P {key}={shlex.quote(value)}" for key, value in named.items())
    return f"mlflow run . -e forget --env-manager local {words} -P dry_run={str(dry_run).lower()}"


def _caches(uri: str, experiment: str) -> Iterator[Path]:
    from analysis.reading.cache import cache_folder, cache_root

    yield cache_folder(cache_root(), uri, experiment)


if __name__ == "__main__":
    main()
