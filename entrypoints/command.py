"""How every entry point runs: where, what is printed, and how it ends."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import Any, NoReturn

from entrypoints.caller import called_as_donors, enter_caller_folder, runnable_here
from entrypoints.commands import ENTRY_POINTS
from registry.errors import Refused, unknown
from registry.masking import has_secret, mask, masked_output
from registry.paths import PROJECT

__all__ = [
    "STUDY",
    "CommandParser",
    "add_adapter_parameters",
    "add_flag",
    "add_study_parameters",
    "boolean",
    "in_python",
    "require_output",
    "run_command",
    "seed_number",
    "split_names",
    "where_to_look",
]

_RESTARTED = "DONORS_RECIPIENTS_IN_VENV"


def where_to_look(uri: str, experiment_id: str) -> str:
    """Return how to open an experiment's training runs in MLflow's UI, which opens with another view by itself."""
    from registry.tracking.store import sqlite_uri

    place = f"#/experiments/{experiment_id}/runs"
    if uri.startswith(("http://", "https://")):
        return f"{uri.rstrip('/')}/{place}"
    embedded = uri == sqlite_uri(PROJECT / "mlflow.db") and Path.cwd().resolve() == PROJECT
    command = "make ui" if embedded else f"mlflow ui --backend-store-uri {quote(uri)}"
    return f"{command}, then http://127.0.0.1:5000/{place}"


def in_python(uri: str, model: str) -> str:
    """Return what loads a model in a Python started in the caller's folder; it names the store where that is needed."""
    from registry.tracking.store import sqlite_file

    load = f"mlflow.pyfunc.load_model({model!r})"
    file = sqlite_file(uri)
    return load if file is None or file == Path.cwd() / "mlflow.db" else f"mlflow.set_tracking_uri({uri!r}); {load}"


def require_output(folder: Path) -> None:
    """Refuse a folder for results that cannot be written to, before any work.

    Raises
    ------
    Refused
        With the reason, and the parameter that names another.
    """
    from registry.files.disks import require_writable

    require_writable(folder, "results", runnable_here("name another folder: -P output=<folder>"))


def run_command(command: Callable[[], int]) -> NoReturn:
    """Run an entry point and exit: 2 and one message for a mistake of the user's, 130 or 143 for an interrupt."""
    from registry.process import collect_rarely, end_on_signal

    _use_project_environment()
    collect_rarely()
    end_on_signal(signal.SIGTERM, _terminated)
    end_on_signal(signal.SIGINT, _interrupted)
    enter_caller_folder()
    with masked_output():
        _configure_logging()
        code = _code(command)
        sys.stdout.flush()
    sys.exit(code)


def _code(command: Callable[[], int]) -> int:
    """Run a command and return its exit code."""
    try:
        return command()
    except Refused as error:
        print(runnable_here(f"error: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command continues from here", file=sys.stderr)
        return 130
    except Exception as error:
        from registry.files.disks import disk_problem

        problem = disk_problem(error)
        if problem is None:
            raise
        print(f"error: {problem}", file=sys.stderr)
        return 1


def _use_project_environment() -> None:
    """Restart in ``.venv`` if this Python lacks the project's packages.

    ``mlflow run --env-manager local`` starts the first ``python`` on the PATH, which is not that of
    ``.venv/bin/mlflow`` while the environment is not activated.
    """
    if find_spec("mlflow") is not None:
        return
    ours = PROJECT / ".venv" / "bin" / "python"
    if ours.exists() and os.environ.get(_RESTARTED) is None:
        os.environ[_RESTARTED] = "1"
        os.execv(ours, [str(ours), *sys.orig_argv[1:]])
    sys.exit(f"error: {sys.executable} has no mlflow; run `make setup`, or use --env-manager uv")


def _interrupted() -> None:
    raise KeyboardInterrupt


def _terminated() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end is being recorded; a second signal must not interrupt that
    sys.exit(143)


def _configure_logging() -> None:
    """Keep the libraries' progress messages off the terminal; their warnings about results stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    for name in ("alembic", "mlflow", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it prints a traceback at each attempt


# --- parameters of the entry points: the parser they share, and parameters that mean the same everywhere


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
