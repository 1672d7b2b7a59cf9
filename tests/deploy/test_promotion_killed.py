"""Promotions and demotions killed with -9 at every write: nothing says what did not happen, and all can be mended."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from registry.cells import Cell
from registry.deploy.alias_history import history, promotions
from registry.doctor.aliases import check_aliases
from registry.doctor.findings import Finding, Level
from registry.doctor.integrity import check_dead
from registry.doctor.records import read_records
from registry.paths import PROJECT
from registry.tracking import names
from registry.tracking.names import Tag
from registry.tracking.store import open_store
from tests.closed_stores import close_store
from tests.deploy.planted import CHANGES, Recorded

pytestmark = pytest.mark.slow

BEST = "promotion: {best: {protect: ['*/en'], min_gain: 1.0}, champion: {want: [kind/tr], min_gain: 5.0}}"


@dataclass(frozen=True)
class Killer:
    """Runs `promote` on copies of a store, and kills it."""

    process: subprocess.Popen[str]
    template: Path

    def copy(self, name: object) -> str:
        file = self.template.parent / f"{name}.db"  # beside the store's files, else it would count as moved
        with closing(sqlite3.connect(self.template)) as source, closing(sqlite3.connect(file)) as target:
            source.backup(target)  # with what is still in the write-ahead log
        return f"sqlite:///{file}"

    def promote(self, store: str, arguments: list[str], *, die: int = 0) -> dict[str, int]:
        assert self.process.stdin is not None and self.process.stdout is not None
        order: dict[str, Any] = {"entry": "promote", "arguments": arguments, "store": store, "die": die}
        print(json.dumps(order), file=self.process.stdin, flush=True)
        answer: dict[str, int] = json.loads(self.process.stdout.readline())
        return answer


@pytest.fixture
def killer(uri: str) -> Iterator[Killer]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.deploy.killed"],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield Killer(process, Path(uri.removeprefix("sqlite:///")))
    process.kill()
    process.wait()


def faults(client: MlflowClient) -> list[Finding]:
    records = read_records(client, client.get_experiment_by_name("small"), "small")
    found = [*check_dead(records), *check_aliases(records)]
    return [finding for finding in found if finding.level is Level.WRONG]


def carriers(client: MlflowClient, alias: str) -> dict[str, str]:
    models = client.search_registered_models()
    return {model.name: str(model.aliases[alias]) for model in models if alias in model.aliases}


def claimed(client: MlflowClient, alias: str, words: str) -> set[str]:
    """Versions of which anything says that a decision was taken."""
    runs = [run.data.tags for run in promotions(client, alias)]
    found = {tags[Tag.MODEL_VERSION] for tags in runs if tags[Tag.VERDICT] == words}
    for version in client.search_model_versions():
        if version.tags.get(names.promotion(alias), "").startswith(words):
            found.add(f"{version.name}/{version.version}")
    return found


@pytest.mark.parametrize("case", ["promote", "best", "demote"])
def test_killed_at_every_write(study: Recorded, killer: Killer, command, case: str) -> None:
    baseline, policy = study.baseline(), study.policy(BEST)
    first, second = study.adapter(baseline), study.adapter(baseline, seed=42)
    alias = "best-kind-tr" if case == "best" else "champion"
    if case == "best":
        assert command("promote", "--study", policy, "--best-for", "kind/tr")[0] == 0
        other = study.adapter(baseline, CHANGES | {"kind/tr": (60, 2)}, source=Cell("pair", "en"))
        asked, after = ["--best-for", "kind/tr"], {other.name: "1"}
    else:
        assert command("promote", "--study", policy, "--name", first.name, "--version", "1")[0] == 0
        demotes = ["--demote", "true"] if case == "demote" else []
        asked = ["--name", first.name, "--version", "1" if demotes else "2", *demotes]
        after = {} if demotes else {second.name: "2"}
    arguments, before = ["--study", str(policy), *asked], carriers(study.client, alias)
    whole = killer.promote(killer.copy("whole"), arguments)
    assert whole["code"] == 0
    assert whole["writes"] >= 6
    earlier = claimed(study.client, alias, "passed")
    killed, again = set(), list[int]()
    for die in range(1, whole["writes"] + 1):
        store = killer.copy(f"{case}-{die}")
        assert killer.promote(store, arguments, die=die)["code"] == -9
        client = open_store(store)
        stands = carriers(client, alias)
        assert stands in (before, after, before | after), die
        killed.add(tuple(sorted(stands.items())))
        _nothing_is_said_that_is_not_so(client, alias, stands, after, earlier)
        (name, *_) = after or before
        experiment = client.get_experiment_by_name("small").experiment_id
        told = history(client, experiment, name, alias)
        moved = stands != before
        assert ("interrupted" in told[0]) == moved if moved or told else not moved, (die, told)
        found = faults(client)
        assert bool([finding for finding in found if "alias" in finding.text]) == moved, (die, found)
        for finding in found:
            assert finding.repair is not None, finding
            finding.repair()
        assert faults(client) == [], die
        assert carriers(client, alias) == (after if moved else before), die
        if moved:
            assert "interrupted" not in history(client, experiment, name, alias)[0]
        last = case == "promote" and die == whole["writes"]
        if last or (not moved and len(again) < 2):  # the same command, given again
            again.append(die)
            assert killer.promote(store, arguments)["code"] == 0
            assert carriers(client, alias) == after
            assert faults(client) == []
        close_store(client)
    assert tuple(sorted(before.items())) in killed, "once before the alias moved"
    assert tuple(sorted(after.items())) in killed, "and once after"


def _nothing_is_said_that_is_not_so(
    client: MlflowClient, alias: str, stands: dict[str, str], after: dict[str, str], earlier: set[str]
) -> None:
    there = {f"{name}/{version}" for name, version in stands.items()}
    assert claimed(client, alias, "passed") - earlier <= there
    assert not (claimed(client, alias, "demoted") & there)
