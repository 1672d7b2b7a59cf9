"""A server that does not answer, or is none: known within seconds, in one line with what helps."""

from __future__ import annotations

import os
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pytest

from registry.errors import Refused
from registry.tracking import server
from registry.tracking.store import open_store
from tests.mlflow_process import free_port

Serve = Callable[..., str]


@pytest.fixture(autouse=True)
def unset() -> Iterator[None]:
    yield
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Answer every request alike, or never; with a certificate, by https."""
    started: list[ThreadingHTTPServer] = []

    def start(
        status: int = 200, content: bytes = b"{}", *, silent: bool = False, certificate: Path | None = None
    ) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                if silent:
                    time.sleep(3)
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            made.socket = context.wrap_socket(made.socket, server_side=True)
        threading.Thread(target=made.serve_forever, daemon=True).start()
        started.append(made)
        return f"{'https' if certificate else 'http'}://127.0.0.1:{made.server_port}"

    yield start
    for made in started:
        made.shutdown()
        made.server_close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> Path:
    """A certificate that signs itself, with its key; alone beside it as `cert.pem`."""
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    public = file.with_name("cert.pem")
    subprocess.run([*command.split(), "-keyout", file, "-out", public], check=True, capture_output=True)
    file.write_text(file.read_text() + public.read_text())
    return file


def refused(uri: str) -> str:
    """Return why a store is refused, which must be known soon and take at most two lines."""
    began = time.monotonic()
    with pytest.raises(Refused) as refusal:
        open_store(uri)
    assert time.monotonic() - began < 60, "MLflow alone repeats a request for four minutes"
    said = str(refusal.value)
    assert len(said.splitlines()) == 2
    assert "Traceback" not in said and "HTTPConnectionPool" not in said
    return said


def test_a_server_that_is_not_there_is_refused_at_once() -> None:
    said = refused(f"http://me:geheim@127.0.0.1:{free_port()}")
    assert "nothing listens there\n  start the server" in said
    assert "geheim" not in said


def test_a_host_that_does_not_exist_is_named() -> None:
    assert "no host of that name" in refused("http://no-such-host.invalid:5000")


def test_a_server_that_never_answers_is_not_waited_for(serve: Serve, monkeypatch) -> None:
    monkeypatch.setattr(server, "_PATIENCE", 1)
    assert "does not answer within 1 s" in refused(serve(silent=True))


@pytest.mark.parametrize(
    ("status", "content", "said"),
    [
        (401, b"", "export MLFLOW_TRACKING_USERNAME"),
        (403, b"Invalid Host header", "--allowed-hosts"),
        (404, b"Not Found", "no MLflow tracking server"),
        (501, b"<html>", "no MLflow tracking server"),
        (200, b"<html>sign in</html>", "not as an MLflow tracking server does"),
        (503, b"", "answers with HTTP 503"),
    ],
)
def test_what_answers_otherwise_is_told_with_what_helps(serve: Serve, status: int, content: bytes, said: str) -> None:
    assert said in refused(serve(status, content))


def test_faults_of_certificates_are_told_apart(serve: Serve, certificate: Path) -> None:
    said = refused(serve(certificate=certificate))
    assert "certificate that is not trusted here: self-signed certificate" in said
    assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in said
    assert "does not speak TLS" in refused(serve().replace("http://", "https://"))


def test_a_trusted_certificate_is_taken(serve: Serve, certificate: Path, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate.with_name("cert.pem")))
    assert open_store(serve(certificate=certificate)).search_experiments() == []


def test_a_worker_of_a_study_waits_and_settings_are_as_before(monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    uri = f"http://127.0.0.1:{free_port()}"
    assert open_store(uri, patient=True).tracking_uri == uri  # nothing is asked yet
    refused(uri)
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "7"
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ
