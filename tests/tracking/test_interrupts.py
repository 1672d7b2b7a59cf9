"""Signals that end a process: heard at once, but for calls of a database, whose end they wait for."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest
from mlflow import MlflowClient
from sqlalchemy import Engine, event

from registry import process
from registry.process import defer_signals, end_on_signal
from registry.tracking import client as client_module
from registry.tracking.claims import Claims
from registry.tracking.names import Kind
from registry.tracking.runs import recorded
from registry.tracking.store import experiment_id


class Ended(SystemExit):
    """What a signal raises here."""


@pytest.fixture(autouse=True)
def ends() -> Iterator[None]:
    """Have Ctrl-C and one more signal end this process by an exception."""
    numbers = (signal.SIGINT, signal.SIGUSR1)
    former = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        end_on_signal(number, end)
    yield
    process._came.clear()
    for number, handler in former.items():
        signal.signal(number, handler)


def end() -> None:
    raise Ended(143)


@pytest.fixture
def experiment(client: MlflowClient) -> str:
    return experiment_id(client, "small")


@pytest.fixture
def in_sql() -> Iterator[Callable[[str], None]]:
    """Send a signal in the middle of a database's session: when the first statement that begins so was executed."""
    beginnings: list[str] = []

    def executed(*given: object) -> None:
        if beginnings and str(given[2]).startswith(beginnings[0]):
            beginnings.clear()
            signal.raise_signal(signal.SIGUSR1)

    event.listen(Engine, "after_cursor_execute", executed)
    yield beginnings.append
    event.remove(Engine, "after_cursor_execute", executed)


def test_a_signal_is_heard_at_once_outside_and_at_the_end_inside() -> None:
    done = []
    with pytest.raises(Ended):
        signal.raise_signal(signal.SIGUSR1)
    with pytest.raises(Ended), defer_signals():
        with defer_signals():
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGUSR1)
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]
    with defer_signals():
        done.append("nothing is left to hear")


def test_a_second_ctrl_c_does_not_wait() -> None:
    done = []
    with pytest.raises(Ended), defer_signals():
        signal.raise_signal(signal.SIGINT)
        done.append("first")
        signal.raise_signal(signal.SIGINT)
        done.append("second")
    assert done == ["first"]


def test_what_goes_wrong_inside_is_not_lost() -> None:
    with pytest.raises(Ended) as raised, defer_signals():
        signal.raise_signal(signal.SIGUSR1)
        raise ValueError("the store is away")
    assert str(raised.value.__context__) == "the store is away"


@pytest.mark.parametrize("statement", ["INSERT INTO runs", "INSERT INTO metrics", "UPDATE runs"])
def test_a_run_that_is_ended_in_a_transaction_leaves_the_database_open_and_nothing_running(
    client, experiment, in_sql, monkeypatch, statement: str
) -> None:
    monkeypatch.setattr(client_module.time, "sleep", lambda _: pytest.fail("it waited for its own lock"))
    in_sql(statement)
    with (
        pytest.raises(Ended),
        recorded(client, experiment, kind=Kind.EVALUATE, name="x", tags={}, gathers=True) as recording,
    ):
        recording.metrics({"score": 0.5})
    (run,) = client.search_runs([experiment])
    assert run.info.status == ("FINISHED" if statement == "UPDATE runs" else "KILLED")
    client.set_tag(run.info.run_id, "written", "afterwards")


@pytest.mark.parametrize("statement", ["INSERT INTO registered_models", "INSERT INTO model_versions"])
def test_a_claim_that_is_ended_in_a_transaction_keeps_no_one_waiting(client, experiment, in_sql, statement) -> None:
    claims = Claims(client, experiment)
    in_sql(statement)
    with pytest.raises(Ended), claims.taken(["a", "b"]):
        pytest.fail("the signal was not heard")
    assert not client.search_model_versions(f"name = '{claims._model}'")
    assert Claims(client, experiment).take("a") is not None
