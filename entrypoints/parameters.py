"""Parameters of the entry points: the parser they share, and parameters that mean the same everywhere."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from entrypoints.caller import called_as_donors, runnable_here
from entrypoints.commands import ENTRY_POINTS
from registry.errors import unknown
from registry.masking import has_secret, mask

__all__ = [
    "STUDY",
    "CommandParser",
    "add_adapter_parameters",
    "add_flag",
    "add_study_parameters",
    "boolean",
    "seed_number",
    "split_names",
]

#: What `study` takes, in every entry point.
STUDY = "name of a study, with :<variant> for one of a comparison, or path of its file"

#: Where secrets belong.
_SECRETS = "Keep passwords in ~/.pgpass, PGPASSWORD or MLFLOW_TRACKING_PASSWORD, tokens in HF_TOKEN"


class CommandParser(argparse.ArgumentParser):
    """Parser of one command: reads ``_`` in names as ``-``, accepts no abbreviation, reports a mistake in one line.

    Parameters
    ----------
    name
        The entry point's, or that of a command of ``donors``.
    description
        The first sentence of the command's module.
    example
        Parameters of the command that the help ends with.

    Attributes
    ----------
    parameters : list of argparse.Action
        Every parameter, in the order of MLproject; ``--help`` is not one.
    """

    def __init__(self, name: str, description: str | None, example: str) -> None:
        self.parameters: list[argparse.Action] = []
        command = f"mlflow run . -e {name} --env-manager local" if name in ENTRY_POINTS else f"donors {name}"
        super().__init__(
            prog=f"donors {name}" if called_as_donors() else None,
            description=description,
            epilog=f"example: {runnable_here(f'{command} {example}')}",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,  # --lang would be --language until there is another
        )

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Add a parameter, as ``argparse`` does."""
        action = super().add_argument(*names, **options)
        if action.dest != "help":
            self.parameters.append(action)
        return action

    def parse_args(  # type: ignore[override]  # the others' namespace is never another one
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse the words; a mistake ends the process with exit code 2 and one line."""
        words = [_with_dashes(word) for word in (sys.argv[1:] if args is None else args)]
        found, rest = self.parse_known_args(words, namespace)
        for word in rest:
            if not word.startswith("--"):
                self.error(f"{word!r} belongs to no parameter: write --name value, or -P name=value")
            name = word.removeprefix("--").partition("=")[0].replace("-", "_")
            self.error(str(unknown("parameter", name, (action.dest for action in self.parameters))))
        self._refuse_recorded_secrets(found)
        return found

    def _refuse_recorded_secrets(self, found: argparse.Namespace) -> None:
        """Refuse a password or token among the parameters of ``mlflow run``, which records all of them."""
        run_id = os.environ.get("MLFLOW_RUN_ID")
        secret = [name for name, value in vars(found).items() if isinstance(value, str) and has_secret(value)]
        if run_id and secret:
            self.error(
                f"{', '.join(secret)} holds a secret, which `mlflow run` recorded as a parameter. {_SECRETS}. "
                f"Change it;\n"
                f"mlflow runs delete --run-id {run_id}; mlflow gc --run-ids {run_id}   (gc erases all that is deleted)"
            )

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, mask(f"error: {message}\n"))


def _with_dashes(word: str) -> str:
    name, equals, value = word.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if word.startswith("--") else word


def boolean(text: str) -> bool:
    """Read a truth value, as MLproject parameters carry it."""
    if text.lower() in ("true", "yes", "1"):
        return True
    if text.lower() in ("false", "no", "0", ""):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def add_flag(parser: CommandParser, name: str, *, default: bool = False, help: str) -> None:
    """Add a parameter that is true or false; ``--name`` alone is true."""
    parser.add_argument(name, nargs="?", const=True, default=default, type=boolean, help=help)


def add_study_parameters(parser: CommandParser, *, default: str = "demo", help: str = STUDY) -> None:
    """Add the study and its data folder."""
    parser.add_argument("--study", default=default, help=help)
    parser.add_argument("--data", default="", help="folder of a files benchmark, instead of the path in the study file")


def add_adapter_parameters(parser: CommandParser) -> None:
    """Add what names one adapter of a study: base model, source cell, seed."""
    parser.add_argument(
        "--model", default="", help="base model: built-in name, hub id or folder; empty: the study's first"
    )
    parser.add_argument("--task", default="", help="source task; empty: the study's first")
    parser.add_argument("--language", default="", help="source language; empty: the study's first")
    parser.add_argument("--seed", default="", type=seed_number, help="seed of the run; empty: the study's first")


def split_names(text: str) -> list[str]:
    """Read names, comma-separated."""
    return [part.strip() for part in text.split(",") if part.strip()]


def seed_number(text: str) -> int | None:
    """Read a seed; an empty text is none."""
    if not text:
        return None
    if not text.lstrip("-").isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)
