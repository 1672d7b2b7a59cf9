"""Killed at any write, or out of disk at any write: a pulled folder is whole or absent, and the next pull is well."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from mlflow import MlflowClient

from registry.deploy.folder import Identity, is_same, refresh_card, replacing_folder, write_manifest
from registry.deploy.pull import pull
from registry.deploy.resolve import VersionQuery, choose
from registry.tracking.names import Tag
from registry.tracking.store import open_store
from tests.kill_at_write import Fault, kills, run_with_fault

NAME = "tiny--pair--tr"
FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors", "pulled.json"]


def pull_into(uri: str, target: Path, *, overwrite: bool = False) -> None:
    """Pull the newest version into a folder; what another process of a test does."""
    client = open_store(uri)
    pull(client, choose(client, VersionQuery(name=NAME)), target, overwrite=overwrite)


def pull_over(uri: str, target: Path) -> None:
    pull_into(uri, target, overwrite=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def is_whole(client: MlflowClient, target: Path, version: str) -> bool:
    digest = client.get_model_version(NAME, version).tags[Tag.DIGEST]
    return is_same(target, Identity(f"models:/{NAME}/{version}", digest)) and (target / "README.md").is_file()


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Where folders are pulled to, and a log outside it."""
    return tmp_path / "adapters", tmp_path / "log"


@pytest.mark.slow
@pytest.mark.parametrize("replacing", [False, True], ids=["a first pull", "a replacement"])
def test_killed_at_every_write_of_a_pull(client, uri, register, places, replacing: bool) -> None:
    register(17)
    above, log = places
    target = above / "adapter"
    if replacing:
        pull_into(uri, target)
        register(42)
    before = 0
    for number in kills(pull_over if replacing else pull_into, uri, target, under=above, log=log):
        versions = ("1", "2") if replacing else ("1",)
        whole = any(is_whole(client, target, version) for version in versions)
        assert whole or not target.exists(), f"killed at write {number}"
        before = number
    assert before > 8
    assert is_whole(client, target, "2" if replacing else "1")
    assert names(target) == FILES
    assert names(above) == ["adapter"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_disk_that_is_full_from_any_write_on_leaves_the_former_folder_or_none(
    client, uri, register, places, kind: str
) -> None:
    register(17)
    above, log = places
    target = above / "adapter"
    pull_into(uri, target)
    register(42)
    for number in range(1, 200):
        ending = run_with_fault(pull_over, uri, target, fault=Fault(kind, number, above), log=log)  # type: ignore[arg-type]
        if ending.code == 0:
            break
        assert "registry.errors.Refused: " in "\n".join(ending.printed.splitlines()[-2:]), ending.printed
        assert is_whole(client, target, "1") or is_whole(client, target, "2") or not target.exists()
    assert number > 8
    assert is_whole(client, target, "2")


@pytest.mark.slow
def test_killed_while_a_card_is_replaced(client, uri, register, evaluate, places) -> None:
    adapter = register()
    above, log = places
    target = above / "adapter"
    pull_into(uri, target)
    evaluate(adapter, {"pair/tr": 9.0})
    struck = list(kills(pull_into, uri, target, under=above, log=log))
    assert len(struck) > 2
    assert is_whole(client, target, "1")
    assert "`pair/tr`" in (target / "README.md").read_text()
    evaluate(adapter, {"pair/tr": 8.0})
    assert refresh_card(target, "the next one")  # it still counts as pulled, not as edited


def test_what_was_being_replaced_goes_only_once_there_is_something_new(tmp_path: Path) -> None:
    left = tmp_path / f".pulling-{socket.gethostname()}-{2**22 + 5}-01234567.old"
    left.mkdir()
    with pytest.raises(KeyboardInterrupt), replacing_folder(tmp_path / "adapter"):
        raise KeyboardInterrupt
    assert left.is_dir()
    with replacing_folder(tmp_path / "adapter") as new:
        write_manifest(new, Identity("models:/x/1", "0"))
    assert names(tmp_path) == ["adapter"]


def test_what_a_killed_replacement_left_is_removed_by_a_pull_that_finds_the_folder_whole(
    client, uri, register, places
) -> None:
    register()
    target = places[0] / "adapter"
    pull_into(uri, target)
    for suffix in ("", ".old"):
        (places[0] / f".pulling-{socket.gethostname()}-{2**22 + 5}-01234567{suffix}").mkdir()
    pull_into(uri, target)
    assert names(places[0]) == ["adapter"]
