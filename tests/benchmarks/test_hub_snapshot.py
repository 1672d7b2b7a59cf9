"""Downloads from a server that answers as the hub does, into its library's cache: what is kept, checked, refused."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest

from registry.benchmarks.hub.snapshot import snapshot
from registry.benchmarks.hub.sources import HubDataset, source_of
from registry.benchmarks.items import Item
from registry.benchmarks.kinds import load_benchmark
from registry.cells import Cell
from registry.config.data import BenchmarkSpec
from registry.errors import Refused
from tests.benchmarks.hub_fixture import write_hub

ARC = Cell("arc_challenge", "de")
LARGE = (".jsonl", ".parquet")  # files that the hub keeps as Git LFS


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub(ThreadingHTTPServer):
    """Serves the data sets of a folder.

    ``asked`` lists the requests, ``refused`` is what they all are answered with, ``lost`` a file that it fails on.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder = folder
        self.asked: list[str] = []
        self.refused: tuple[int, str] | None = None
        self.lost = ""
        self.address = f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    """One request: the listing of a commit, or one of its files."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        if self.server.lost and path.endswith(self.server.lost):
            self.answer(418, b"", {})
        elif self.server.refused:
            status, code = self.server.refused
            self.answer(status, b"", {"X-Error-Code": code})
        elif path.startswith("/api/datasets/"):
            owner, name, _, _commit = path.removeprefix("/api/datasets/").split("/")[:4]
            listed = [self.entry(file, self.server.folder / owner / name) for file in self.files(f"{owner}/{name}")]
            self.answer(200, json.dumps(listed).encode(), {"Content-Type": "application/json"})
        else:
            owner, name, _, commit, file = path.removeprefix("/datasets/").split("/", 4)
            content = (self.server.folder / owner / name / file).read_bytes()
            digest = hashlib.sha256(content).hexdigest() if file.endswith(LARGE) else git_sha1(content)
            self.answer(200, content, {"ETag": f'"{digest}"', "X-Repo-Commit": commit})

    def files(self, repository: str) -> list[Path]:
        return sorted(path for path in (self.server.folder / repository).rglob("*") if path.is_file())

    def entry(self, file: Path, root: Path) -> dict[str, Any]:
        content = file.read_bytes()
        entry = {
            "type": "file",
            "path": file.relative_to(root).as_posix(),
            "size": len(content),
            "oid": git_sha1(content),
        }
        if file.suffix in LARGE:
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of huggingface_hub's."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub._tree_cache._IN_MEMORY_TREE_CACHE", {})
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the data sets in three languages."""
    server = Hub(write_hub(tmp_path / "hub", ("ar", "de", "zh"), 3))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    for name in ("HUGGINGFACE_CO_URL_HOME", "ENDPOINT"):
        monkeypatch.setattr(huggingface_hub.constants, name, server.address, raising=False)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Do as HF_HUB_OFFLINE=1 does; the library reads it when it is imported."""
    return lambda: monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def items(cell: Cell = ARC) -> tuple[Item, ...]:
    return load_benchmark(BenchmarkSpec(kind="hub")).pool(cell, "train")


def refusal(source: HubDataset | None = None) -> str:
    with pytest.raises(Refused) as caught:
        snapshot(source or source_of(ARC))
    return str(caught.value)


def downloaded(hub: Hub) -> list[str]:
    return sorted(path.split("/", 6)[-1] for path in hub.asked if path.startswith("GET /datasets/"))


def test_what_a_configuration_needs_is_downloaded_once(hub: Hub, cache: Path) -> None:
    mirror = load_benchmark(BenchmarkSpec(kind="hub", path=str(hub.folder)))
    assert items() == mirror.pool(ARC, "train")
    names = ("train", "val", "test")
    wanted = [f"data/{language}/{name}.jsonl" for language in ("ar", "de") for name in names]  # ar is the card's first
    assert downloaded(hub) == sorted(["README.md", *wanted])
    hub.asked.clear()
    assert items() == mirror.pool(ARC, "train")
    assert hub.asked == []
    items(Cell("arc_challenge", "zh"))
    assert downloaded(hub) == sorted(f"data/zh/{name}.jsonl" for name in names)


def test_the_data_sets_of_other_publishers_are_downloaded_whole(hub: Hub) -> None:
    assert len(items(Cell("hellaswag", "zh"))) == 6
    assert all("/richmondsin/m_hellaswag/" in path for path in hub.asked)


def test_what_is_cached_is_used_offline(hub: Hub, offline: Callable[[], None]) -> None:
    before = items()
    hub.asked.clear()
    offline()
    assert items() == before
    assert hub.asked == []
    told = refusal(source_of(Cell("arc_challenge", "zh")))
    assert "alexandrainst/m_arc (zh) at 69b0991e is not in the hub's cache" in told
    assert "and offline mode is on; see http" in told and "benchmark.path: hf download --repo-type dataset" in told
    assert "is not in the hub's cache" in refusal(source_of(Cell("global_mmlu", "de")))


def blob(cache: Path, hub: Hub, name: str) -> Path:
    """Return the cached file of a data set's file, found by its digest as the cache's layout says."""
    content = (hub.folder / source_of(ARC).repository / name).read_bytes()
    digest = hashlib.sha256(content).hexdigest() if name.endswith(LARGE) else git_sha1(content)
    return cache / "datasets--alexandrainst--m_arc" / "blobs" / digest


def forget_listings(cache: Path) -> None:
    """Leave the cache as an older huggingface_hub did, without listings: a file's own name is its digest."""
    huggingface_hub._tree_cache._IN_MEMORY_TREE_CACHE.clear()
    for path in (cache / "datasets--alexandrainst--m_arc" / "trees").iterdir():
        path.unlink()


