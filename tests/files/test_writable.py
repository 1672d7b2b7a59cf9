"""Folders that nothing can be written to: refused before any work, and seen by the doctor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.doctor.findings import Level
from registry.doctor.store import check_store
from registry.errors import Refused
from registry.files.disks import unwritable
from registry.tracking.store import experiment_id, open_store


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A folder that nothing can be written to; root may write anywhere but into the kernel's."""
    if os.geteuid() == 0:
        if not Path("/proc/self").is_dir():
            pytest.skip("no folder is closed to root here")
        yield Path("/proc/self")
        return
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    yield folder
    folder.chmod(0o700)


def test_what_is_asked_leaves_nothing_behind(tmp_path: Path, closed: Path) -> None:
    assert unwritable(tmp_path / "new" / "folder") == ""
    assert list(tmp_path.glob("new")) == []
    assert str(closed) in unwritable(closed / "new")
    (tmp_path / "file").touch()
    assert unwritable(tmp_path / "file" / "reports") == f"{tmp_path / 'file'} is no folder"
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    assert "is no folder" in unwritable(tmp_path / "broken" / "reports")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("study", ()),
        ("finetune", ()),
        ("evaluate", ()),
        ("analyze", ()),
        ("tune", ()),
        ("recommend", ("--want", "kind/tr")),
        ("import", ("--source", "cells.csv")),
    ],
)
def test_a_command_refuses_its_output_before_any_work(command, uri: str, closed: Path, name: str, arguments) -> None:
    code, output, errors = command(name, *arguments, "--output", closed / "out")
    assert (code, output) == (2, "")
    assert f"results cannot be written to {closed / 'out'}" in errors
    assert "-P output=<folder>" in errors
    assert len(errors.strip().splitlines()) == 2


def test_a_store_in_a_read_only_folder_names_a_remedy_that_works(closed: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be written to") as refusal:
        open_store(f"sqlite:///{closed}/mlflow.db")
    assert "export MLFLOW_TRACKING_URI=sqlite:///<folder>/mlflow.db" in str(refusal.value)
    assert "unset" not in str(refusal.value)
    findings, client = check_store(f"sqlite:///{closed}/mlflow.db")
    assert client is None
    assert [finding.level for finding in findings] == [Level.WRONG]
    assert "export MLFLOW_TRACKING_URI" in findings[0].remedy


def test_artifacts_that_cannot_be_written_are_refused_before_anything_is_trained(uri: str, closed: Path) -> None:
    client = open_store(uri)
    made = client.create_experiment("small", artifact_location=(closed / "artifacts").as_uri())
    assert experiment_id(client, "small") == made  # to read is allowed
    with pytest.raises(Refused, match="artifacts cannot be written to"):
        experiment_id(client, "small", writing=True)
    findings, _ = check_store(uri, "small")
    assert any(finding.level is Level.WRONG and "artifacts cannot" in finding.text for finding in findings)
