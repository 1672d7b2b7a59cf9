"""A hub on this machine that takes uploads: what huggingface_hub sends over HTTP, answered as the hub answers it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.fake_hub import COMMIT, _directed

__all__ = ["UploadHub", "upload_hub"]


@dataclass
class UploadHub:
    """What was uploaded, by repository and file, and how the hub answers.

    Attributes
    ----------
    token
        The one that may write.
    refused
        Status for those that may not.
    breaks
        Whether the storage of large files fails.
    """

    token: str = "hf_right"
    refused: int = 403
    breaks: bool = False
    address: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    visibility: dict[str, str] = field(default_factory=dict)
    commits: int = 0
    large: dict[str, bytes] = field(default_factory=dict)


@contextmanager
def upload_hub(folder: Path) -> Iterator[UploadHub]:
    """Have huggingface_hub ask a server of this process, without a token unless the caller sets one."""
    hub = UploadHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with _directed(hub.address, folder):
            yield hub
    finally:
        server.shutdown()
        server.server_close()


def _handler(hub: UploadHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # the name that http.server calls
            name = "/".join(urlsplit(self.path).path.split("/")[3:5])
            known = name in hub.repositories and self._allowed()
            self._say(200 if known else 401, {"id": name, "sha": COMMIT} if known else {"error": "no"})

        def do_PUT(self) -> None:
            content = self._body()
            if hub.breaks:
                self._say(400, {"error": "the storage is out of order"})
                return
            hub.large[self.path.rpartition("/")[2]] = content
            self._say(200, {})

        def do_POST(self) -> None:
            path, body = urlsplit(self.path).path, self._body()
            if path == "/api/validate-yaml":
                self._say(200, {"errors": [], "warnings": []})
            elif not self._allowed():
                error = "Invalid username or password." if not self._token() else "You don't have the rights"
                self._say(401 if not self._token() else hub.refused, {"error": error})
            elif path == "/api/repos/create":
                self._create(json.loads(body))
            elif "/preupload/" in path:
                self._modes(json.loads(body))
            elif path.endswith(".git/info/lfs/objects/batch"):
                self._places(json.loads(body))
            else:
                self._commit("/".join(path.split("/")[3:5]), body)

        def _create(self, asked: dict[str, Any]) -> None:
            name = f"{asked['organization']}/{asked['name']}"
            status = 409 if name in hub.repositories else 200
            hub.repositories.setdefault(name, {})
            hub.visibility.setdefault(name, asked.get("visibility", "public"))
            self._say(status, {"url": f"{hub.address}/{name}", "error": "You already created this model repo"})

        def _modes(self, asked: dict[str, Any]) -> None:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in asked["files"]
            ]
            self._say(200, {"files": files})

        def _places(self, asked: dict[str, Any]) -> None:
            objects = [
                {**file, "actions": {"upload": {"href": f"{hub.address}/large/{file['oid']}"}}}
                for file in asked["objects"]
            ]
            self._say(200, {"transfer": "basic", "objects": objects})

        def _commit(self, name: str, body: bytes) -> None:
            for entry in map(json.loads, body.splitlines()):
                value = entry["value"]
                if entry["key"] == "file":
                    hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    hub.repositories[name][value["path"]] = hub.large[value["oid"]]
            hub.commits += 1
            self._say(200, {"commitUrl": f"{hub.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

        def _token(self) -> str:
            return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

        def _allowed(self) -> bool:
            return self._token() == hub.token

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _say(self, status: int, content: object) -> None:
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
