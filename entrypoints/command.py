"""What every entry point shares: arguments that mean the same everywhere, and how a command ends."""

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
from typing import NoReturn

from registry.errors import Refused, unknown
from registry.masking import has_secret, mask, masked_output
from registry.paths import PROJECT

__all__ = [
    "STUDY",
    "add_adapter_arguments",
    "add_study_arguments",
    "boolean",
    "in_python",
    "listed",
    "parser",
    "require_output",
    "run_command",
    "seed_number",
    "where_to_look",
]

#: What `study` takes, in every entry point.
STUDY = "name of a study, with :<variant> for one of a comparison, or path of its file"

#: Where secrets belong.
_KEPT = "Keep passwords in ~/.pgpass, PGPASSWORD or MLFLOW_TRACKING_PASSWORD, tokens in HF_TOKEN"

_MOVED = "DONORS_RECIPIENTS_IN_VENV"


class _Parser(argparse.ArgumentParser):
    """Reads ``_`` in names as ``-``, guesses no name, and tells a mistake in one line."""

    def parse_args(  # type: ignore[override]  # the others' namespace is never another one
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        words = [_dashed(word) for word in (sys.argv[1:] if args is None else args)]
        found, strange = self.parse_known_args(words, namespace)
        for word in strange:
            if not word.startswith("--"):
                self.error(f"{word!r} belongs to no parameter: write --name value, or -P name=value")
            name = word.removeprefix("--").partition("=")[0].replace("-", "_")
            known = (action.dest for action in self._actions if action.dest != "help")
            self.error(str(unknown("parameter", name, known)))
        self._refuse_recorded_secrets(found)
        return found

    def _refuse_recorded_secrets(self, found: argparse.Namespace) -> None:
        """Refuse a password or token among the parameters of ``mlflow run``, which records all of them."""
        run_id = os.environ.get("MLFLOW_RUN_ID")
        secret = [name for name, value in vars(found).items() if isinstance(value, str) and has_secret(value)]
        if run_id and secret:
            self.error(
                f"{', '.join(secret)} holds a secret, which `mlflow run` recorded as a parameter. {_KEPT}. Change it;\n"
                f"mlflow runs delete --run-id {run_id}; mlflow gc --run-ids {run_id}   (gc erases all that is deleted)"
            )

    def error(self, message: str) -> NoReturn:
        self.exit(2, mask(f"error: {message}\n"))


def _dashed(word: str) -> str:
    name, equals, value = word.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if word.startswith("--") else word


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """Return a parser whose help shows every default and an example."""
    return _Parser(
        description=description,
        epilog=f"example: {example}",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,  # --lang would be --language until there is another
    )


def boolean(text: str) -> bool:
    """Read a truth value, as MLproject parameters carry it."""
    if text.lower() in ("true", "yes", "1"):
        return True
    if text.lower() in ("false", "no", "0", ""):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def add_study_arguments(arguments: argparse.ArgumentParser, *, output: str) -> None:
    """Add the study, its data folder and the output folder."""
    arguments.add_argument("--study", default="demo", help=STUDY)
    arguments.add_argument("--data", default="", help="folder of a files benchmark, in place of the study's own path")
    arguments.add_argument("--output", default="", help=output)


def add_adapter_arguments(arguments: argparse.ArgumentParser) -> None:
    """Add what names one adapter: base, source cell, seed."""
    arguments.add_argument(
        "--model", default="", help="base: built-in name, hub id or folder; empty takes the study's first"
    )
    arguments.add_argument("--task", default="", help="source task; empty takes the study's first")
    arguments.add_argument("--language", default="", help="source language; empty takes the study's first")
    arguments.add_argument(
        "--seed", default="", type=seed_number, help="seed of the run; empty takes the study's first"
    )


def listed(text: str) -> list[str]:
    """Read names, comma-separated."""
    return [part.strip() for part in text.split(",") if part.strip()]


def where_to_look(uri: str, experiment_id: str) -> str:
    """Say how to open an experiment's runs in MLflow's UI, which itself would open another view."""
    from registry.tracking.store import sqlite_uri

    place = f"#/experiments/{experiment_id}/runs"
    if uri.startswith(("http://", "https://")):
        return f"{uri.rstrip('/')}/{place}"
    embedded = uri == sqlite_uri(PROJECT / "mlflow.db") and Path.cwd().resolve() == PROJECT
    command = "make ui" if embedded else f"mlflow ui --backend-store-uri {quote(uri)}"
    return f"{command}, then http://127.0.0.1:5000/{place}"


def in_python(uri: str, model: str) -> str:
    """Return what loads a model in a Python that is started where the user stands: its store by name if need be."""
    from registry.tracking.store import sqlite_file

    load = f"mlflow.pyfunc.load_model({model!r})"
    file = sqlite_file(uri)
    return load if file is None or file == Path.cwd() / "mlflow.db" else f"mlflow.set_tracking_uri({uri!r}); {load}"


def require_output(folder: Path) -> None:
    """Refuse a folder for results that nothing can be written to, before the work.

    Raises
    ------
    Refused
        With the reason, and the parameter that names another.
    """
    from registry.files.disks import require_writable

    require_writable(folder, "results", "name another folder: -P output=<folder>")


def run_command(command: Callable[[], int]) -> NoReturn:
    """Run an entry point and exit: 2 and one message for a mistake of the user's, 130 or 143 for an interrupt."""
    from entrypoints.caller import stand_with_caller
    from registry.process import collect_rarely, end_on_signal

    _use_project_environment()
    collect_rarely()
    end_on_signal(signal.SIGTERM, _terminated)
    end_on_signal(signal.SIGINT, _interrupted)
    stand_with_caller()
    with masked_output():
        _quiet()
        code = _code(command)
        sys.stdout.flush()
    sys.exit(code)


def _code(command: Callable[[], int]) -> int:
    """Run a command and return its exit code."""
    from entrypoints.caller import pasted

    try:
        return command()
    except Refused as error:
        print(pasted(f"error: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        from registry.files.disks import disk_problem

        told = disk_problem(error)
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        return 1


def _use_project_environment() -> None:
    """Go on in ``.venv`` where this Python lacks the project's packages.

    ``mlflow run --env-manager local`` starts the first ``python`` on the PATH, which is another one than that of
    ``.venv/bin/mlflow`` while the environment is not activated.
    """
    if find_spec("mlflow") is not None:
        return
    ours = PROJECT / ".venv" / "bin" / "python"
    if ours.exists() and os.environ.get(_MOVED) is None:
        os.environ[_MOVED] = "1"
        os.execv(ours, [str(ours), *sys.orig_argv[1:]])
    sys.exit(f"error: {sys.executable} has no mlflow; run `make setup`, or use --env-manager uv")


def seed_number(text: str) -> int | None:
    """Read a seed; an empty text is none."""
    if not text:
        return None
    if not text.lstrip("-").isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _interrupted() -> None:
    raise KeyboardInterrupt


def _terminated() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end is being recorded; a second signal must not break that off
    sys.exit(143)


def _quiet() -> None:
    """Keep libraries' chatter off the terminal; their warnings about results stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    for name in ("alembic", "mlflow", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it prints a traceback at each attempt
