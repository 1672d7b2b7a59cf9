"""A tracking server, and a proxy before it that loses, delays or refuses requests."""

from __future__ import annotations

import http.client
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.mlflow_process import MlflowProcess


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


def server_on(folder: Path) -> MlflowProcess:
    """``mlflow server`` on a SQLite file in a folder, not yet started."""
    stores = [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    return MlflowProcess(["server", *stores, "--workers", "1"], folder / "server.log")
