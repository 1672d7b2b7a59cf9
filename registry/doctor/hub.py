"""The hub and the disks: can a study's base models be downloaded, and is there room for what the study needs?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from registry.config.study import BaseSpec, Study
from registry.doctor.findings import Finding, good, note, wrong
from registry.doctor.records import with_progress
from registry.errors import Refused
from registry.models.base import base_folder
from registry.models.hub import GatedRepository, HubUnavailable, cached_weights, listing
from registry.planning.forecast import sizes_of, store_bytes
from registry.planning.outline import Outline
from registry.tracking.store import sqlite_file

__all__ = ["check_disks", "check_hub"]

_LITTLE = 2e9  # free bytes below which a disk is reported as nearly full


def check_hub(study: Study | None, *, named: str = "") -> Iterator[Finding]:
    """See that the hub hands out every base of a study, or that its cache holds them.

    Parameters
    ----------
    named : str
        The study that was asked for, where it has no file.
    """
    from huggingface_hub import constants, get_token

    token = "a token is set" if get_token() else "no token is set, which only gated and private models need"
    bases = [spec for spec in study.models if base_folder(spec) is None] if study else []
    if not bases:
        without = f"{named!r} has no study file, its bases are not known" if named else "no study is named"
        of = f"the bases of {study.name!r} lie on this machine" if study else without
        yield good(f"{of}: the hub was not asked; {token}")
        return
    yield note(
        f"cache {constants.HF_HUB_CACHE}; {token}{'; offline mode is on' if constants.is_offline_mode() else ''}"
    )
    cached = {spec.name for spec in bases if cached_weights(spec.name, spec.revision)}
    away = ""
    for spec in with_progress(bases, "asking the hub"):
        if not away:
            try:
                yield _base(spec, cached=spec.name in cached)
                continue
            except HubUnavailable as error:
                away = error.reason
        if spec.name in cached:
            yield good(f"{spec.name} is in the cache")
        else:
            remedy = "connect this machine, or copy the model into the cache (HF_HOME names another)"
            yield wrong(f"{spec.name} is not in the cache, and the hub is not asked: {away}", remedy)


def _base(spec: BaseSpec, *, cached: bool) -> Finding:
    """Ask the hub for one base.

    Raises
    ------
    HubUnavailable
        If the hub does not answer.
    """
    try:
        listed = listing(spec.name, spec.revision)
    except HubUnavailable:
        raise
    except GatedRepository:
        if cached:
            return good(f"{spec.name} is gated and in the cache")
        remedy = f"accept its licence at https://huggingface.co/{spec.name}, then hf auth login"
        return wrong(f"{spec.name} is gated, and not open to you", remedy)
    except Refused as error:
        return wrong(str(error), "correct the model's name or revision in the study file")
    if not listed.weights:
        return wrong(f"{spec.name} has no *.safetensors on the hub", "convert its weights with save_pretrained()")
    missing = sum(listed.missing.values())
    return good(f"{spec.name}: {f'{missing / 1e9:.1f} GB are to be downloaded' if missing else 'in the cache'}")


def check_disks(uri: str, outline: Outline | None) -> Iterator[Finding]:
    """Compare what is free on the disks of the store and of the hub's cache with what a study still needs."""
    from huggingface_hub import constants

    file = sqlite_file(uri)
    if file is not None:
        needed = 0
        if outline is not None:
            sizes = {spec.name: sizes_of(spec, outline.study) for spec in outline.study.models}
            needed = sum(store_bytes(outline, sizes))
        yield _disk("store", file.parent, needed, "MLFLOW_TRACKING_URI")
    yield _disk("hub's cache", Path(constants.HF_HUB_CACHE).expanduser(), 0, "HF_HOME")


def _disk(what: str, folder: Path, needed: int, elsewhere: str) -> Finding:
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    text = f"{what}: {free / 1e9:.1f} GB are free at {folder}"
    text += f", the study still needs about {needed / 1e9:.2f} GB there" if needed else ""
    if free < needed or (free < _LITTLE and os.access(there, os.W_OK)):
        return wrong(text, f"free some, or set {elsewhere} to another disk")
    return good(text)
