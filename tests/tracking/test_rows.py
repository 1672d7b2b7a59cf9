"""What is written of runs in plain inserts is, row by row, what MLflow itself writes."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import event, insert, text

from registry.tracking import rows
from registry.tracking.store import open_store
from registry.tracking.write_ahead import SETTINGS

#: Columns that hold when something was made or changed, which no caller gives.
_WHEN = {"creation_time", "last_update_time", "creation_timestamp_ms", "last_updated_timestamp_ms", "deleted_time"}

NAN, INF = float("nan"), float("inf")


@dataclass
class Side:
    """A store, what was made in it, and how it names that."""

    client: MlflowClient
    file: Path
    experiment: str
    model: str
    runs: list[str] = field(default_factory=list)

    def begin(self, **given: Any) -> Any:
        run = self.client.create_run(self.experiment, start_time=5, **given)
        self.runs.append(run.info.run_id)
        return run

    def log(self, metrics: list[tuple], params: list[tuple] = (), tags: list[tuple] = ()) -> None:
        self.client.log_batch(
            self.runs[-1],
            metrics=[Metric(*value, model_id=self.model if linked else None) for *value, linked in metrics],
            params=[Param(*param) for param in params],
            tags=[RunTag(*tag) for tag in tags],
        )

    def rows(self) -> dict[str, list[tuple]]:
        """Every row of every table."""
        with closing(sqlite3.connect(self.file)) as database:
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            found = {}
            for table in tables:
                cursor = database.execute(f"SELECT * FROM {table}")
                kept = [number for number, column in enumerate(cursor.description) if column[0] not in _WHEN]
                found[table] = sorted((tuple(self.masked(row[number]) for number in kept) for row in cursor), key=repr)
        return found

    def masked(self, value: object) -> object:
        """Replace what one store alone has: ids and its folder."""
        if not isinstance(value, str):
            return value
        names = {run: f"run {number}" for number, run in enumerate(self.runs)}
        names |= {self.model: "the model", str(self.file.parent): "the folder"}
        return re.sub(
            r"m-[0-9a-f]{32}|[0-9a-f]{32}|/\S+/(ours|theirs)\d+", lambda one: names.get(one[0], one[0]), value
        )


def side(client: MlflowClient, file: Path) -> Side:
    experiment = client.create_experiment("it", artifact_location=str(file.parent / "files"))
    return Side(client, file, experiment, client.create_logged_model(experiment, name="model").model_id)


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Side, Side]:
    """Our store, and MLflow's as it is."""
    folders = [tmp_path_factory.mktemp(name) / "mlflow.db" for name in ("ours", "theirs")]
    clients = open_store(f"sqlite:///{folders[0]}"), MlflowClient(f"sqlite:///{folders[1]}")
    return side(clients[0], folders[0]), side(clients[1], folders[1])


def agree(both: tuple[Side, Side], do: Callable[[Side], object]) -> object:
    """Do the same in both stores, and return what came of it; it must be the same, and so must every row after it."""
    found = []
    for one in both:
        try:
            result = do(one)
            found.append(one.masked(repr(result.to_dictionary() if hasattr(result, "to_dictionary") else result)))
        except MlflowException as error:
            found.append((error.error_code, one.masked(error.message)))
    assert found[0] == found[1]
    assert both[0].rows() == both[1].rows()
    return found[0]


def begin(one: Side) -> Any:
    return one.begin(run_name="evaluate it", tags={"mlflow.runName": "evaluate it", "a": "1", "mlflow.user": "me"})


METRICS = st.lists(
    st.tuples(
        st.sampled_from(["score/a", "score/b", "loss"]),
        st.sampled_from([0.0, 1.5, -1.5, NAN, INF, -INF]),
        st.integers(1, 2),
        st.integers(0, 2),
        st.booleans(),
    ),
    max_size=8,
)
PARAMS = st.dictionaries(st.sampled_from("rs"), st.sampled_from(["1", "2"])).map(lambda found: list(found.items()))
TAGS = st.lists(st.tuples(st.sampled_from(["a", "b", "mlflow.note.content", "mlflow.runName"]), st.text(max_size=2)))


CURVE = [("loss", 3.0, 1, 0, True), ("loss", 2.0, 1, 2, True), ("loss", NAN, 2, 1, True), ("score/a", INF, 1, 0, False)]