def test_an_older_cache_is_used_without_asking(hub: Hub, cache: Path) -> None:
    before = items()
    forget_listings(cache)
    hub.asked.clear()
    assert items() == before
    assert hub.asked == []


@pytest.mark.parametrize("name", ["data/de/train.jsonl", "README.md"])
@pytest.mark.parametrize("listed", [True, False], ids=["listing", "name"])
def test_a_damaged_file_is_refused_until_it_is_deleted(hub: Hub, cache: Path, name: str, listed: bool) -> None:
    before = items()
    if not listed:
        forget_listings(cache)
    file = blob(cache, hub, name)
    content = file.read_bytes()
    file.write_bytes(content.replace(b"s", b"S", 1))
    told = refusal()
    assert told.startswith(f"{file.resolve()} is damaged ({name} of alexandrainst/m_arc (de) at 69b0991e)")
    assert told.endswith("delete it and run again; it will be downloaded again")
    file.unlink()
    hub.asked.clear()
    assert items() == before
    assert downloaded(hub) == [name]
    assert file.read_bytes() == content


def test_a_file_that_was_changed_on_its_way_is_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Answer.answer

    def forged(self: Answer, status: int, content: bytes, *rest: Any, **options: Any) -> None:
        file = self.command == "GET" and self.path.endswith("de/test.jsonl")
        honest(self, status, content.replace(b"M", b"N") if file else content, *rest, **options)

    monkeypatch.setattr(Answer, "answer", forged)
    assert (
        "data/de/test.jsonl of alexandrainst/m_arc (de) at 69b0991e): its content is not that of its digest"
        in refusal()
    )


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "GatedRepo", "is gated: accept its licence on the hub"),
        (401, "GatedRepo", "run `hf auth login`"),
        (404, "RepoNotFound", "is not on the hub"),
        (401, "RepoNotFound", "(or is private: set HF_TOKEN)"),
        (404, "RevisionNotFound", "has no revision '69b0991e"),
        (418, "", "the hub cannot be reached and its cache does not hold it ("),
    ],
)
def test_what_the_hub_refuses(hub: Hub, status: int, code: str, expected: str) -> None:
    hub.refused = (status, code)
    told = refusal()
    assert told.startswith("alexandrainst/m_arc (de) at 69b0991e")
    assert expected in told


def test_a_download_that_broke_off_goes_on(hub: Hub) -> None:
    hub.lost = "data/de/test.jsonl"
    assert "the hub cannot be reached" in refusal()
    hub.lost = ""
    hub.asked.clear()
    assert len(items()) == 3
    assert "data/de/test.jsonl" in downloaded(hub)
    assert "README.md" not in downloaded(hub)


def test_a_hub_that_cannot_be_reached(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its attempts
    hub.shutdown()
    hub.server_close()
    told = refusal()
    assert "alexandrainst/m_arc (de) at 69b0991e: the hub cannot be reached and its cache does not hold it (" in told
    assert "or name the folder of a mirror by benchmark.path: hf download" in told


def test_a_script_is_refused_before_anything_else_is_downloaded(hub: Hub) -> None:
    folder = hub.folder / source_of(ARC).repository
    (folder / "README.md").write_text("Read by a script.\n")
    (folder / "m_arc.py").write_text("raise RuntimeError\n")
    assert "is read by a script, m_arc.py" in refusal()
    assert downloaded(hub) == ["README.md", "m_arc.py"]
