"""Where the user is who started a command, and how the user names this project's commands there.

``mlflow run`` runs a command in the project's folder. Relative parameters, results and the embedded store belong to the
folder that the user calls from, as with every other command, but MLflow does not pass it on. The process that called
``mlflow run`` is the nearest ancestor without the ``MLFLOW_RUN_ID`` that MLflow gives to what it starts; its working
folder is the user's.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry.paths import PROJECT

if TYPE_CHECKING:  # a package that is missing is for `doctor` to report
    import psutil

__all__ = [
    "Launcher",
    "called_as_donors",
    "enter_caller_folder",
    "find_launcher",
    "project_address",
    "runnable_here",
]

#: Options of ``mlflow run`` that take no value.
_FLAGS = ("--skip-image-build", "--build-image", "--no-conda", "-h", "--help")


@dataclass(frozen=True)
class Launcher:
    """The process that called ``mlflow run``.

    Attributes
    ----------
    folder
        Its working folder.
    address
        What it was given as the project, with the version if one was named; empty where that cannot be read.
    chose_store
        Whether its user named a store in MLFLOW_TRACKING_URI; if not, MLflow took the default of that folder.
    """

    folder: Path
    address: str = ""
    chose_store: bool = False


_launcher: Launcher | None = None


def find_launcher() -> Launcher | None:
    """Return the process that called ``mlflow run``; None for a command that was started in another way."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if not run_id:
        return None
    import psutil

    try:
        for process in psutil.Process().parents():
            environment = process.environ()
            if environment.get("MLFLOW_RUN_ID") != run_id:
                return _launcher_of(process, environment)
    except (psutil.Error, OSError):
        pass
    return _launcher_by_store()


def _launcher_of(process: psutil.Process, environment: Mapping[str, str]) -> Launcher:
    return Launcher(Path(process.cwd()), _address(process.cmdline()), bool(environment.get("MLFLOW_TRACKING_URI")))


def _launcher_by_store() -> Launcher | None:
    """Where processes cannot be inspected, MLflow's default store, ``mlflow.db``, is in the caller's folder."""
    from registry.tracking.store import sqlite_file

    file = sqlite_file(os.environ.get("MLFLOW_TRACKING_URI", ""))
    return Launcher(file.parent) if file is not None and file.name == "mlflow.db" and file.parent.is_dir() else None


def _address(words: Sequence[str]) -> str:
    """Return the project, and its version, of a command line ``mlflow run <project> …``; empty for another command."""
    if "run" not in words or not any(Path(word).name in ("mlflow", "mlflow.exe") for word in words[:3]):
        return ""
    rest, project, version = list(words[words.index("run") + 1 :]), "", ""
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            project = project or word
        elif "=" not in word and word not in _FLAGS and rest:
            value = rest.pop(0)
            version = value if word in ("-v", "--version") else version
    return shlex.join([project, *(["-v", version] if version else [])]) if project else ""


def enter_caller_folder() -> None:
    """Make the caller's folder the working one, and report it where it is not the project's."""
    global _launcher
    _launcher = find_launcher()
    if _launcher is None:
        return
    try:
        os.chdir(_launcher.folder)
    except OSError as error:
        print(
            f"note: {_launcher.folder} cannot be entered ({error.strerror}): paths start at {Path.cwd()}",
            file=sys.stderr,
        )
        return
    if not _in_project():
        print(_notice(_launcher), file=sys.stderr)


def _notice(launcher: Launcher) -> str:
    from registry.tracking.store import shown_uri, sqlite_file, sqlite_uri, tracking_uri

    uri = tracking_uri()
    text = f"note: called from {launcher.folder}, where relative paths and results start; store {shown_uri(uri)}"
    own, used = PROJECT / "mlflow.db", sqlite_file(uri)
    if launcher.chose_store or not own.exists() or (used is not None and used.exists() and used.samefile(own)):
        return text
    return f"{text}\n      the project's own store is another; to use it: export MLFLOW_TRACKING_URI={sqlite_uri(own)}"


def _in_project() -> bool:
    return Path.cwd() == PROJECT or Path.cwd().resolve() == PROJECT


def called_as_donors() -> bool:
    """Whether this process is the console script ``donors``, or the package was installed without its MLproject."""
    return Path(sys.argv[0]).stem == "donors" or not (PROJECT / "MLproject").is_file()


def project_address() -> str:
    """Return what ``mlflow run`` takes for this project in the working folder, quoted for a shell."""
    if _in_project():
        return "."
    return (_launcher.address if _launcher is not None else "") or shlex.quote(str(PROJECT))


def runnable_here(text: str) -> str:
    """Return a text whose commands, written for the project's folder, work as the user called this one."""
    if called_as_donors():
        text = re.sub(r"mlflow run \. -e (\w+)(?: --env-manager local)?", r"donors \1", text)
        text = re.sub(r"(?<!\S)-P (\w+)=", lambda found: f"--{found[1].replace('_', '-')} ", text)
        return text.replace("python -m entrypoints.import_results", "donors import").replace(
            "python -m entrypoints.", "donors "
        )
    address = project_address()
    if address == ".":
        return text
    text = text.replace("mlflow run . ", f"mlflow run {address} ")
    return re.sub(
        r"python -m entrypoints\.(?!import_results)(\w+)", rf"mlflow run {address} -e \1 --env-manager local", text
    )
