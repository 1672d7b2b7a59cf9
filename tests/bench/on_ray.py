"""``make bench-ray``: a study on a Ray cluster of two nodes with a core each, against two processes on this machine.

The same command and grid both times, each in a store of its own; results are compared to the last digit. Counted is the
time from the first run's start to the last one's end, since the cluster is there already; the whole command's time,
with the start of its workers, is told beside it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from registry.paths import PROJECT
from registry.tracking.names import Kind, Tag
from registry.tracking.store import all_runs, experiment_id, open_store

_STUDY = """\
name: bench
benchmark: demo
models: [demo-wide, demo-deep]
sources: [{sources}]
seeds: [17, 42]
recipe: {{learning_rate: 5.0e-4, epochs: 3, batch_size: 8, lora: {{rank: 8, alpha: 16}}, validation: 0}}
"""
_SOURCES = ("kind/en", "pair/tr", "kind/de", "pair/en", "kind/tr", "pair/de")
_SMALL = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


def main() -> None:
    """Run the benchmark."""
    options = _options()
    seconds: dict[str, list[tuple[float, float]]] = {"local": [], "ray": []}
    results = []
    print(f"load before: {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")
    with tempfile.TemporaryDirectory(prefix="bench-ray-") as name, _cluster() as address:
        study = Path(name) / "bench.yaml"
        study.write_text(_STUDY.format(sources=", ".join(_SOURCES[: options.sources])), encoding="utf-8")
        for number in range(options.rounds):
            for runner, told in (("local", ["--workers", "2"]), ("ray", ["--runner", "ray", "--ray-address", address])):
                store = f"sqlite:///{name}/{runner}-{number}/mlflow.db"
                whole = _run([sys.executable, "-m", "entrypoints.study", "--study", str(study), *told], store)
                span, found = _recorded(store)
                seconds[runner].append((span, whole))
                results.append(found)
                print(f"round {number + 1}, {runner:<6}{span:7.1f} s of work, {whole:6.1f} s in all", flush=True)
    assert all(found == results[0] for found in results), "results differ"
    ours, theirs = (median(span for span, _ in seconds[runner]) for runner in ("local", "ray"))
    print(f"{len(results[0])} runs, equal to the last digit; load after: {os.getloadavg()[0]:.1f}")
    print(f"efficiency: {ours / theirs:.0%}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench.on_ray", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each side runs, in turn (3)")
    parser.add_argument(
        "--sources", type=int, default=4, help="source cells, at most 6, of two bases and two seeds (4)"
    )
    return parser.parse_args()


@contextmanager
def _cluster() -> Iterator[str]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=_SMALL)
    try:
        cluster.add_node(**_SMALL)
        yield str(cluster.address)
    finally:
        cluster.shutdown()


def _run(command: list[str], store: str) -> float:
    started = time.perf_counter()
    environment = os.environ | {"MLFLOW_TRACKING_URI": store}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    return time.perf_counter() - started


def _recorded(store: str) -> tuple[float, dict[tuple[str, str], dict[str, float]]]:
    """Return the seconds from the first run's start to the last one's end, and every score by fingerprint."""
    client = open_store(store)
    runs = all_runs(client, [experiment_id(client, "bench")], f"tags.{Tag.KIND} != '{Kind.STUDY}'")
    span = max(run.info.end_time for run in runs) - min(run.info.start_time for run in runs)
    exact = ("score/", "acc", "delta", "train/")
    found = {
        (run.data.tags[Tag.KIND], run.data.tags[Tag.FINGERPRINT]): {
            key: value for key, value in run.data.metrics.items() if key.startswith(exact)
        }
        for run in runs
    }
    return span / 1000, found


if __name__ == "__main__":
    main()
