"""A folder on the hub is what it is here, in one commit; what the hub says no to is explained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.deploy.folder import Identity, write_manifest
from registry.deploy.push import check_repository, push
from registry.errors import Refused
from tests.deploy.upload_hub import UploadHub, upload_hub
from tests.fake_hub import unreachable


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[UploadHub]:
    with upload_hub(tmp_path / "cache") as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "adapter"
    made.mkdir()
    (made / "README.md").write_text("---\nlicense: apache-2.0\n---\n# x\n")
    (made / "adapter_config.json").write_text("{}")
    (made / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 40)
    (made / "pulled.json").write_text("{}")
    return made


@pytest.mark.parametrize("private", [True, False])
def test_a_new_repository_holds_the_folder(hub: UploadHub, folder: Path, monkeypatch, private: bool) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    address = push(folder, "me/adapter", private=private)
    assert address.startswith(f"{hub.address}/me/adapter/commit/")
    wanted = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "pulled.json"}
    assert hub.repositories == {"me/adapter": wanted}
    assert hub.visibility == {"me/adapter": "private" if private else "public"}
    assert hub.commits == 1


def test_a_repository_that_is_there_gets_another_commit_and_stays_as_visible_as_it_is(hub, folder, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    push(folder, "me/adapter", private=False)
    (folder / "adapter_config.json").write_text('{"r": 8}')
    push(folder, "me/adapter", private=True)
    assert hub.repositories["me/adapter"]["adapter_config.json"] == b'{"r": 8}'
    assert (hub.visibility["me/adapter"], hub.commits) == ("public", 2)


def test_what_others_put_into_a_pulled_folder_is_not_uploaded(hub, folder, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    (folder / "pulled.json").unlink()
    write_manifest(folder, Identity("models:/adapter/1", "0" * 64))
    (folder / ".env").write_text("SECRET=1")
    (folder / ".ssh").mkdir()
    (folder / ".ssh" / "id_rsa").write_text("a key")
    push(folder, "me/adapter", private=True)
    assert set(hub.repositories["me/adapter"]) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize(
    ("token", "told"),
    [
        (None, r"does not accept the token \(HTTP 401\); make a token with write access"),
        ("hf_read", r"does not let this token write there \(HTTP 403\)"),
    ],
)
def test_a_token_that_will_not_do_is_explained(hub: UploadHub, folder: Path, monkeypatch, token, told: str) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(Refused, match=rf"push=me/adapter: .*{told}.*the folder stays in {folder}"):
        push(folder, "me/adapter", private=True)
    assert hub.repositories == {}


def test_a_broken_upload_commits_nothing(hub: UploadHub, folder: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.breaks = True
    with pytest.raises(Refused, match=r"push=me/adapter: the upload failed .*the folder stays"):
        push(folder, "me/adapter", private=True)
    assert (hub.repositories, hub.commits) == ({"me/adapter": {}}, 0)


def test_a_hub_out_of_reach_is_told(folder: Path, tmp_path: Path) -> None:
    with unreachable(tmp_path / "cache"), pytest.raises(Refused, match="push=me/adapter: the upload failed"):
        push(folder, "me/adapter", private=True)


@pytest.mark.parametrize("name", ["adapter", "a/b/c", "me/../x", "me/a b", "", "/etc"])
def test_what_is_no_repository_is_refused(name: str) -> None:
    with pytest.raises(Refused, match="push="):
        check_repository(name)
