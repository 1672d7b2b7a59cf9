"""How every entry point runs: where, what is printed, and how it ends."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import NoReturn

from entrypoints.caller import enter_caller_folder, runnable_here
from registry.errors import Refused
from registry.masking import masked_output
from registry.paths import PROJECT

__all__ = ["in_python", "require_output", "run_command", "where_to_look"]

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
