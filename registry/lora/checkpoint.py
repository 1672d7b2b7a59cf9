"""A training's state in a file that is whole, of that training and as it was written, or does not count."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["read_checkpoint", "write_checkpoint"]

_log = logging.getLogger(__name__)

_LOG, _DIGEST = "log", "sha256"
_MALFORMED = (OSError, ValueError, KeyError, TypeError, SafetensorError, RecursionError)


def write_checkpoint(file: Path, tensors: Mapping[str, Tensor], log: Mapping[str, Any]) -> None:
    """Replace a checkpoint; one that cannot be written is logged, as a full disk must not cost the training itself.

    Parameters
    ----------
    tensors
        On any device.
    log
        What JSON can hold.
    """
    unfinished = file.with_suffix(f".{os.getpid()}.part")
    found, text = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, json.dumps(log)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _sweep(file)
        save_file(found, unfinished, metadata={_LOG: text, _DIGEST: _digest(file, found, text)})
        unfinished.replace(file)
    except (OSError, SafetensorError) as error:
        unfinished.unlink(missing_ok=True)
        _log.warning("%s: %s; a training that is interrupted will start again", file, error)


def read_checkpoint(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return a checkpoint's tensors and log; None if there is none, or none that can be trusted, which is logged."""
    if not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as saved:
            about = saved.metadata() or {}
            tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
        if about.get(_DIGEST) == _digest(file, tensors, about[_LOG]):
            log: dict[str, Any] = json.loads(about[_LOG])
            return tensors, log
        reason = "its checksum is another" if _DIGEST in about else "an earlier version wrote it without a checksum"
    except _MALFORMED as error:
        reason = f"cannot be read: {str(error)[:200]}"
    _log.warning("%s does not count (%s): the training starts again", file, reason)
    return None


def _digest(file: Path, tensors: Mapping[str, Tensor], log: str) -> str:
    """SHA-256 over the name of the training, its log, and every tensor's name, type, shape and bits."""
    found = hashlib.sha256(f"{file.stem}\n{log}\n".encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _sweep(file: Path) -> None:
    """Remove what processes were writing when they were killed."""
    for left in file.parent.glob(f"{file.stem}.*.part"):
        pid = left.name.removeprefix(f"{file.stem}.").removesuffix(".part")
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            left.unlink(missing_ok=True)
