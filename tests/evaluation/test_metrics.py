"""What an evaluation records follows from its scores."""

from __future__ import annotations

import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from registry.cells import Cell, Grid
from registry.evaluation.metrics import (
    TargetScore,
    accuracy_metrics,
    below_chance,
    chance_metrics,
    delta_metrics,
    record_inputs,
    score_metrics,
)
from registry.sources import Source
from registry.tracking.chance import chance_p
from registry.tracking.names import Kind
from registry.tracking.outcomes import recorded_scores
from registry.tracking.runs import recorded
from registry.tracking.store import experiment_id

EN, DE, TR = (Cell("arc", language) for language in ("en", "de", "tr"))
OTHER_EN, OTHER_DE = Cell("mmlu", "en"), Cell("mmlu", "de")


def scored(score: float, *, chance: float = 0.25, headline: str = "acc_norm") -> TargetScore:
    return TargetScore(acc=0.9 if headline == "acc_norm" else score, acc_norm=score, chance=chance, headline=headline)


def test_deltas_are_percentage_points_and_rates_percent_by_regime() -> None:
    baseline = {EN: 0.50, DE: 0.40, TR: 0.30, OTHER_EN: 0.25, OTHER_DE: 0.60}
    scores = {EN: 0.75, DE: 0.40, TR: 0.45, OTHER_EN: 0.125, OTHER_DE: 0.595}
    assert delta_metrics(Source.of_cell(EN), scores, baseline) == pytest.approx(
        {
            "delta/MT-ML/arc/en": 25.0,
            "delta/MT-CL/arc/de": 0.0,
            "delta/MT-CL/arc/tr": 15.0,
            "delta/CT-ML/mmlu/en": -12.5,
            "delta/CT-CL/mmlu/de": -0.5,
            "delta_mean/MT-ML": 25.0,
            "delta_mean/MT-CL": 7.5,
            "delta_mean/CT-ML": -12.5,
            "delta_mean/CT-CL": -0.5,
            "positive_rate/MT-ML": 100.0,
            "positive_rate/MT-CL": 50.0,
            "positive_rate/CT-ML": 0.0,
            "positive_rate/CT-CL": 0.0,
            "harm_rate/MT-ML": 0.0,
            "harm_rate/MT-CL": 0.0,
            "harm_rate/CT-ML": 100.0,
            "harm_rate/CT-CL": 0.0,
        }
    )


def test_a_target_is_harmed_from_one_point_down_on() -> None:
    metrics = delta_metrics(Source.of_cell(EN), {DE: 0.49, TR: 0.4951}, {DE: 0.50, TR: 0.50})
    assert metrics["harm_rate/MT-CL"] == 50.0


@pytest.mark.parametrize("items", [100, 200, 500, 1000])
def test_a_hundredth_of_the_items_lost_is_exactly_one_point_whatever_the_baseline(items: int) -> None:
    for right in range(items // 100, items + 1):
        metrics = delta_metrics(Source.of_cell(EN), {DE: (right - items // 100) / items}, {DE: right / items})
        assert (metrics["delta/MT-CL/arc/de"], metrics["harm_rate/MT-CL"]) == (-1.0, 100.0)


def test_every_accuracy_is_recorded_and_the_headline_is_the_score() -> None:
    scores = {EN: scored(0.5), DE: TargetScore(acc=0.3, acc_norm=0.2, chance=0.1, headline="acc")}
    assert score_metrics(scores) == {"score/arc/en": 0.5, "score/arc/de": 0.3}
    assert accuracy_metrics(scores) == {
        "acc/arc/en": 0.9, "acc_norm/arc/en": 0.5, "acc/arc/de": 0.3, "acc_norm/arc/de": 0.2,
    }  # fmt: skip
    assert chance_metrics(scores) == {"chance/arc/en": 0.25, "chance/arc/de": 0.1}


def test_below_chance_is_tested_over_all_targets() -> None:
    def quantity(correct: int, of: int = 200) -> TargetScore:
        return dataclasses.replace(scored(correct / of), chance_p=chance_p(correct, [0.25] * of))

    # A standard error is 6 questions: one below is luck, four below is not.
    assert below_chance({EN: quantity(50), DE: quantity(44)}) == {}
    assert list(below_chance({EN: quantity(50), DE: quantity(26)})) == [DE]
    # Two below are found alone, not among twenty.
    low = quantity(37)
    assert 0.01 < low.chance_p < 0.025
    assert below_chance({DE: low}) == {DE: pytest.approx(low.chance_p)}
    many = {Cell("arc", f"l{number}"): quantity(50) for number in range(20)}
    assert below_chance(many | {DE: low}) == {}


def test_what_was_not_tested_is_not_called_below_chance() -> None:
    assert below_chance({DE: scored(0.1)}) == {}
    assert chance_metrics({DE: scored(0.1)}) == {"chance/arc/de": 0.25}


def test_scores_read_back_from_the_run(client) -> None:
    with recorded(client, experiment_id(client, "small"), kind=Kind.BASELINE, name="x", tags={}) as recording:
        recording.metrics(score_metrics({EN: scored(1 / 3), OTHER_DE: scored(2 / 7)}))
    assert recorded_scores(client.get_run(recording.run_id)) == {EN: 1 / 3, OTHER_DE: 2 / 7}


def test_each_regime_is_a_data_set_of_the_run_whose_digest_follows_its_cells(client) -> None:
    grid = Grid(("arc", "mmlu"), ("en", "de"))
    digests = {cell: f"digest of {cell}" for cell in grid}

    def inputs(**changed: str) -> dict[str, object]:
        with recorded(client, experiment_id(client, "small"), kind=Kind.EVALUATE, name="x", tags={}) as recording:
            changed_digests = digests | {Cell.parse(key.replace("_", "/")): value for key, value in changed.items()}
            sets = {"MT-CL": [DE], "CT-CL": [OTHER_DE, OTHER_EN]}
            record_inputs(recording, sets, benchmark="demo", digests=changed_digests)
        return {entry.tags[0].value: entry for entry in client.get_run(recording.run_id).inputs.dataset_inputs}

    found, again, changed = inputs(), inputs(), inputs(mmlu_de="another")
    assert set(found) == {"MT-CL", "CT-CL"}
    assert json.loads(found["CT-CL"].dataset.profile) == {"cells": ["mmlu/de", "mmlu/en"]}
    assert {tag.key: tag.value for tag in found["CT-CL"].tags} == {"mlflow.data.context": "CT-CL", "regime": "CT-CL"}
    assert {key: entry.dataset.digest for key, entry in found.items()} == {
        key: entry.dataset.digest for key, entry in again.items()
    }
    assert changed["CT-CL"].dataset.digest != found["CT-CL"].dataset.digest
    assert changed["MT-CL"].dataset.digest == found["MT-CL"].dataset.digest


def test_runs_that_name_a_new_data_set_at_once_all_get_it(client) -> None:
    experiment, runs = experiment_id(client, "small"), 8
    together = threading.Barrier(runs)

    def record(_: int) -> int:
        with recorded(client, experiment, kind=Kind.FINETUNE, name="x", tags={}) as recording:
            for number in range(5):
                together.wait(timeout=300)
                record_inputs(recording, {"training": [EN]}, benchmark="demo", digests={EN: f"digest {number}"})
        return len(client.get_run(recording.run_id).inputs.dataset_inputs)

    with ThreadPoolExecutor(runs) as pool:
        assert list(pool.map(record, range(runs))) == [5] * runs
