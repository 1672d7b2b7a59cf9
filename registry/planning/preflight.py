"""What a study needs of the hub, the disk and the memory, asked for before anything is downloaded or trained.

A run over days must not end in the third night because the licence of its ninth base was never accepted.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from registry.config.study import BaseSpec, Study
from registry.errors import Refused
from registry.models.base import base_folder, skeleton_of
from registry.models.catalogue import PAPER
from registry.models.hub import GatedRepository, HubUnavailable, cached_weights, listing
from registry.models.memory import require_memory
from registry.planning.forecast import sizes_of, store_bytes
from registry.planning.outline import NOTHING, Outline
from registry.recipes.maker import maker_of
from registry.tracking.store import sqlite_file, tracking_uri

__all__ = ["preflight"]


@dataclass
class _Access:
    """What the hub says of bases: why it does not hand some out, and how many bytes the cache lacks."""

    gated: list[str] = field(default_factory=list)
    out_of_reach: list[str] = field(default_factory=list)
    reason: str = ""
    others: dict[str, str] = field(default_factory=dict)
    downloads: dict[str, int] = field(default_factory=dict)

    def refuses(self, name: str) -> bool:
        """Whether a base's configuration cannot be had."""
        return name in {*self.gated, *self.out_of_reach, *self.others}

    def problems(self) -> list[str]:
        """Return a line for each kind of refusal."""
        found = list(self.others.values())
        if self.gated:
            found.append(
                f"gated, and not open to you: {', '.join(self.gated)}; accept each model's licence on its page of the "
                "hub, then run `hf auth login`, or set HF_TOKEN, with a token of that account"
            )
        if self.out_of_reach:
            found.append(
                f"the hub cannot be reached ({self.reason}), and its cache does not hold: "
                f"{', '.join(self.out_of_reach)}; connect this machine, or copy the models into the cache"
            )
        return found


def preflight(outline: Outline) -> None:
    """Refuse a study that cannot be carried out here, every reason at once.

    Asked are whether the hub hands out every base that has something left to do, whether what the cache lacks and what
    the store will hold fit on their disks, and whether every base fits into memory. Downloaded are configurations of a
    few kilobytes, of bases that are not in the catalogue.

    Raises
    ------
    Refused
        With a line for each problem, and what to do about it.
    """
    study = outline.study
    models = [spec for spec in study.models if outline.left(spec.name) != NOTHING]
    if not models:
        return
    access = _access([spec for spec in models if base_folder(spec) is None])
    problems = [
        *access.problems(),
        *_disk(_needed(outline, models, access.downloads)),
        *_memory(study, [spec for spec in models if spec.name in PAPER or not access.refuses(spec.name)]),
    ]
    if problems:
        count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
        raise Refused("\n  - ".join([f"study {study.name!r} cannot run here, {count}:", *problems]))


def _access(specs: Iterable[BaseSpec]) -> _Access:
    found = _Access()
    for spec in specs:
        cached = bool(cached_weights(spec.name, spec.revision))
        try:
            if found.reason:  # one time-out is enough
                raise HubUnavailable(found.reason, reason=found.reason)
            listed = listing(spec.name, spec.revision)
        except GatedRepository:
            if not cached:
                found.gated.append(spec.name)
                found.downloads[spec.name] = _expected_bytes(spec)
        except HubUnavailable as error:
            found.reason = error.reason
            if not cached:
                found.out_of_reach.append(spec.name)
        except Refused as error:
            found.others[spec.name] = str(error)
        else:
            found.downloads[spec.name] = sum(listed.missing.values())
            if not listed.weights:
                found.others[spec.name] = (
                    f"model {spec.name!r} has no *.safetensors on the hub; convert its weights with save_pretrained() "
                    "and name the folder by path"
                )
    return found


def _expected_bytes(spec: BaseSpec) -> int:
    """Bytes of a base's weights by the catalogue or the size that the study gives, else 0."""
    return PAPER[spec.name].download_bytes if spec.name in PAPER else round(2e9 * (spec.size_b or 0))


@dataclass(frozen=True, slots=True)
class _Need:
    """Bytes that will be written below a folder, what they are, and how to put them elsewhere."""

    folder: Path
    size: int
    what: str
    elsewhere: str


def _needed(outline: Outline, models: Iterable[BaseSpec], downloads: Mapping[str, int]) -> list[_Need]:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE).expanduser()
    needs = [_Need(cache, sum(downloads.values()), "of models in the hub's cache", "HF_HOME")]
    store = sqlite_file(tracking_uri())
    if store is not None:  # a server keeps its artifacts where it likes
        sizes = {spec.name: sizes_of(spec, outline.study) for spec in models}
        adapters, outcomes = store_bytes(outline, sizes)
        what = "of adapters and outcomes in the store"
        needs.append(_Need(store.parent / "mlartifacts", adapters + outcomes, what, "MLFLOW_TRACKING_URI"))
    return [need for need in needs if need.size]


def _disk(needs: Iterable[_Need]) -> list[str]:
    """Say which disks are too small; what goes to one disk is added up."""
    disks: dict[int, list[_Need]] = {}
    for need in needs:
        disks.setdefault(_existing(need.folder).stat().st_dev, []).append(need)
    return [problem for together in disks.values() if (problem := _too_small(together))]


def _too_small(needs: Sequence[_Need]) -> str:
    needed, free = sum(need.size for need in needs), shutil.disk_usage(_existing(needs[0].folder)).free
    if needed <= free:
        return ""
    parts = " and ".join(f"{need.size / 1e9:.1f} GB {need.what} ({need.folder})" for need in needs)
    remedy = " or ".join(need.elsewhere for need in needs)
    shortage = f"not enough disk: {parts} are needed, {free / 1e9:.1f} GB are free"
    return f"{shortage}; free some, or set {remedy} to another disk"


def _existing(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that is there."""
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def _memory(study: Study, specs: Iterable[BaseSpec]) -> list[str]:
    import torch

    from registry.models.loading import dtype_of

    dtype = dtype_of(study.recipe.precision)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = []
    for spec in specs:
        try:
            model = skeleton_of(spec, trust_remote_code=study.trust_remote_code)
            require_memory(
                model, spec.name, dtype=dtype, device=device, placement=study.placement, quantization=study.quantization
            )
            torch.nn.Module.to(model, dtype)
            maker_of(study).require_memory(model, spec.name, device=device)
        except Refused as error:
            found.append(str(error))
    return found
