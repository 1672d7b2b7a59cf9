"""A pulled folder is what was trained, whole or not there at all, and never in the way of something else."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from peft import PeftModel

from registry.deploy import pull as pulling
from registry.deploy.folder import placed
from registry.deploy.pull import default_folder, pull
from registry.lora.bank import Bank, put_on
from registry.project import PROJECT
from registry.refusal import Refused
from tests.deploy.conftest import logits

NAME = "tiny--pair--tr"
FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors", "pulled.json"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def there(register, chosen):
    """One registered version, chosen."""
    register()
    return chosen(name=NAME)


def test_peft_computes_with_the_pulled_folder_what_the_trained_adapter_does(
    client, there, make_adapter, make_llama, tmp_path: Path
) -> None:
    model = make_llama()
    with put_on(model, Bank(model, [make_adapter(17)])):
        expected = logits(model)
    assert not torch.allclose(logits(model), expected, atol=0.1)
    pulled = pull(client, there, tmp_path / "a" / "adapter")
    assert names(pulled.folder) == FILES
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["adapter"]
    loaded = PeftModel.from_pretrained(make_llama(), str(pulled.folder))
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-5, atol=1e-5)


def test_without_a_place_name_and_version_are_the_place(there) -> None:
    assert default_folder(there, None) == Path(f"adapters/{NAME}/1")
    assert default_folder(there, "bfloat16") == Path(f"adapters/{NAME}/1-bfloat16")


def test_a_folder_is_readable_by_whoever_may_read_the_place(client, there, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        folder = pull(client, there, tmp_path / "adapter").folder
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in folder.iterdir())


def test_an_equal_folder_is_kept_without_a_download(client, there, tmp_path: Path, monkeypatch) -> None:
    pull(client, there, tmp_path / "adapter")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "adapter").iterdir()}
    monkeypatch.setattr(pulling, "download_adapter", None)
    again = pull(client, there, tmp_path / "adapter")
    assert (again.kept, again.refreshed) == (True, False)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "adapter").iterdir()} == before


def test_a_kept_folders_card_tells_an_evaluation_that_came_later(client, there, evaluate, tmp_path: Path) -> None:
    card = pull(client, there, tmp_path / "adapter").folder / "README.md"
    assert "no evaluation had finished" in card.read_text()
    evaluate(there.adapter, {"pair/tr": 9.0, "kind/tr": -1.5})
    again = pull(client, there, tmp_path / "adapter")
    assert (again.kept, again.refreshed) == (True, True)
    assert "`kind/tr` -1.50" in card.read_text()
    card.write_text("mine")
    evaluate(there.adapter, {"pair/tr": 8.0})
    assert not pull(client, there, tmp_path / "adapter").refreshed
    assert card.read_text() == "mine"


def test_a_different_folder_is_replaced_only_when_asked(client, register, chosen, tmp_path: Path) -> None:
    register(17)
    register(42)
    target = tmp_path / "adapter"
    pull(client, chosen(name=NAME, version="1"), target)
    old = (target / "adapter_model.safetensors").read_bytes()
    with pytest.raises(Refused, match=rf"holds something else than models:/{NAME}/2.*overwrite=true"):
        pull(client, chosen(name=NAME, version="2"), target)
    assert (target / "adapter_model.safetensors").read_bytes() == old
    assert not pull(client, chosen(name=NAME, version="2"), target, overwrite=True).kept
    assert (target / "adapter_model.safetensors").read_bytes() != old
    assert names(tmp_path) == ["adapter"]


def test_a_folder_that_was_changed_is_another(client, there, tmp_path: Path) -> None:
    target = pull(client, there, tmp_path / "adapter").folder
    for name, content in (
        ("adapter_model.safetensors", b" "),
        ("adapter_config.json", b"{}"),
        ("tokenizer.json", b"{}"),
        ("adapter_config.json", None),
    ):
        if content is None:
            (target / name).unlink()
        else:
            (target / name).write_bytes(content)
        with pytest.raises(Refused, match="or was changed"):
            pull(client, there, target)
        assert not pull(client, there, target, overwrite=True).kept
        assert names(target) == FILES


def test_what_was_not_pulled_is_never_replaced(client, there, tmp_path: Path) -> None:
    mine = tmp_path / "home"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years")
    with pytest.raises(Refused, match="holds something that was not pulled"):
        pull(client, there, mine, overwrite=True)
    assert names(mine) == ["thesis.txt"]


def test_an_empty_folder_is_filled(client, there, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    assert names(pull(client, there, tmp_path / "adapter").folder) == FILES


def test_a_file_in_the_way_is_told(client, there, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(Refused, match=rf"{tmp_path / 'file'} is a file"):
            pull(client, there, target, overwrite=True)


def assert_nothing_is_left(folder: Path) -> None:
    assert list(folder.iterdir()) == []


def test_changed_weights_are_refused(client, there, stored, tmp_path: Path) -> None:
    (file,) = stored("adapter_model.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(Refused, match=r"its weights have SHA-256 .* was recorded"):
        pull(client, there, tmp_path / "made" / "here")
    assert_nothing_is_left(tmp_path)


def test_a_changed_configuration_is_refused(client, there, stored, tmp_path: Path) -> None:
    (file,) = stored("adapter_config.json")
    config = json.loads(file.read_text())
    for key in ("r", "lora_alpha"):
        file.write_text(json.dumps(config | {key: 2 * config[key]}))
        with pytest.raises(Refused, match=rf"says {key} .* was recorded"):
            pull(client, there, tmp_path / "made")
        assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("gone", ["adapter_model.safetensors", "adapter_config.json", "MLmodel", "everything"])
def test_artifacts_that_were_deleted_are_told(client, there, stored, tmp_path: Path, gone: str) -> None:
    (file,) = stored("MLmodel" if gone == "everything" else gone)
    if gone == "everything":
        shutil.rmtree(file.parent)
    else:
        file.unlink()
    with pytest.raises(Refused, match=rf"models:/{NAME}/1.* gone from the (artifact )?store"):
        pull(client, there, tmp_path / "made")
    assert_nothing_is_left(tmp_path)


def test_a_version_deleted_meanwhile_is_told(client, there, tmp_path: Path) -> None:
    client.delete_model_version(NAME, "1")
    with pytest.raises(Refused, match="gone from the store"):
        pull(client, there, tmp_path / "made")
    assert_nothing_is_left(tmp_path)


def test_an_alias_that_moves_meanwhile_is_told(client: MlflowClient, register, chosen, tmp_path: Path) -> None:
    register(17)
    register(42)
    client.set_registered_model_alias(NAME, "champion", "1")
    before = chosen(name=NAME, version="champion")
    assert pull(client, before, tmp_path / "first").folder.is_dir()
    client.set_registered_model_alias(NAME, "champion", "2")
    with pytest.raises(Refused, match=r"alias 'champion'.* moved from version 1 to 2 meanwhile"):
        pull(client, before, tmp_path / "second")
    client.delete_registered_model_alias(NAME, "champion")
    with pytest.raises(Refused, match="no alias 'champion'"):
        pull(client, before, tmp_path / "third")
    assert names(tmp_path) == ["first"]


def test_a_full_disk_is_told_and_leaves_nothing(client, there, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for place, name in ((mlflow.artifacts, "download_artifacts"), (Path, "write_text"), (Path, "rename")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            with pytest.raises(Refused, match=r"the disk of .* is full \(\d+ MB free\); nothing was kept"):
                pull(client, there, tmp_path / "made" / "here")
        assert_nothing_is_left(tmp_path)


def test_an_interruption_leaves_what_was_there(client, there, tmp_path: Path, monkeypatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    target = pull(client, there, tmp_path / "adapter").folder
    (target / "more.txt").write_text("")
    before = names(target)
    monkeypatch.setattr(pulling, "seal", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pull(client, there, target, overwrite=True)
    assert names(target) == before
    assert names(tmp_path) == ["adapter"]


def test_a_failed_exchange_puts_the_old_folder_back(tmp_path: Path, monkeypatch) -> None:
    target = tmp_path / "adapter"
    target.mkdir()
    (target / "old").write_text("")
    rename = Path.rename

    def failing(self: Path, other: Path) -> Path:
        if other == target and not self.name.endswith(".old"):
            raise PermissionError(errno.EACCES, "no")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(PermissionError), placed(target) as new:
        (new / "new").write_text("")
    assert names(target) == ["old"]
    assert names(tmp_path) == ["adapter"]


KILLED = """
import sys, time
from pathlib import Path
from registry.deploy.folder import placed
with placed(Path(sys.argv[1])) as new:
    (new / "half").write_text("")
    print("there", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_gone_with_the_next_one(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    process = subprocess.Popen([sys.executable, "-c", KILLED, target], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not target.exists()
    assert len(list(tmp_path.iterdir())) == 1
    with placed(target) as new:
        (new / "whole").write_text("")
    assert names(tmp_path) == ["adapter"]
    assert names(target) == ["whole"]


def test_two_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    with placed(target) as first, placed(tmp_path / "other") as second:
        (first / "a").write_text("")
        (second / "b").write_text("")
    assert (names(target), names(tmp_path / "other")) == (["a"], ["b"])
