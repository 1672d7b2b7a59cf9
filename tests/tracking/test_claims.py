"""Of all who claim a fingerprint at once one gets it, and what a dead runner held is taken over."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from registry.paths import PROJECT
from registry.tracking import claims as claims_module
from registry.tracking import liveness
from registry.tracking.claims import Claims, claims_model
from registry.tracking.runs import Superseded
from registry.tracking.store import experiment_id
from tests.clock import Clock

# Eight processes, a third of them an hour behind and a third an hour ahead, do every fingerprint that is free and not
# yet done, each in an order of its own, until all are done. A job is marked done only at its end, as a run is FINISHED
# only at its end, and a mark names its process: what is marked twice was done twice.
CONTENDERS = """
import multiprocessing, random, sys, time
from pathlib import Path
from registry.tracking.claims import Claims
from registry.tracking.store import open_store

def contend(number, uri, folder, rounds, together):
    real = time.time
    time.time = lambda: real() + 3600 * (number % 3 - 1)
    client, order = open_store(uri), random.Random(number)
    for experiment in range(rounds):
        together.wait()
        claims, left = Claims(client, str(experiment)), list(range(50))
        order.shuffle(left)
        while left:
            job = left.pop()
            done = lambda: list(folder.glob(f"{experiment}.{job}.*"))
            if done():
                continue
            claim = claims.take(f"job-{job}")
            if claim is None:
                left.insert(0, job)
                time.sleep(0.01)
                continue
            if not done():
                time.sleep(0.005)
                claim.confirm()
                (folder / f"{experiment}.{job}.{number}").touch()
            claim.release()

uri, folder, rounds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
context = multiprocessing.get_context("fork")  # before the first contact with the store
together = context.Barrier(8)
processes = [context.Process(target=contend, args=(n, uri, folder, rounds, together)) for n in range(8)]
for process in processes:
    process.start()
for process in processes:
    process.join()
sys.exit(max(abs(process.exitcode) for process in processes))
"""


def contend(uri: str, folder: Path, *, rounds: int) -> list[Counter[str]]:
    """Have eight processes do the same 50 jobs; return for each round how often each job was done."""
    command = [sys.executable, "-c", CONTENDERS, uri, str(folder), str(rounds)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [Counter(mark.name.split(".")[1] for mark in folder.glob(f"{number}.*")) for number in range(rounds)]


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_eight_processes_that_claim_the_same_fifty_do_each_once(uri, tmp_path, rounds: int) -> None:
    for done in contend(uri, tmp_path, rounds=rounds):
        assert done == {str(number): 1 for number in range(50)}


@pytest.fixture
def experiment(client) -> str:
    return experiment_id(client, "small")


def from_elsewhere(monkeypatch, name: str = "elsewhere") -> None:
    """Have claims made from now on say that they are another machine's."""
    monkeypatch.setattr(claims_module, "worker_identity", lambda: f"{name}:1-1")


def test_one_holder_at_a_time_and_the_next_after_it(client, experiment) -> None:
    ours, theirs = Claims(client, experiment), Claims(client, experiment)
    claim = ours.take("a")
    assert claim is not None
    assert theirs.take("a") is None
    assert ours.take("a") is None
    assert theirs.take("b") is not None
    claim.release()
    claim.release()
    taken = theirs.take("a")
    assert taken is not None
    assert taken.number > claim.number


def test_of_several_what_is_free_is_taken_and_given_back_whatever_happens(client, experiment) -> None:
    ours, theirs = Claims(client, experiment), Claims(client, experiment)
    theirs.take("b")
    with pytest.raises(ZeroDivisionError), ours.taken("abc") as claims:
        assert set(claims) == {"a", "c"}
        claims["a"].release()
        assert theirs.take("a") is not None
        raise ZeroDivisionError
    assert theirs.take("c") is not None
    assert ours.take("a") is None  # a second release took nothing from its new holder


