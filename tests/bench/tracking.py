"""``make bench-tracking``: how long a study of the paper's size takes to be read back, and to be recorded.

A few adapters are recorded with the calls that a study makes. The rows of an evaluation are then copied by SQL, with
other ids, models, sources, seeds and scores, until there are as many as asked for: recording all would take minutes.
The store is read as `analyze` reads it, with an empty cache (cold) and a full one (warm), in SQL and from an MLflow
server that is started for it; and its rows are read plainly, for comparison. Each of a server's processes has answered
once before it is measured: what it takes to start one is not part of reading.

On a busy machine CPU seconds say more than those of the clock; what others keep busy stands beside them.
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from mlflow import MlflowClient

from analysis.reading.cache import cache_root
from analysis.reading.frame import load
from analysis.reading.outcomes import stored_outcomes
from analysis.reading.study import StudyStore
from analysis.recommend.recorded import recommend_recorded
from tests.bench.tracked import Recorded, copy_evaluations, record_adapters
from tests.bench.tracked_grid import STUDY
from tests.bench.tracking_share import Share, store_share
from tests.mlflow_process import MlflowProcess

_ROUNDS = 3
_CONTACTS = 32  # requests at once, so that each of a server's processes gets some


def main() -> None:
    """Run the benchmark."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is ended, too
    with tempfile.TemporaryDirectory(prefix="bench-tracking-") as name:
        folder = Path(name)
        recorded = record_adapters(folder, options.adapters)
        _report_recording(recorded)
        copy_evaluations(folder / "mlflow.db", recorded, options.evaluations)
        sql = min(_plain_sql(folder / "mlflow.db") for _ in range(_ROUNDS))
        local = _times(f"sqlite:///{folder / 'mlflow.db'}", folder / "local", options.evaluations)
        print(f"plain SQL     {sql:6.2f} s: the same rows, fetched and left as they are")
        _report("in SQL", *local)
        _outcomes(f"sqlite:///{folder / 'mlflow.db'}", folder / "local" / "0", options.evaluations)
        _recommend(f"sqlite:///{folder / 'mlflow.db'}", folder / "cache")
        with _server(folder) as server:
            _awake(server.address)
            _report("over HTTP", *_times(server.address, folder / "http", options.evaluations, rounds=1))
    if options.share:
        with tempfile.TemporaryDirectory(prefix="bench-tracking-") as name:
            _report_share(store_share(Path(name)))
    print(f"cold-over-sql: {local[0] / sql:.1f}x")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench.tracking", description=__doc__)
    parser.add_argument("--evaluations", type=int, default=1215, help="evaluations in the store (1215)")
    parser.add_argument("--adapters", type=int, default=20, help="adapters recorded by our own calls (20)")
    parser.add_argument("--share", action="store_true", help="run a quarter of the demo too, to time its store's calls")
    return parser.parse_args()


def _report_share(share: Share) -> None:
    print(
        f"share         {100 * share.in_store / share.seconds:5.1f} % of a study's {share.seconds:.0f} s, "
        f"{share.in_store / share.adapters:.2f} s for each of {share.adapters} adapters ({_busy()})"
    )


def _report_recording(recorded: Recorded) -> None:
    wall, cpu = (median(taken) for taken in zip(*((one.wall, one.cpu) for one in recorded.took), strict=True))
    print(f"recording     {wall:6.2f} s an adapter, {cpu:.2f} of a CPU, without training and scoring ({_busy()})")


def _report(where: str, cold: float, warm: float) -> None:
    print(f"{where:<10}cold{cold:6.2f} s, warm {warm:.2f} s ({_busy()})", flush=True)


def _busy() -> str:
    return f"load {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores"


def _times(address: str, cache: Path, evaluations: int, rounds: int = _ROUNDS) -> tuple[float, float]:
    """Return how long the frame takes with an empty cache and with a full one; the best of some rounds."""
    client = MlflowClient(address)
    client.get_experiment_by_name(STUDY)  # the first contact makes connections
    cold, warm = [], []
    for number in range(rounds):
        for times in (cold, warm):
            start = time.perf_counter()
            frame = load(client, STUDY, cache=cache / str(number))
            times.append(time.perf_counter() - start)
            assert frame.observations["run_id"].nunique() == evaluations
    for _ in range(_ROUNDS - rounds):
        start = time.perf_counter()
        load(client, STUDY, cache=cache / "0")
        warm.append(time.perf_counter() - start)
    return min(cold), min(warm)


def _outcomes(address: str, cache: Path, evaluations: int) -> None:
    """Report how long single questions take. All copies name one file: it is read as often, but lies in memory."""
    client = MlflowClient(address)
    frame = load(client, STUDY, cache=cache)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        found = stored_outcomes(client, frame, cache=cache)
        seconds.append(time.perf_counter() - start)
        assert sum(run.key.source is not None for run in found.runs) == evaluations
    _report("outcomes", *seconds)


def _recommend(address: str, cache: Path) -> None:
    """Report how long `recommend` takes, its modules loaded."""
    client, seconds = MlflowClient(address), []
    os.environ["XDG_CACHE_HOME"] = str(cache)
    for _ in range(2):
        start = time.perf_counter()
        recommend_recorded(
            StudyStore(client, STUDY, cache_root()), model="base-1", want=["arc_challenge/bn"], protect=["*/en"]
        )
        seconds.append(time.perf_counter() - start)
    _report("recommend", *seconds)


def _plain_sql(file: Path) -> float:
    start = time.perf_counter()
    with sqlite3.connect(file) as database:
        for table in ("runs", "tags", "latest_metrics"):
            database.execute(f"SELECT * FROM {table}").fetchall()
    return time.perf_counter() - start


def _awake(address: str) -> None:
    """Have every process of a server answer: its first answer takes seconds."""
    client = MlflowClient(address)
    for _ in range(_ROUNDS):
        with ThreadPoolExecutor(_CONTACTS) as threads:
            list(threads.map(lambda _: client.search_experiments(max_results=1), range(_CONTACTS)))


def _server(folder: Path) -> MlflowProcess:
    """Return an MLflow server on the store, with its own number of processes, to be started."""
    arguments = ["server", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    return MlflowProcess(arguments, folder / "server.log")


if __name__ == "__main__":
    main()
