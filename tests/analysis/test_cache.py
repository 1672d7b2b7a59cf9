"""Reading a study with what was kept of it on this machine: the same frame, whatever happened in between."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from sqlalchemy import Engine, event

from analysis.reading import over_api, runs
from analysis.reading.cache import CachedTable, cache_folder, cache_root
from analysis.reading.frame import EmptyStudyError, Frame, InconsistentRunError, load
from analysis.reading.over_sql import SchemaError
from registry.cells import Cell
from registry.tracking.duplicates import ConflictError
from registry.tracking.metric_names import score
from registry.tracking.names import Tag
from tests.mlflow_process import MlflowProcess

if TYPE_CHECKING:
    from tests.analysis.conftest import Recorder

ONE = "lab/one-0.5b"
TARGETS = [Cell(task, language) for task in ("arc", "mmlu") for language in ("de", "en")]
BASELINE = dict.fromkeys(TARGETS, 0.4)
SCHEMA = pa.schema([("number", pa.float64())])


def record(recorder: Recorder, seeds: range = range(3)) -> tuple[str, list[str]]:
    """Record a baseline, and an evaluation for each seed; return their ids."""
    base = recorder.baseline(ONE, BASELINE)
    return base, [add(recorder, base, seed) for seed in seeds]


def add(recorder: Recorder, base: str, seed: int) -> str:
    scores = {target: 0.4 + 0.013 * seed + 0.001 * place for place, target in enumerate(TARGETS)}
    return recorder.evaluation(ONE, TARGETS[0], seed, scores, BASELINE, base)


def same(first: Frame, second: Frame) -> None:
    """Fail unless two frames are equal to the last bit."""
    for name in ("observations", "baselines"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(second, name), check_exact=True)
    assert first.notes == second.notes
    assert rows(first) == rows(second)


def rows(frame: Frame) -> str:
    """Everything kept of a frame's runs; printed, NaN equals NaN."""
    assert frame.runs is not None
    return repr(frame.runs.table.to_pylist())


