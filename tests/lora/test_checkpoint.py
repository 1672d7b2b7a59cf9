"""A checkpoint is whole and as it was written, or the training starts again: no other number comes of a bad disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from registry.lora import checkpoint
from registry.lora.checkpoint import read_checkpoint, write_checkpoint

LOG = {"losses": [0.1 + 0.2, 1e-300], "epochs": 1, "scaler": {}}
TENSORS = {"weight/0": torch.tensor([[1.5, -0.0], [float("nan"), 3e38]]), "step/0": torch.tensor(7.0)}


def same(found: tuple[dict[str, Tensor], dict[str, object]] | None) -> bool:
    if found is None:
        return False
    tensors, log = found
    bits = {name: tensor.reshape(-1).view(torch.uint8).tolist() for name, tensor in tensors.items()}
    expected = {name: tensor.reshape(-1).view(torch.uint8).tolist() for name, tensor in TENSORS.items()}
    return bits == expected and log == LOG


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "training" / f"{0:064x}.safetensors"
    write_checkpoint(path, TENSORS, LOG)
    return path


def test_it_comes_back_to_the_bit(file: Path) -> None:
    assert same(read_checkpoint(file))
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_none_that_is_there_is_none(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path / "one.safetensors") is None


def test_a_flipped_bit_anywhere_gives_the_same_or_none(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, refused = file.read_bytes(), 0
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << (place % 8)
        file.write_bytes(content)
        found = read_checkpoint(file)
        refused += found is None
        assert found is None or same(found)
    assert refused > 0.9 * len(whole)
    assert "does not count" in caplog.text
    assert "the training starts again" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\0" * 100, None], ids=["empty", "zeros", "half"])
def test_a_torn_file_is_none(file: Path, content: bytes | None) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert read_checkpoint(file) is None


def test_another_trainings_file_is_none(file: Path) -> None:
    other = file.with_name(f"{1:064x}.safetensors")
    file.rename(other)
    assert read_checkpoint(other) is None


def test_one_without_a_checksum_is_none_and_that_is_said(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file(load_file(file), file, metadata={"log": "{}"})
    assert read_checkpoint(file) is None
    assert "without a checksum" in caplog.text


def test_a_full_disk_is_said_and_leaves_the_former_one(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    write_checkpoint(file, {}, {"losses": []})
    assert same(read_checkpoint(file))
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert "No space left on device; a training that is interrupted will start again" in caplog.text


def test_what_a_killed_process_was_writing_is_removed_and_what_a_living_one_writes_is_not(file: Path) -> None:
    dead, alive = (file.with_suffix(f".{pid}.part") for pid in (2**22 + 5, os.getppid()))
    for left in (dead, alive):
        left.write_bytes(b"half")
    write_checkpoint(file, TENSORS, LOG)
    assert sorted(path.name for path in file.parent.iterdir()) == sorted([file.name, alive.name])
