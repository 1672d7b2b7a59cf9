"""Faults at the n-th write: a process killed with -9 there, or a disk that is full or read-only from there on.

A write is what changes a folder or a database: a file opened for writing (once before, and once when it is there and
empty), made, renamed, linked or removed, a folder made or removed, and a commit of SQLAlchemy. Python's audit events
report the first, an event of SQLAlchemy's the second, so that the code under test is the code that users run. What C++
libraries open by themselves is not seen.

Processes are forked from a server that has imported all that is slow to import, so that each costs a moment.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import multiprocessing
import os
import signal
import sqlite3
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

__all__ = ["Ending", "Fault", "kills", "run_command", "run_with_fault", "spread"]

Kind = Literal["kill", "full", "read-only"]

_CODES = {"full": errno.ENOSPC, "read-only": errno.EROFS}
_SQLITE = {"full": "database or disk is full", "read-only": "attempt to write a readonly database"}
#: Audit events that change a folder, and where among their arguments paths and folder descriptors stand.
_EVENTS = {
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.remove": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.rmdir": ((0, 1),),
    "os.truncate": ((0, None),),
}
_PATIENCE = 300.0
_IMPORTED = [
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "analysis.record",
    "registry.imports",
    "registry.tracking.store",
    "registry.tuning.search",
]


@dataclass(frozen=True)
class Fault:
    """What happens at a process's n-th write under a folder, counted from 1; nothing where ``number`` is 0."""

    kind: Kind
    number: int
    under: Path


@dataclass(frozen=True)
class Ending:
    """How a process ended: its exit code (−9 if it was killed), how many writes it made or tried, what it printed."""

    code: int
    writes: int
    printed: str

    def tells(self, kind: Kind) -> bool:
        """Whether what was printed names the fault of the disk, in the system's words or in the project's."""
        words = {"full": ("the disk is full", "no space left"), "read-only": ("read-only",), "kill": ()}
        return any(word in self.printed.lower() for word in words[kind])

    @property
    def killed(self) -> bool:
        """Whether the fault killed it."""
        return self.code == -signal.SIGKILL


def run_with_fault(work: Callable[..., object], *arguments: object, fault: Fault, log: Path) -> Ending:
    """Call a function in a process of its own that meets a fault.

    Parameters
    ----------
    work
        A function that a module holds, so that another process finds it.
    log
        File for what it prints, and beside it for the number of writes.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    log.parent.mkdir(parents=True, exist_ok=True)
    count = log.with_suffix(".writes")
    count.unlink(missing_ok=True)
    process = context.Process(target=_child, args=(work, arguments, fault, log, dict(os.environ)))
    process.start()
    process.join(_PATIENCE)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"it did not end within {_PATIENCE:.0f} s: {log.read_text(errors='replace')[-3000:]}")
    writes = int(count.read_text()) if count.exists() else fault.number
    return Ending(process.exitcode, writes, log.read_text(errors="replace"))


def kills(
    work: Callable[..., object], *arguments: object, under: Path, log: Path, first: int = 1, most: int = 400
) -> Iterator[int]:
    """Call a function again and again, killed one write later each time, until it comes through.

    Yields
    ------
    int
        The write at which it was killed, after each kill.
    """
    for number in range(first, most + 1):
        ending = run_with_fault(work, *arguments, fault=Fault("kill", number, under), log=log)
        if not ending.killed:
            assert ending.code == 0, ending.printed[-3000:]
            return
        yield number
    raise AssertionError(f"more than {most} writes")


def spread(total: int, most: int) -> list[int]:
    """Return at most so many writes of a process that makes some in all, the first and the last among them."""
    steps = max(1, min(most, total) - 1)
    return sorted({1 + round(step * (total - 1) / steps) for step in range(steps + 1)})


def run_command(name: str, *arguments: str) -> NoReturn:
    """Run an entry point as ``mlflow run . -e <name>`` does; exits with its code."""
    module = "import_results" if name == "import" else name
    sys.argv = [f"entrypoints/{module}.py", *arguments]
    importlib.import_module(f"entrypoints.{module}").main()
    raise AssertionError("an entry point exits")


def _child(
    work: Callable[..., object], arguments: tuple[object, ...], fault: Fault, log: Path, environment: Mapping[str, str]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with log.open("wb") as printed:
        for stream in (1, 2):
            os.dup2(printed.fileno(), stream)
    armed, code = _Armed(fault), 0
    armed.listen()
    try:
        work(*arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    armed.quiet = True
    log.with_suffix(".writes").write_text(str(armed.count))
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


@dataclass
class _Armed:
    """Counts a process's writes, and strikes."""

    fault: Fault
    count: int = 0
    quiet: bool = False
    _lock: Any = field(default_factory=threading.RLock)

    def listen(self) -> None:
        from sqlalchemy import Engine, event

        sys.addaudithook(self._audit)
        event.listen(Engine, "commit", self._commit)

    def _audit(self, name: str, arguments: tuple[Any, ...]) -> None:
        if self.quiet:
            return
        if name == "open":
            self._opened(*arguments)
        elif name in _EVENTS:
            paths = [self._path(arguments[at], None if fd is None else arguments[fd]) for at, fd in _EVENTS[name]]
            changed = next((path for path in paths if path is not None), None)
            if changed is not None:
                self._write(changed)

    def _opened(self, given: Any, _: Any, flags: int) -> None:
        path = self._path(given, None)
        if path is None or not flags & (os.O_WRONLY | os.O_RDWR):
            return
        self._write(path)
        if flags & os.O_TRUNC and self._next_strikes("kill"):
            self.quiet = True  # as a process that is killed after it opened the file, and before it wrote
            with contextlib.suppress(OSError):  # what cannot be opened is not truncated either
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666))
            self.quiet = False
        if flags & os.O_TRUNC:
            self._write(path)

    def _commit(self, connection: Any) -> None:
        from sqlalchemy.exc import OperationalError

        if not self.quiet and self._path(connection.engine.url.database, None) is not None and self._strikes():
            self._kill()
            raise OperationalError("COMMIT", {}, sqlite3.OperationalError(_SQLITE[self.fault.kind]))

    def _write(self, path: Path) -> None:
        if self._strikes():
            self._kill()
            code = _CODES[self.fault.kind]
            raise OSError(code, os.strerror(code), str(path))

    def _strikes(self) -> bool:
        with self._lock:
            self.count += 1
            return 0 < self.fault.number <= self.count

    def _next_strikes(self, kind: Kind) -> bool:
        return self.fault.kind == kind and self.fault.number == self.count + 1

    def _kill(self) -> None:
        if self.fault.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)

    def _path(self, given: Any, folder: int | None) -> Path | None:
        """Return a path under the folder that is watched, None for any other."""
        if not isinstance(given, (str, bytes, os.PathLike)):
            return None
        path = Path(os.fsdecode(given))
        if not path.is_absolute():
            path = Path(Path(f"/proc/self/fd/{folder}").readlink() if folder not in (None, -1) else Path.cwd()) / path
        return path if path.is_relative_to(self.fault.under) else None