@pytest.fixture(params=["database", "interface", "interface, small pages"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the store is asked: its database in SQL, or MLflow's interface as for a server."""
    if request.param != "database":
        monkeypatch.setattr(runs, "is_database", lambda uri: False)
    if request.param == "interface, small pages":
        monkeypatch.setattr(over_api, "_PAGE", 2)
        monkeypatch.setattr(over_api, "_AT_ONCE", 3)
    return str(request.param)


def test_both_ways_of_asking_give_the_same_frame(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    record(recorder)
    in_sql = load(recorder.client, recorder.study)
    monkeypatch.setattr(runs, "is_database", lambda uri: False)
    over_interface = load(recorder.client, recorder.study)
    for name in ("observations", "baselines"):
        pd.testing.assert_frame_equal(getattr(in_sql, name), getattr(over_interface, name), check_exact=True)


def test_whatever_is_done_to_runs_is_seen(recorder: Recorder, way: str, tmp_path: Path) -> None:
    """Runs added, deleted, restored, resumed and edited, one after another: each time the cache must follow."""
    client = recorder.client
    base, ids = record(recorder)

    def edit_metric() -> None:
        changed = 0.4 + 0.25
        wrong = [Metric(score(TARGETS[1]), changed, 9_000, 0), Metric("delta/MT-CL/arc/en", 25.0, 9_000, 0)]
        client.log_batch(ids[1], metrics=wrong)

    def resume() -> None:
        client.update_run(ids[2], status="RUNNING")
        client.log_metric(ids[2], "acc/arc/en", 0.125)
        client.set_terminated(ids[2])

    def swap() -> None:
        client.delete_run(ids[1])
        client.restore_run(ids[0])

    steps: list[tuple[str, Callable[[], Any]]] = [
        ("nothing", lambda: None),
        ("added", lambda: ids.append(add(recorder, base, 7))),
        ("deleted", lambda: client.delete_run(ids[0])),
        ("another baseline", lambda: recorder.baseline(ONE, BASELINE)),
        ("one deleted, one restored", swap),
        ("restored", lambda: client.restore_run(ids[1])),
        ("resumed", resume),
        ("a metric edited", edit_metric),
        ("a tag edited", lambda: client.set_tag(ids[1], Tag.PROTOCOL, "another")),
        ("all deleted but one", lambda: [client.delete_run(run) for run in ids[1:]]),
    ]
    before = None
    for name, step in steps:
        step()
        cached = load(client, recorder.study, cache=tmp_path)
        same(cached, load(client, recorder.study))
        if before is not None:
            assert rows(cached) != rows(before), f"{name}: this step changed nothing"
        same(load(client, recorder.study, cache=tmp_path), cached)
        before = cached
    client.delete_run(ids[0])
    with pytest.raises(EmptyStudyError):
        load(client, recorder.study, cache=tmp_path)


def check_twins(recorder: Recorder, cache: Path | None) -> None:
    """Record twins of runs, honest and invented, and see what counts and what is refused."""
    client = recorder.client
    base, ids = record(recorder)
    expected = load(client, recorder.study, cache=cache)
    again = add(recorder, base, 1), recorder.baseline(ONE, BASELINE)
    for _ in range(2):
        found = load(client, recorder.study, cache=cache)
        pd.testing.assert_frame_equal(found.observations, expected.observations, check_exact=True)
        (note,) = found.left_out
        assert "Counted once: 2 runs with the fingerprint and the results of an earlier one" in note
        assert f"{again[0]} repeats {ids[1]}" in note and f"{again[1]} repeats {base}" in note
    invented = dict.fromkeys(TARGETS, 0.99)
    for add_twin in (
        lambda: recorder.evaluation(ONE, TARGETS[0], 1, invented, BASELINE, base),
        lambda: recorder.baseline(ONE, invented),
        lambda: recorder.evaluation(ONE, TARGETS[1], 1, BASELINE, BASELINE, base, fingerprint=f"{ONE} {TARGETS[0]} 1"),
    ):
        recorder.clock -= 10  # it says that it began before the genuine one
        twin = add_twin()
        with pytest.raises(ConflictError) as refused:
            load(client, recorder.study, cache=cache)
        assert twin in str(refused.value)
        assert base in str(refused.value) or ids[1] in str(refused.value)
        client.delete_run(twin)
        assert set(load(client, recorder.study, cache=cache).observations["run_id"]) == set(ids)
    client.delete_run(ids[1])  # its duplicate takes its place
    assert again[0] in set(load(client, recorder.study, cache=cache).observations["run_id"])


def test_a_twin_never_takes_the_place_of_the_first(recorder: Recorder, way: str, tmp_path: Path) -> None:
    check_twins(recorder, tmp_path)


def test_what_is_kept_is_not_read_again(recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, ids = record(recorder)
    load(recorder.client, recorder.study, cache=tmp_path)
    ids.append(add(recorder, base, 7))
    read = []
    row = runs._row
    monkeypatch.setattr(runs, "_row", lambda stated: read.append(stated.record.run_id) or row(stated))
    load(recorder.client, recorder.study, cache=tmp_path)
    assert read == [ids[-1]]
    load(recorder.client, recorder.study, cache=tmp_path)
    assert read == [ids[-1]]


def test_a_changed_baseline_is_compared_with_the_kept_evaluations(recorder: Recorder, way: str, tmp_path: Path) -> None:
    base, ids = record(recorder)
    load(recorder.client, recorder.study, cache=tmp_path)
    recorder.client.log_metric(base, score(TARGETS[1]), 0.6, timestamp=9_000)
    with pytest.raises(InconsistentRunError, match=rf"run {ids[0]} .*delta on arc/en"):
        load(recorder.client, recorder.study, cache=tmp_path)


def test_a_database_of_another_shape_is_read_through_the_client(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record(recorder)
    expected = load(recorder.client, recorder.study).observations
    from analysis.reading import over_sql

    monkeypatch.setattr(over_sql, "_METRICS", over_sql._METRICS.replace("latest_metrics", "newest_metrics"))
    with caplog.at_level(logging.WARNING):
        found = load(recorder.client, recorder.study).observations
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert "no such table: newest_metrics" in caplog.text
    assert issubclass(SchemaError, Exception)


def test_a_run_that_is_deleted_while_the_study_is_read_is_left_out(recorder: Recorder) -> None:
    _, ids = record(recorder)
    asked = []

    def deleted(connection: object, cursor: object, statement: str, *_: object) -> None:
        if "SELECT run_uuid, key, value FROM tags" in statement and not asked:
            asked.append(statement)
            recorder.client.delete_run(ids[0])

    event.listen(Engine, "before_cursor_execute", deleted)
    try:
        found = load(recorder.client, recorder.study).observations
    finally:
        event.remove(Engine, "before_cursor_execute", deleted)
    assert asked
    assert set(found["run_id"]) == set(ids[1:])


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing", None], ids=["empty", "torn", "other version"])
def test_a_broken_file_is_made_anew(
    recorder: Recorder, tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    record(recorder)
    expected = load(recorder.client, recorder.study, cache=tmp_path)
    file = cache_folder(tmp_path, recorder.client.tracking_uri, recorder.experiment) / "runs.parquet"
    if content is None:
        monkeypatch.setattr(runs, "_VERSION", "of tomorrow")
    else:
        file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        same(load(recorder.client, recorder.study, cache=tmp_path), expected)
    assert "is made anew" in caplog.text
    caplog.clear()
    same(load(recorder.client, recorder.study, cache=tmp_path), expected)
    assert not caplog.text


def test_a_flipped_bit_in_what_is_kept_changes_nothing(recorder: Recorder, tmp_path: Path) -> None:
    record(recorder)
    expected = load(recorder.client, recorder.study, cache=tmp_path)
    file = cache_folder(tmp_path, recorder.client.tracking_uri, recorder.experiment) / "runs.parquet"
    whole = file.read_bytes()
    for place in np.random.default_rng(0).choice(len(whole), 6, replace=False):
        content = bytearray(whole)
        content[place] ^= 1 << (place % 8)
        file.write_bytes(content)
        same(load(recorder.client, recorder.study, cache=tmp_path), expected)


def test_no_flipped_bit_of_a_file_gives_another_number(tmp_path: Path) -> None:
    kept = CachedTable(tmp_path / "t.parquet", SCHEMA, "1")
    kept.write(pa.table({"number": np.random.default_rng(1).random(200)}, SCHEMA))
    whole, expected = kept.path.read_bytes(), kept.read()
    refused = 0
    for place in np.random.default_rng(0).choice(len(whole), 500, replace=False):
        content = bytearray(whole)
        content[place] ^= 1 << (place % 8)
        kept.path.write_bytes(content)
        found = kept.read()
        refused += len(found) == 0
        assert len(found) == 0 or found.equals(expected)
    assert refused > 300


def test_no_run_is_blamed_for_what_is_kept(
    recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record(recorder)
    expected = load(recorder.client, recorder.study, cache=tmp_path)
    folder = cache_folder(tmp_path, recorder.client.tracking_uri, recorder.experiment)
    kept = CachedTable(folder / "runs.parquet", runs._SCHEMA, runs._VERSION)
    rows = kept.read().to_pylist()
    rows[-1]["delta"][0] += 1.0
    kept.write(pa.Table.from_pylist(rows, runs._SCHEMA))
    with caplog.at_level(logging.WARNING):
        same(load(recorder.client, recorder.study, cache=tmp_path), expected)
    assert "is deleted and the store is read again" in caplog.text
    caplog.clear()
    same(load(recorder.client, recorder.study, cache=tmp_path), expected)
    assert not caplog.text
    wrong = Metric("delta/MT-CL/arc/en", 25.0, 9_000, 0)  # of a run that is itself at fault
    recorder.client.log_batch(rows[-1]["run_id"], metrics=[wrong])
    with pytest.raises(InconsistentRunError, match="delta on arc/en is recorded as 25"):
        load(recorder.client, recorder.study, cache=tmp_path)


def test_runs_that_differ_only_by_what_is_kept_are_no_conflict(
    recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base, _ = record(recorder)
    again = add(recorder, base, 1)
    expected = load(recorder.client, recorder.study, cache=tmp_path)
    folder = cache_folder(tmp_path, recorder.client.tracking_uri, recorder.experiment)
    kept = CachedTable(folder / "runs.parquet", runs._SCHEMA, runs._VERSION)
    rows = kept.read().to_pylist()
    (twin,) = (row for row in rows if row["run_id"] == again)
    twin["score"][0] += 0.1
    kept.write(pa.Table.from_pylist(rows, runs._SCHEMA))
    same(load(recorder.client, recorder.study, cache=tmp_path), expected)
    assert "is deleted and the store is read again" in caplog.text


def test_a_file_without_checksums_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = CachedTable(tmp_path / "t.parquet", SCHEMA, "1")
    table = pa.table({"number": [1.0]}, SCHEMA).replace_schema_metadata({b"cache_version": b"1"})
    pq.write_table(table, kept.path)
    assert len(kept.read()) == 0
    assert "is made anew" in caplog.text
    kept.write(table)
    assert kept.read()["number"].to_pylist() == [1.0]


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    kept = CachedTable(tmp_path / "t.parquet", SCHEMA, "1")
    old, new = (tmp_path / f".t-{name}.part" for name in ("old", "new"))
    for left in (old, new):
        left.write_bytes(b"PAR1")
    os.utime(old, (0, 0))
    kept.write(pa.table({"number": [1.0]}, SCHEMA))
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, "t.parquet"]


def test_a_cache_that_cannot_be_written_is_said_and_done_without(
    recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record(recorder)
    (tmp_path / "file").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        same(load(recorder.client, recorder.study, cache=tmp_path / "file"), load(recorder.client, recorder.study))
    assert "nothing is kept" in caplog.text


def test_the_place_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "donors-recipients" / "analysis"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "donors-recipients" / "analysis"
    assert cache_folder(tmp_path, "http://a", "1") != cache_folder(tmp_path, "http://a", "2")


def _write_for_ever(path: Path, value: float) -> None:
    table = CachedTable(path, SCHEMA, "1")
    while True:
        table.write(pa.table({"number": [value] * 5_000}, SCHEMA))


def test_killed_and_competing_writers_leave_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    CachedTable(path, SCHEMA, "1").write(pa.table({"number": [0.0] * 5_000}, SCHEMA))
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_for_ever, args=(path, float(n)), daemon=True) for n in (1, 2)]
    for writer in writers:
        writer.start()
    seen: set[float] = set()
    end = time.monotonic() + 60
    while len(seen - {0.0}) < 2 and time.monotonic() < end:
        found = CachedTable(path, SCHEMA, "1").read()
        assert len(found) == 5_000
        values = set(found["number"].unique().to_pylist())
        assert len(values) == 1
        seen |= values
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    assert seen >= {1.0, 2.0}
    assert len(CachedTable(path, SCHEMA, "1").read()) == 5_000


def test_floats_come_back_to_the_last_bit(tmp_path: Path) -> None:
    table = CachedTable(tmp_path / "t.parquet", SCHEMA, "1")
    numbers = [0.1 + 0.2, -0.0, float("nan"), float("inf"), 5e-324, 1e308]
    table.write(pa.table({"number": numbers}, SCHEMA))
    found = table.read()["number"]
    assert found.null_count == 0
    assert found.to_numpy().tobytes() == pa.array(numbers).to_numpy().tobytes()


# --- a server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[MlflowClient]:
    """A client of an MLflow server of one process, with a store of its own."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    stores = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder / "a")]
    with MlflowProcess(["server", *stores, "--workers", "1"], folder / "log") as started:
        yield MlflowClient(started.address)


@pytest.mark.slow
def test_a_server_is_followed_too(server: MlflowClient, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    from tests.analysis.conftest import Recorder
    from tests.analysis.test_stored_outcomes import check_outcomes, check_swaps

    test_whatever_is_done_to_runs_is_seen(Recorder(server, "over http"), "interface", tmp_path)
    check_outcomes(Recorder(server, "outcomes over http"), tmp_path)
    check_swaps(Recorder(server, "swaps over http"), tmp_path)
    check_twins(Recorder(server, "twins over http"), tmp_path)


@pytest.mark.slow
def test_twins_in_postgresql(tmp_path: Path) -> None:
    import pgserver

    from registry.tracking.store import open_store
    from tests.analysis.conftest import Recorder

    database = pgserver.get_server(tmp_path / "pg", cleanup_mode="delete")
    try:
        client = open_store(database.get_uri().replace("postgresql://", "postgresql+psycopg://"))
        check_twins(Recorder(client, "twins"), tmp_path / "cache")
    finally:
        database.cleanup()