# Without shrinking: every attempt reads two whole stores.
@settings(max_examples=30, deadline=None, phases=(Phase.explicit, Phase.generate))
@example(batches=[(CURVE, [("r", "1")], [("a", "2"), ("b", ""), ("b", "3")]), (CURVE[1:], [("r", "1")], [("a", "4")])])
@example(batches=[([], [("r", "1")], []), (CURVE, [("r", "2")], [("a", "3")])])
@given(batches=st.lists(st.tuples(METRICS, PARAMS, TAGS), min_size=1, max_size=3))
def test_batches_leave_the_rows_that_mlflow_leaves(both, batches) -> None:
    agree(both, begin)
    for batch in batches:
        agree(both, lambda one, batch=batch: one.log(*batch))
    agree(both, lambda one: one.client.set_terminated(one.runs[-1], "FINISHED", end_time=9))


@pytest.mark.parametrize(
    "given",
    [
        {"run_name": "a name"},
        {"tags": {"mlflow.runName": "a name"}},
        {"run_name": "one", "tags": {"mlflow.runName": "another"}},
        {"run_name": "a name", "tags": {"mlflow.runName": "a name"}},
        {"run_name": "x" * 300, "tags": {"mlflow.runName": "x" * 300, "long": "y" * 9000}},
    ],
)
def test_runs_begin_as_mlflow_begins_them(both, given) -> None:
    agree(both, lambda one: one.begin(**given))


@pytest.mark.parametrize(
    "do",
    [
        lambda one: one.log([("no=name", 1.0, 1, 0, False)]),
        lambda one: one.log([("score", "high", 1, 0, False)]),
        lambda one: one.log([], [("r", "1"), ("r", "2")]),
        lambda one: one.log([], [], [("", "1")]),
        lambda one: one.log([("score", 1.0, 1, step, True) for step in range(1200)], [("r", "1" * 7000)]),
        lambda one: one.client.log_batch("0" * 32, metrics=[Metric("score", 1.0, 1, 0)]),
        lambda one: one.client.set_terminated("0" * 32),
        lambda one: one.client.set_terminated(one.runs[-1], "KILLED", end_time=7),
        lambda one: one.client.update_run(one.runs[-1], "FAILED", "a new name"),
        lambda one: one.client._tracking_client.store.update_run_info(one.runs[-1], 3, 8, None),
    ],
)
def test_what_mlflow_refuses_or_does_otherwise_is_the_same(both, do) -> None:
    agree(both, begin)
    agree(both, do)


def test_nothing_is_written_of_what_is_deleted(both) -> None:
    agree(both, begin)
    agree(both, lambda one: one.client.delete_run(one.runs[-1]))
    assert agree(both, lambda one: one.log([("score", 1.0, 1, 0, False)]))[0] == "INVALID_PARAMETER_VALUE"
    agree(both, lambda one: one.client.delete_experiment(one.experiment))
    assert agree(both, begin)[0] == "INVALID_PARAMETER_VALUE"
    agree(both, lambda one: one.client.restore_experiment(one.experiment))


def test_a_new_batch_is_not_left_to_mlflow(both, monkeypatch) -> None:
    agree(both, begin)
    with monkeypatch.context() as patched:
        patched.setattr(SqlAlchemyStore, "log_batch", lambda *_: pytest.fail("MLflow's own"))
        both[0].log([("score", 1.0, 1, 0, True)], [("r", "1")], [("a", "2")])
    both[1].log([("score", 1.0, 1, 0, True)], [("r", "1")], [("a", "2")])
    assert both[0].rows() == both[1].rows()


def test_a_batch_that_breaks_off_leaves_nothing(both, monkeypatch) -> None:
    agree(both, begin)
    begun = both[0].rows()

    def breaks(*_: object) -> None:
        raise RuntimeError("the power is off")

    with monkeypatch.context() as patched:
        patched.setattr(rows, "insert", lambda table: breaks() if table.name == "tags" else insert(table))
        with pytest.raises(MlflowException, match="power"):
            both[0].log([("score", 1.0, 1, 0, True)], [("r", "1")], [("a", "2")])
    assert both[0].rows() == begun


def test_connections_have_the_settings_that_mlflow_makes_in_every_session(both) -> None:
    ours, theirs = ([one.client._tracking_client.store, one.client._get_registry_client().store] for one in both)
    told: list[str] = []
    for store in theirs:
        event.listen(store.engine, "before_cursor_execute", lambda *given: told.append(given[2]))
        with store.ManagedSessionMaker():
            pass
        assert [f"PRAGMA {setting};" for setting in SETTINGS] == told
        told.clear()
    for store in ours:
        with store.ManagedSessionMaker() as session:
            asked = ("PRAGMA foreign_keys", "PRAGMA busy_timeout", "SELECT 'a' LIKE 'A'")
            assert [session.execute(text(one)).scalar() for one in asked] == [1, 20000, 0]