def test_a_claim_of_a_dead_process_of_this_machine_is_taken_over_at_once(client, uri, experiment) -> None:
    script = f"""
import os, signal
from registry.tracking.claims import Claims
from registry.tracking.store import open_store
assert Claims(open_store({uri!r}), {experiment!r}).take("a")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=PROJECT).returncode == -9
    assert len(client.search_model_versions(f"name = '{claims_model(experiment)}'")) == 1
    assert Claims(client, experiment).take("a") is not None


def test_a_claim_from_elsewhere_is_dead_once_its_heartbeat_was_seen_to_stand_still(
    client, experiment, monkeypatch
) -> None:
    from_elsewhere(monkeypatch)
    asleep, alive = (Claims(client, experiment, beat_seconds=1000).take(name) for name in "ab")
    from_elsewhere(monkeypatch, "a third")
    clock = Clock(lambda _: alive.confirm())
    monkeypatch.setattr(liveness, "time", clock)
    watcher, other = (Claims(client, experiment) for _ in range(2))
    assert watcher.take("a") is None
    assert watcher.take("b") is None
    began = clock.monotonic()
    while watcher.is_taken("a"):
        clock.sleep(10)
        assert watcher.is_taken("b")
    assert clock.monotonic() - began == pytest.approx(90)
    assert other.take("a") is None  # it has not watched yet
    taken = watcher.take("a")
    assert taken is not None
    assert watcher.take("b") is None
    with pytest.raises(Superseded):
        asleep.confirm()
    asleep.release()  # takes nothing from its successor
    taken.confirm()
    alive.confirm()


def test_who_could_not_look_does_not_take_a_claim_over(client, experiment, monkeypatch) -> None:
    from_elsewhere(monkeypatch)
    claim = Claims(client, experiment, beat_seconds=1000).take("a")
    from_elsewhere(monkeypatch, "a third")
    clock = Clock()
    monkeypatch.setattr(liveness, "time", clock)
    watcher = Claims(client, experiment)
    assert watcher.is_taken("a")
    clock.sleep(91)  # the store was away, for the claim's holder too
    assert watcher.take("a") is None
    claim.confirm()


def test_a_request_that_was_made_twice_holds_up_no_one(client, experiment, monkeypatch) -> None:
    create = client.create_model_version

    def twice(*arguments, **named):  # the answer to the first was lost
        create(*arguments, **named)
        return create(*arguments, **named)

    ours, theirs = Claims(client, experiment), Claims(client, experiment)
    monkeypatch.setattr(client, "create_model_version", twice)
    claim = ours.take("a")
    assert claim is not None
    assert theirs.take("a") is None
    claim.release()
    assert theirs.take("a") is not None


def test_what_a_store_that_was_away_did_not_take_is_repeated(client, experiment, monkeypatch) -> None:
    claims, delete = Claims(client, experiment, beat_seconds=0.01), client.delete_model_version
    requests, deleted = [], threading.Event()

    def away(*arguments):
        requests.append(arguments)
        if len(requests) < 3:
            raise MlflowException("the store is away")
        delete(*arguments)
        deleted.set()

    monkeypatch.setattr(client, "delete_model_version", away)
    claims.take("a").release()
    assert deleted.wait(120)
    assert Claims(client, experiment).take("a") is not None


def test_a_store_that_goes_away_while_claiming_leaves_no_claim_behind(client, experiment, monkeypatch) -> None:
    claims, search, asked = Claims(client, experiment), client.search_model_versions, []

    def away(*arguments, **named):
        asked.append(arguments)
        if len(asked) == 1:
            raise MlflowException("the store is away")
        return search(*arguments, **named)

    monkeypatch.setattr(client, "search_model_versions", away)
    with pytest.raises(MlflowException, match="away"):
        claims.take("a")
    assert Claims(client, experiment).take("a") is not None


def test_asking_again_for_what_another_holds_appends_no_more_claims(client, experiment, monkeypatch) -> None:
    ours, theirs = Claims(client, experiment), Claims(client, experiment)
    held = ours.take("a")
    assert held is not None and theirs.take("a") is None
    monkeypatch.setattr(theirs, "_append", lambda _: pytest.fail("a claim was appended"))
    assert theirs.take("a") is None
    monkeypatch.undo()
    held.release()
    assert theirs.take("a") is not None
