"""An `mlflow` command that serves on a port of this machine, for tests and benchmarks that ask a real server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from urllib.request import urlopen

from registry.paths import PROJECT

__all__ = ["MlflowProcess", "free_port"]

_PATIENCE = 180.0  # seconds that a server may take to start on a busy machine


def free_port() -> int:
    """Return a port of this machine on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class MlflowProcess:
    """Runs a command such as ``mlflow server`` on a free port until it is killed; it can be started again there.

    Parameters
    ----------
    arguments
        What stands behind ``mlflow``, host and port left out.
    log
        File that takes what the server says.
    ping
        Page that answers 200 once it serves.
    environment
        Variables besides those of this process.
    port
        Where it listens; by default one that is free.
    folder
        Its working folder.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        *,
        ping: str = "health",
        environment: Mapping[str, str] | None = None,
        port: int = 0,
        folder: Path = PROJECT,
    ) -> None:
        self.port = port or free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", "mlflow", *arguments, "--host", "127.0.0.1", "--port", str(self.port)]
        self._folder = folder
        self._log, self._ping = log, f"{self.address}/{ping}"
        # MLflow starts uvicorn by its name, and unless told otherwise a dozen workers of jobs that nobody asks for.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._environment = os.environ | own | dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        end = time.monotonic() + _PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                said = self._log.read_text(encoding="utf-8", errors="replace")[-3000:]
                self.kill()
                raise RuntimeError(f"the server did not start: {said}")
            time.sleep(0.2)

    def kill(self) -> None:
        """End it at once, with everything it started."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> MlflowProcess:
        self.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.kill()

    def _answers(self) -> bool:
        try:
            with urlopen(self._ping, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
