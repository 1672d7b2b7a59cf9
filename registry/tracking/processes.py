"""Which process this is, for other processes of this machine to see whether it still runs: the tag ``worker``.

A process id alone is given again after a while. What tells two processes of one id apart is when they started, counted
from the machine's own start, since its clock may be set anew while they run. Containers, and virtual machines of one
name, do not see each other's processes; so the tag says of which boot and which process namespace the id is.
"""

from __future__ import annotations

import hashlib
import os
import socket
from functools import cache
from pathlib import Path

import psutil

__all__ = ["process_is_here", "worker_identity"]

_CLOCK_SECONDS = 3.0  # where a start is only known by the wall clock, which is corrected now and then


def worker_identity() -> str:
    """This process as ``host:pid-start-place``, the tag ``worker``."""
    return _identity(os.getpid())


def process_is_here(worker: str) -> bool | None:
    """Whether a process, as the tag ``worker`` names it, runs on this machine; None where that cannot be seen here."""
    host, _, process = worker.rpartition(":")
    pid, _, rest = process.partition("-")
    start, _, place = rest.partition("-")
    if host != socket.gethostname() or place != _place():
        return None
    try:
        found = _start(int(pid))
        return found is not None and abs(found - float(start)) < (_CLOCK_SECONDS if _by_the_clock() else 1)
    except ValueError:
        return False
    except PermissionError:
        return None


@cache
def _identity(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}-{_start(pid):.0f}-{_place()}"


def _start(pid: int) -> float | None:
    """When a process started, in clock ticks of the machine or, where there is no ``/proc``, in seconds of its clock.

    None if there is no such process, or if it has ended and whoever started it has not asked yet.

    Raises
    ------
    PermissionError
        If there is one that this user may not look at.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if _by_the_clock():
            return float(process.create_time())
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return float(fields[19])  # the 22nd of all, see proc(5)
    except psutil.AccessDenied as error:
        raise PermissionError(str(error)) from error
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        if _hidden(pid):
            raise PermissionError(f"process {pid} is hidden") from None
        return None


def _hidden(pid: int) -> bool:
    """Whether there is a process that is not shown, as ``/proc`` mounted with ``hidepid`` hides those of others."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _by_the_clock() -> bool:
    return not Path("/proc/self/stat").exists()


@cache
def _place() -> str:
    """Name the boot and the process namespace, empty where there are none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return ""
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:8]
