"""A model hub on this machine: what huggingface_hub asks for, answered over HTTP as the hub answers it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

__all__ = ["FakeHub", "Repository", "fake_hub", "unreachable"]

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Repository:
    """A model's repository.

    Attributes
    ----------
    files
        Name and content.
    sizes
        Of files that are listed with another size than their content's, or have none.
    gated
        Whether a token is asked for.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    gated: bool = False

    @classmethod
    def of(cls, folder: Path, *, gated: bool = False) -> Repository:
        """Take the files of a model's folder."""
        return cls({path.name: path.read_bytes() for path in folder.iterdir()}, gated=gated)

    def listed(self) -> dict[str, int]:
        return {name: len(content) for name, content in self.files.items()} | self.sizes


@dataclass
class FakeHub:
    """What the hub holds, by name, and the paths it was asked for."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    cache: Path = Path()

    def downloads(self) -> set[str]:
        return {path.rpartition("/")[2] for path in self.asked if path.startswith("GET") and "/resolve/" in path}


@contextmanager
def fake_hub(folder: Path) -> Iterator[FakeHub]:
    """Have huggingface_hub ask a server of this process, with an empty cache in a folder and no token."""
    hub = FakeHub(cache=folder / "hub")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with _directed(f"http://127.0.0.1:{server.server_port}", folder):
            yield hub
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def unreachable(folder: Path) -> Iterator[None]:
    """Have huggingface_hub ask where nobody listens, with an empty cache in a folder."""
    with _directed("http://127.0.0.1:9", folder):
        yield


@contextmanager
def _directed(address: str, folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        constants = "huggingface_hub.constants"
        patch.setattr(f"{constants}.ENDPOINT", address)
        template = "{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", f"{address}/{template}")
        patch.setattr("huggingface_hub.hf_api.api.endpoint", address)  # functions of the package are its methods
        patch.setattr("transformers.utils.hub._hf_api", None)  # made at its first use, and then kept
        patch.setattr(f"{constants}.HF_HUB_CACHE", str(folder / "hub"))
        patch.setattr(f"{constants}.HF_TOKEN_PATH", str(folder / "token"))
        patch.setattr(f"{constants}.HF_HUB_DISABLE_XET", True)
        patch.delenv("HF_TOKEN", raising=False)
        yield


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # the name that http.server calls
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = urlsplit(self.path).path
            hub.asked.append(f"{self.command} {path}")
            parts = path.strip("/").split("/")
            api = parts[:2] == ["api", "models"]
            owner, model, *rest = parts[2:] if api else parts
            repository = hub.repositories.get(f"{owner}/{model}")
            if repository is None:
                # As the hub does: without a token it does not say whether a repository is private or not there.
                self._say(401, {"error": "Invalid username or password."}, **{"X-Error-Code": "RepoNotFound"})
            elif repository.gated and not self.headers.get("Authorization") and (rest == ["auth-check"] or not api):
                self._say(401, {"error": "Access to it is restricted."}, **{"X-Error-Code": "GatedRepo"})
            elif api:
                self._api(f"{owner}/{model}", repository, rest)
            else:
                self._file(repository, rest[-1])

        def _api(self, name: str, repository: Repository, rest: list[str]) -> None:
            if rest[:1] == ["revision"] and rest[1] not in ("main", COMMIT):
                self._say(404, {"error": "Invalid rev id"}, **{"X-Error-Code": "RevisionNotFound"})
            elif rest[:1] == ["tree"]:
                listed = [
                    {"type": "file", "path": file, "size": size, "oid": "0" * 40}
                    for file, size in repository.listed().items()
                ]
                self._say(200, listed)
            else:
                siblings = [{"rfilename": file, "size": size} for file, size in repository.listed().items()]
                self._say(200, {"id": name, "sha": COMMIT, "siblings": siblings})

        def _file(self, repository: Repository, name: str) -> None:
            headers = {"X-Repo-Commit": COMMIT}
            if name not in repository.files:
                self._say(404, {}, **headers, **{"X-Error-Code": "EntryNotFound"})
                return
            content = repository.files[name]
            self._send(200, content, headers | {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'})

        def _say(self, status: int, content: object, **headers: str) -> None:
            self._send(status, json.dumps(content).encode(), headers | {"Content-Type": "application/json"})

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
