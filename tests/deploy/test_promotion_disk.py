"""A promotion on a full disk, or one that cannot be written to, sets an alias with its record or says what is wrong."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.deploy.planted import Recorded
from tests.deploy.test_promotion_killed import BEST, carriers, claimed, faults
from tests.kill_at_write import Fault, run_command, run_with_fault, spread

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_promotion_on_a_full_disk_leaves_nothing_half_trusted(
    study: Recorded, uri: str, tmp_path: Path, kind: str
) -> None:
    file, kept = Path(uri.removeprefix("sqlite:///")), tmp_path / "kept.db"
    adapter, policy = study.adapter(study.baseline()), study.policy(BEST)
    command = ("promote", "--study", str(policy), "--name", adapter.name, "--version", "1")

    def copy(source: Path, target: Path) -> None:
        with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
            one.backup(other)

    copy(file, kept)
    log = tmp_path / "log"
    total = run_with_fault(run_command, *command, fault=Fault("kill", 0, file.parent), log=log)
    assert total.code == 0, total.printed
    for number in spread(total.writes, 5):
        copy(kept, file)
        ending = run_with_fault(run_command, *command, fault=Fault(kind, number, file.parent), log=log)
        assert "Traceback" not in ending.printed, ending.printed
        if ending.code:
            assert ending.tells(kind), ending.printed
        if not carriers(study.client, "champion"):
            assert claimed(study.client, "champion", "passed") == set()
        again = run_with_fault(run_command, *command, fault=Fault("kill", 0, file.parent), log=log)
        assert again.code == 0, again.printed
        assert carriers(study.client, "champion") == {adapter.name: "1"}
        for finding in faults(study.client):  # such as a run whose end could not be written
            assert finding.repair is not None, finding
            finding.repair()
        assert faults(study.client) == []
