"""Which run of equal fingerprint counts: the first whole one, whoever comes later; what differs is a conflict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Metric

from registry.files.outputs import file_digest
from registry.tracking.duplicates import ConflictError, Result, refuse_conflicts, resolve, resolve_runs, result_values
from registry.tracking.names import Kind, Tag
from registry.tracking.outcomes import outcomes_problem
from registry.tracking.runs import finished_by_fingerprint

VALUES = {"score/kind/en": 0.5, "delta/MT-ML/kind/en": 1.5}


def result(
    run_id: str, ended: int, values: Mapping[str, float] = VALUES, *, kind: str = Kind.EVALUATE, **tags: str
) -> Result:
    return Result(run_id, kind, 0, ended, {Tag.FINGERPRINT: "f", Tag.SEED: "17", **tags}, values)


def test_the_first_to_have_finished_counts_and_the_others_are_its_duplicates() -> None:
    found = resolve([result("later", 9), result("first", 3), result("last", 12)], lambda *_: True)
    assert found.counting == {"first"}
    assert found.duplicates == {"later": "first", "last": "first"}
    assert found.verified == {"later", "last"}
    assert found.conflicts == ()


def test_what_cannot_be_compared_is_a_duplicate_and_not_verified() -> None:
    found = resolve([result("a", 1), result("b", 2)])
    assert (dict(found.duplicates), found.verified) == ({"b": "a"}, frozenset())


DIFFERENCES: list[tuple[Result, str]] = [
    (result("b", 2, VALUES | {"score/kind/en": 0.5000000000000001}), "score/kind/en 0.5 and 0.5"),
    (result("b", 2, VALUES | {"delta/MT-ML/kind/en": 99.0}), "delta/MT-ML/kind/en 1.5 and 99"),
    (result("b", 2, VALUES | {"score/kind/en": float("nan")}), "score/kind/en 0.5 and nan"),
    (result("b", 2, {"score/kind/tr": 0.5, "delta/MT-CL/kind/tr": 1.5}), "score/kind/en 0.5 and none, and 3 more"),
    (result("b", 2, seed="42"), "seed 17 and 42"),
    (result("b", 2, source_language="tr"), "source_language None and tr"),
]


@pytest.mark.parametrize(("other", "told"), DIFFERENCES)
def test_runs_that_differ_are_a_conflict_that_names_both_and_what_differs(other: Result, told: str) -> None:
    found = resolve([result("a", 1), other], lambda *_: True)
    assert found.counting == {"a"}  # for what must not stop
    (conflict,) = found.conflicts
    with pytest.raises(ConflictError) as refused:
        refuse_conflicts(found.conflicts, "study small")
    assert told in str(conflict)
    assert "runs a and b share a fingerprint" in str(refused.value)


def test_the_same_metrics_with_other_files_are_a_conflict() -> None:
    found = resolve([result("a", 1), result("b", 2)], lambda *_: False)
    assert "the answers in outcomes.parquet" in str(found.conflicts[0])


@pytest.mark.parametrize("values", [{}, {"score/kind/en": 0.5}], ids=["no result", "no delta"])
def test_a_run_that_lacks_results_is_not_the_first(values: Mapping[str, float]) -> None:
    found = resolve([result("empty", 1, values), result("whole", 2)], lambda *_: True)
    assert (found.counting, found.incomplete, found.conflicts) == ({"whole"}, {"empty"}, ())


def test_a_run_that_was_cut_short_gives_way_to_the_one_that_has_all() -> None:
    more = VALUES | {"score/kind/tr": 0.25, "delta/MT-CL/kind/tr": -1.0}
    found = resolve([result("part", 1), result("whole", 2, more)], lambda *_: True)
    assert (found.counting, found.incomplete, found.conflicts) == ({"whole"}, {"part"}, ())


def test_where_none_is_whole_the_first_counts_and_other_kinds_and_fingerprints_are_others() -> None:
    runs = [result("b", 2, {}), result("a", 1, {}), result("c", 1, fingerprint="g"), result("d", 1, kind=Kind.BASELINE)]
    assert resolve(runs).counting == {"a", "c", "d"}
    nameless = [Result(run_id, Kind.EVALUATE, 0, 0, {}, VALUES) for run_id in "xy"]
    assert resolve(nameless).counting == {"x", "y"}


@given(st.permutations([result("a", 1), result("b", 1), result("c", 2), result("d", 2, {}), result("e", 3)]))
def test_the_order_in_which_a_store_lists_runs_decides_nothing(runs: list[Result]) -> None:
    assert resolve(runs, lambda *_: True) == resolve(sorted(runs, key=lambda one: one.run_id), lambda *_: True)


def test_only_results_are_compared() -> None:
    kept = {"score/kind/en": 1.0, "acc/kind/en": 1.0, "chance/kind/en": 1.0, "delta/MT-ML/kind/en": 1.0}
    others = {"seconds/score": 1.0, "tokens/score": 1.0, "delta_mean/MT-ML": 1.0, "score/mean": 1.0, "train/loss": 1.0}
    trained = {"train/final_loss": 1.0, "train/kept_epoch": 1.0}
    assert result_values(kept | others | trained) == kept | trained


# --- in a store


def answers(seed: int = 0) -> pd.DataFrame:
    """Outcomes of four questions with two options each; ``seed`` decides the log-likelihoods alone."""
    rows = [
        ("kind", "en", f"q{n}", option, option == 0, option == n % 2, option == 0)
        for n in range(4)
        for option in (0, 1)
    ]
    columns = ["task", "language", "question", "option", "right", "chosen", "chosen_norm"]
    random = np.random.default_rng(seed)
    return pd.DataFrame(rows, columns=columns).assign(loglikelihood=random.normal(size=len(rows)))


@pytest.fixture
def experiment(client: MlflowClient) -> str:
    return str(client.create_experiment("small"))


def scored(client: MlflowClient, experiment: str, folder: Path, frame: pd.DataFrame | None, **options: object) -> str:
    run = client.create_run(experiment, tags={Tag.KIND: Kind.EVALUATE, Tag.FINGERPRINT: "f"})
    client.log_batch(run.info.run_id, metrics=[Metric(name, value, 1, 0) for name, value in VALUES.items()])
    if frame is not None:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        pq.write_table(table, folder / "outcomes.parquet", **options)
        client.log_artifact(run.info.run_id, str(folder / "outcomes.parquet"))
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def test_answers_are_compared_by_content(client: MlflowClient, experiment: str, tmp_path: Path) -> None:
    """Other bytes of the same content are the same; one log-likelihood that differs in its last digit is not."""
    first = scored(client, experiment, tmp_path, answers())
    scored(client, experiment, tmp_path, answers(), compression="zstd", use_dictionary=False)
    scored(client, experiment, tmp_path, None)
    runs = client.search_runs([experiment])
    found = resolve_runs(client, runs)
    assert (found.counting, found.conflicts) == ({first}, ())
    assert (len(found.duplicates), len(found.verified)) == (2, 1)
    other = answers()
    other.loc[3, "loglikelihood"] = np.nextafter(other.loc[3, "loglikelihood"], 0)
    twin = scored(client, experiment, tmp_path, other)
    (conflict,) = resolve_runs(client, client.search_runs([experiment])).conflicts
    assert (conflict.first, conflict.second) == (first, twin)
    assert finished_by_fingerprint(client, experiment, Kind.EVALUATE)["f"].info.run_id == first
    with pytest.raises(ConflictError, match=f"study small: evaluate runs {first} and {twin}"):
        finished_by_fingerprint(client, experiment, Kind.EVALUATE, strict=True)
    client.delete_run(twin)
    assert finished_by_fingerprint(client, experiment, Kind.EVALUATE, strict=True)["f"].info.run_id == first


def test_after_its_deletion_another_run_counts(client: MlflowClient, experiment: str, tmp_path: Path) -> None:
    first, second = (scored(client, experiment, tmp_path, answers()) for _ in range(2))
    client.delete_run(first)
    assert finished_by_fingerprint(client, experiment, Kind.EVALUATE, strict=True)["f"].info.run_id == second
    client.restore_run(first)
    assert finished_by_fingerprint(client, experiment, Kind.EVALUATE, strict=True)["f"].info.run_id == first


def test_a_file_is_held_against_the_digest_and_the_accuracies_of_its_run(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.parquet"
    answers().to_parquet(path)
    right = {"acc/kind/en": 0.5, "acc_norm/kind/en": 1.0}
    assert outcomes_problem(path, {}, right) == ""
    assert outcomes_problem(path, {Tag.OUTCOMES_DIGEST: file_digest(path)}, right) == ""
    assert "gives acc 0.5 on kind/en, 0.25 was recorded" in outcomes_problem(path, {}, right | {"acc/kind/en": 0.25})
    digest = {Tag.OUTCOMES_DIGEST: file_digest(path)}
    answers(1).to_parquet(path)  # the same choices, other log-likelihoods
    assert outcomes_problem(path, {}, right) == ""
    assert "another SHA-256" in outcomes_problem(path, digest, right)
    path.write_bytes(b"PAR1 and nothing")
    assert "cannot be read" in outcomes_problem(path, {}, right)
