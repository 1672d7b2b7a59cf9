"""A tracking server that can be stopped and started, and a proxy before it that loses, delays or refuses requests."""

from __future__ import annotations

import http.client
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

PATIENCE = 120.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Server:
    """``mlflow server`` on a SQLite file in a folder."""

    def __init__(self, folder: Path, port: int) -> None:
        self.uri, self._folder, self._port = f"http://127.0.0.1:{port}", folder, port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db", "--workers", "1"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        self._process = subprocess.Popen(
            command,
            cwd=self._folder,
            stdout=(self._folder / "server.log").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert time.monotonic() < deadline, (self._folder / "server.log").read_text()[-2000:]
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return urlopen(f"{self.uri}/health", timeout=2).status == 200
        except OSError:
            return False

    def kill(self) -> None:
        """End it at once, with everything it started."""
        if self._process is not None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None


class Proxy:
    """Passes requests on, or does to a share of them what its mode says.

    ``refuse`` answers 500 and passes nothing on; ``lose`` passes on, then answers 502 instead of what came back;
    ``hang`` passes on and answers too late.
    """

    def __init__(self, target_port: int, *, seed: int) -> None:
        self.mode, self.share, self.struck = "pass", 0.0, 0
        self._random, self._lock = random.Random(seed), threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                mode = proxy.choose()
                if mode == "refuse":
                    self.answer(500, [], b"{}")
                    return
                onward = http.client.HTTPConnection("127.0.0.1", target_port, timeout=60)
                onward.request(self.command, self.path, body, {**self.headers, "Connection": "close"})
                found = onward.getresponse()
                content = found.read()
                if mode == "hang":
                    time.sleep(6)
                if mode == "lose":
                    self.answer(502, [], b"{}")
                else:
                    self.answer(found.status, found.getheaders(), content)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

            def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
                try:
                    self.send_response(status)
                    for name, value in headers:
                        if name.lower() in ("content-type", "content-disposition"):
                            self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # who asked did not wait

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def choose(self) -> str:
        with self._lock:
            if self.mode == "pass" or self._random.random() >= self.share:
                return "pass"
            self.struck += 1
            return self.mode

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder, free_port())
    server.start()
    try:
        yield server
    finally:
        server.kill()
