"""The examination of packages and devices: what differs is named with the command that installs it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest
import torch
import yaml

from registry.doctor import environment
from registry.doctor.environment import check_devices, check_environment, pinned
from registry.doctor.examination import Examination, examine
from registry.doctor.findings import Finding, Level
from registry.paths import PROJECT

LISTED = yaml.safe_load((PROJECT / "conda.yaml").read_text(encoding="utf-8"))["dependencies"][-1]["pip"]


@pytest.fixture
def have(monkeypatch):
    """Have packages in other versions, or not at all."""

    def change(**others: str | None) -> None:
        def found(name: str) -> str:
            if name not in others:
                return version(name)
            if others[name] is None:
                raise PackageNotFoundError(name)
            return str(others[name])

        monkeypatch.setattr(environment, "version", found)

    return change


def faults() -> list[Finding]:
    return [finding for finding in check_environment() if finding.level is Level.WRONG]


def test_every_line_of_the_list_is_a_pin() -> None:
    assert len(pinned(LISTED)) == len(LISTED) > 8


def test_what_is_installed_here_is_what_the_list_says() -> None:
    assert faults() == []
    assert any(f"{len(LISTED)} packages, each as conda.yaml pins it" in found.text for found in check_environment())


def test_other_versions_and_missing_packages_are_named_with_one_command(have) -> None:
    have(peft="0.1.0", optuna=None)
    (found,) = faults()
    pins = pinned(LISTED)
    assert found.text == f"2 of {len(pins)} packages are not as conda.yaml pins them"
    assert set(found.places) == {
        f"peft is 0.1.0, pinned is {pins['peft']}",
        f"optuna is not installed, pinned is {pins['optuna']}",
    }
    assert found.remedy.startswith("python -m pip install ")
    assert {f"peft=={pins['peft']}", f"optuna=={pins['optuna']}"} <= set(found.remedy.split())


def test_a_build_for_one_kind_of_device_is_the_pinned_version(have) -> None:
    have(torch=f"{pinned(LISTED)['torch']}+cu130")
    assert faults() == []


def test_nothing_else_is_looked_at_while_packages_are_missing(have, uri) -> None:
    have(peft=None)
    assert [section.title for section in examine(Examination())] == ["environment"]


def test_an_extra_that_is_not_there_is_no_fault_and_an_old_one_is(have) -> None:
    have(bitsandbytes=None, lang2vec="0.1")
    (found,) = faults()
    assert found.text == "extra 'linguistic' is not as pyproject.toml pins it"
    assert found.remedy == "python -m pip install -e '.[linguistic]'"
    told = [other.text for other in check_environment() if other.level is Level.NOTE]
    assert any("'quantized' is not installed, which is for bases in 4 or 8 bits" in text for text in told)


def test_more_threads_than_cores_are_told(monkeypatch) -> None:
    monkeypatch.setattr(environment.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "12")
    (found,) = [finding for finding in check_devices() if finding.level is Level.WRONG]
    assert (found.text, found.remedy) == ("OMP_NUM_THREADS is 12, there are 3 cores", "export OMP_NUM_THREADS=3")


@pytest.mark.parametrize(
    ("built_for", "gpu", "said"), [("13.0", False, True), (None, False, False), ("13.0", True, False)]
)
def test_a_build_for_gpus_that_are_not_there_is_named_with_the_smaller_one(
    monkeypatch, built_for: str | None, gpu: bool, said: bool
) -> None:
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    texts = [finding.text for finding in check_devices()]
    assert any("PIP_EXTRA_INDEX_URL" in text and "UV_TORCH_BACKEND=cpu" in text for text in texts) == said
