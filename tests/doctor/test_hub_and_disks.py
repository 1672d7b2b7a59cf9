"""The examination of the hub, against one on this machine, and of the disks."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from registry.config.files import load_study
from registry.config.study import BaseSpec, Study
from registry.doctor.findings import Finding, Level
from registry.doctor.hub import check_disks, check_hub
from registry.models.base import resolve_base
from registry.models.loading import load_base
from registry.planning.outline import outline
from tests.fake_hub import FakeHub, Repository, fake_hub, unreachable


@pytest.fixture
def hub(tmp_path: Path, base):
    with fake_hub(tmp_path) as served:
        served.repositories["mine/tiny"] = Repository.of(base)
        served.repositories["mine/gated"] = Repository.of(base, gated=True)
        served.repositories["mine/pickled"] = Repository({"config.json": b"{}", "pytorch_model.bin": b"x"})
        yield served


def of(*names: str) -> Study:
    return load_study("demo", models=[BaseSpec(name=name) for name in names], seeds=(17,))


def seen(*names: str) -> list[Finding]:
    return [finding for finding in check_hub(of(*names)) if not finding.text.startswith("cache ")]


def test_built_in_bases_ask_nothing_of_the_hub(hub: FakeHub) -> None:
    (found,) = check_hub(of("demo-wide"))
    assert found.level is Level.GOOD
    assert hub.asked == []


def test_what_is_to_be_downloaded_is_told_and_what_is_cached(hub: FakeHub) -> None:
    assert "GB are to be downloaded" in seen("mine/tiny")[0].text
    assert hub.downloads() == set()
    load_base(resolve_base(BaseSpec(name="mine/tiny")), dtype=torch.float32, device="cpu")
    with unreachable(hub.cache.parent):  # the cache lies there still
        (found,) = seen("mine/tiny")
    assert (found.level, found.text) == (Level.GOOD, "mine/tiny is in the cache")


@pytest.mark.parametrize(
    ("name", "told", "remedy"),
    [
        ("mine/gated", "mine/gated is gated, and not open to you", "accept its licence at"),
        ("mine/pickled", "mine/pickled has no *.safetensors on the hub", "save_pretrained()"),
        ("mine/tyni", "mine/tyni", "correct the model's name"),
    ],
)
def test_a_base_that_cannot_be_had_is_told(hub: FakeHub, name: str, told: str, remedy: str) -> None:
    (found,) = seen(name)
    assert found.level is Level.WRONG
    assert told in found.text
    assert remedy in found.remedy


def test_a_hub_that_is_away_is_asked_once(tmp_path: Path) -> None:
    with unreachable(tmp_path):
        found = seen("mine/tiny", "mine/other")
    assert [finding.level for finding in found] == [Level.WRONG] * 2
    assert all("is not in the cache, and the hub is not asked" in finding.text for finding in found)


def test_a_disk_too_small_for_the_study_is_told(tmp_path: Path, monkeypatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(5 * 10**9))
    paper = load_study("paper")
    store, _ = check_disks(f"sqlite:///{tmp_path}/mlflow.db", outline(paper))
    assert store.level is Level.WRONG
    assert store.text.startswith(f"store: 5.0 GB are free at {tmp_path}, the study still needs about ")
    assert "MLFLOW_TRACKING_URI" in store.remedy
    small, _ = check_disks(f"sqlite:///{tmp_path}/mlflow.db", outline(load_study("demo")))
    assert small.level is Level.GOOD
