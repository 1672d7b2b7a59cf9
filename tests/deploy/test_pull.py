"""A pulled folder is what was trained, whole or not there at all, and never in the way of something else."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from peft import PeftModel

from registry.deploy import folder as folder_module
from registry.deploy import pull as pulling
from registry.deploy.folder import replacing_folder
from registry.deploy.promotion import weights_problem
from registry.deploy.pull import default_folder, pull
from registry.errors import Refused
from registry.lora.bank import Bank, put_on
from registry.paths import PROJECT
from registry.tracking.names import Tag
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


def test_the_configuration_is_written_anew_from_what_a_study_decides(client, there, tmp_path: Path) -> None:
    config = json.loads((pull(client, there, tmp_path / "adapter").folder / "adapter_config.json").read_text())
    assert sorted(config) == [
        "base_model_name_or_path", "bias", "inference_mode", "init_lora_weights", "lora_alpha", "lora_dropout",
        "megatron_core", "peft_type", "qalora_group_size", "r", "revision", "target_modules", "task_type",
    ]  # fmt: skip
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == ("tiny", 4, 8.0)


def age(client: MlflowClient) -> None:
    """Leave on record what a version of before there was a digest over all files has."""
    for tag in (Tag.DIGEST, Tag.FILES_DIGEST):
        client.delete_tag(client.get_model_version(NAME, "1").run_id, tag)
    client.delete_model_version_tag(NAME, "1", Tag.FILES_DIGEST)


FOREIGN = {
    "not JSON": ("adapter_config.json", lambda text: "{", "is not JSON"),
    "a class to import": (
        "adapter_config.json",
        lambda text: text.replace('"auto_mapping": null', '"auto_mapping": {"parent_library": "os"}'),
        "says 'auto_mapping'",
    ),
    "a foreign base": (
        "adapter_config.json",
        lambda text: text.replace('"tiny"', '"/home/eve/tiny"'),
        "a place on some machine",
    ),
    "a foreign loader": ("MLmodel", lambda text: text.replace("registry.serving", "os"), "names foreign code"),
    "no YAML": ("MLmodel", lambda text: "[", "MLmodel is not YAML"),
    "no metadata": ("MLmodel", lambda text: "flavors: {}", "MLmodel is not what a study"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_an_old_version_did_not_record_is_refused_where_it_is_foreign(
    client, register, chosen, stored, tmp_path: Path, kind: str
) -> None:
    register()
    age(client)
    before = chosen(name=NAME)
    assert not pull(client, before, tmp_path / "good").kept
    name, change, told = FOREIGN[kind]
    (file,) = stored(name)
    file.write_text(change(file.read_text()))
    with pytest.raises(Refused, match=rf"models:/{NAME}/1: .*{told}"):
        pull(client, before, tmp_path / "made")
    assert names(tmp_path) == ["good"]
    if name == "MLmodel":  # which is read for the card of a folder that is kept, too
        with pytest.raises(Refused, match=rf"models:/{NAME}/1: .*{told}"):
            pull(client, before, tmp_path / "good")


def test_a_foreign_configuration_in_a_folder_that_was_pulled_before_is_not_kept(client, there, tmp_path: Path) -> None:
    target = pull(client, there, tmp_path / "adapter").folder
    manifest, config = target / "pulled.json", target / "adapter_config.json"
    former = hashlib.sha256(config.read_bytes()).hexdigest()
    config.write_text(config.read_text().replace('"r": 4', '"modules_to_save": ["lm_head"], "r": 4'))
    manifest.write_text(manifest.read_text().replace(former, hashlib.sha256(config.read_bytes()).hexdigest()))
    with pytest.raises(Refused, match="holds something else"):
        pull(client, there, target)


def test_promotion_sees_what_pulling_sees(client, there, stored) -> None:
    assert weights_problem(client, there.adapter) == ""
    (file,) = stored("MLmodel")
    file.write_text(file.read_text().replace("registry.serving", "os"))
    assert "names foreign code to load it with ('os')" in weights_problem(client, there.adapter)


def test_a_version_whose_run_was_removed_is_pulled_and_that_is_said(
    client, there, tmp_path: Path, monkeypatch, caplog
) -> None:
    def removed(run_id: str) -> None:
        raise MlflowException(f"no run {run_id}", RESOURCE_DOES_NOT_EXIST)

    monkeypatch.setattr(client, "get_run", removed)
    assert pull(client, there, tmp_path / "adapter").folder.is_dir()
    assert "the run that trained it was removed; only its own tags say what it is" in caplog.text


def test_a_card_that_a_killed_process_half_replaced_is_brought_up_to_date(
    client, there, evaluate, tmp_path: Path, monkeypatch
) -> None:
    target = pull(client, there, tmp_path / "adapter").folder
    evaluate(there.adapter, {"pair/tr": 9.0})
    write = folder_module.write_text
    left: list[Callable[..., None]] = []

    def killed(*given: object) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()(*given)

    monkeypatch.setattr(folder_module, "write_text", killed)
    for writes in (0, 1):
        left[:] = [write] * writes
        with pytest.raises(KeyboardInterrupt):
            pull(client, there, target)
        (target / f".README.md.{socket.gethostname()}-{2**22 + 5}-01234567").write_text("half a")
    monkeypatch.setattr(folder_module, "write_text", write)
    again = pull(client, there, target)
    assert (again.kept, again.refreshed) == (True, True)
    assert "`pair/tr`" in (target / "README.md").read_text()
    assert not pull(client, there, target).refreshed
    assert names(target) == FILES


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
            with pytest.raises(Refused, match=r"(?s)nothing was kept: the disk is full.*\([\d,]+ MB free\)"):
                pull(client, there, tmp_path / "made" / "here")
        assert_nothing_is_left(tmp_path)


def test_an_interruption_leaves_what_was_there(client, there, tmp_path: Path, monkeypatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    target = pull(client, there, tmp_path / "adapter").folder
    (target / "more.txt").write_text("")
    before = names(target)
    monkeypatch.setattr(pulling, "write_manifest", interrupted)
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
    with pytest.raises(PermissionError), replacing_folder(target) as new:
        (new / "new").write_text("")
    assert names(target) == ["old"]
    assert names(tmp_path) == ["adapter"]


KILLED = """
import sys, time
from pathlib import Path
from registry.deploy.folder import replacing_folder
with replacing_folder(Path(sys.argv[1])) as new:
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
    with replacing_folder(target) as new:
        (new / "whole").write_text("")
    assert names(tmp_path) == ["adapter"]
    assert names(target) == ["whole"]


def test_two_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    with replacing_folder(target) as first, replacing_folder(tmp_path / "other") as second:
        (first / "a").write_text("")
        (second / "b").write_text("")
    assert (names(target), names(tmp_path / "other")) == (["a"], ["b"])
