"""Outcomes of questions, from the frames that runs record."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.measures.answers import RunKey, collect
from registry.cells import Cell
from registry.errors import Refused
from registry.evaluation.outcomes import Outcomes, Questions
from registry.planning.experiment import prepare

HEADLINES = {"arc": "acc_norm", "mmlu": "acc"}
ARC, MMLU = Cell("arc", "de"), Cell("mmlu", "de")


def _frame(chosen: dict[Cell, list[int]], chosen_norm: dict[Cell, list[int]]) -> pd.DataFrame:
    """Outcomes of questions q0, q1, … with three options, of which the first is right."""
    rows = [
        (
            cell.task,
            cell.language,
            f"q{number}",
            option,
            option == 0,
            option == pick,
            option == chosen_norm[cell][number],
        )
        for cell, picks in chosen.items()
        for number, pick in enumerate(picks)
        for option in range(3)
    ]
    columns = ["task", "language", "question", "option", "right", "chosen", "chosen_norm"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype({"task": "category", "language": "category"})


BASE = _frame({ARC: [0, 1, 2, 0], MMLU: [0, 0, 1]}, {ARC: [1, 0, 2, 0], MMLU: [1, 1, 1]})
TUNED = _frame({ARC: [1, 1, 1, 1], MMLU: [1, 0, 0]}, {ARC: [0, 0, 0, 2], MMLU: [0, 0, 0]})
BASELINE, ADAPTER = RunKey("one"), RunKey("one", ARC, 17)


def test_the_headline_accuracy_decides_and_rows_may_come_in_any_order() -> None:
    shuffled = TUNED.sample(frac=1, random_state=3)
    arc, mmlu = collect([(ADAPTER, shuffled), (BASELINE, BASE)], HEADLINES)
    # arc by acc_norm: base ✗✓✗✓, adapter ✓✓✓✗; mmlu by acc: base ✓✓✗, adapter ✗✓✓.
    assert dict(zip(arc.questions, arc.changes()[ARC][0], strict=True)) == {"q0": 1, "q1": 0, "q2": 1, "q3": -1}
    assert dict(zip(mmlu.questions, mmlu.changes()[ARC][0], strict=True)) == {"q0": -1, "q1": 0, "q2": 1}


def test_outcomes_of_the_engine_give_its_scores(small_study) -> None:
    experiment = prepare(small_study())
    random = np.random.default_rng(0)
    asked = Questions.of(experiment)
    runs = [Outcomes(asked, [random.normal(-9, 3, count) for count in asked.counts]) for _ in range(2)]
    headlines = {cell.task: score.headline for cell, score in runs[0].scores().items()}
    source = next(iter(experiment.grid))
    frames = [(RunKey("tiny"), runs[0].frame()), (RunKey("tiny", source, 17), runs[1].frame())]
    collected = collect(frames, headlines)
    before, after = (run.scores() for run in runs)
    assert {block.target for block in collected} == set(experiment.grid)
    for block in collected:
        expected = after[block.target].score - before[block.target].score
        assert block.changes()[source].mean() == pytest.approx(expected, abs=1e-12)


def test_a_baseline_per_seed_is_compared_with_its_seed() -> None:
    runs = [
        (RunKey("one", None, 1), BASE),
        (RunKey("one", None, 2), TUNED),
        (RunKey("one", ARC, 1), TUNED),
        (RunKey("one", ARC, 2), TUNED),
    ]
    arc, _ = collect(runs, HEADLINES)
    assert arc.changes()[ARC].tolist() == [[1, 0, 1, -1], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([(BASELINE, BASE), (ADAPTER, TUNED), (ADAPTER, TUNED)], "one arc/de seed 17 was given twice on arc/de"),
        (
            [(BASELINE, BASE), (ADAPTER, TUNED[TUNED["question"] != "q1"])],
            "3 questions of arc/de, 3 of them among the 4",
        ),
        ([(BASELINE, BASE), (ADAPTER, TUNED.drop(columns="right"))], "no column right"),
        ([(BASELINE, BASE), (ADAPTER, TUNED.assign(chosen_norm=True))], "several options of arc/de question 'q0'"),
        (
            [(BASELINE, BASE.assign(chosen_norm=BASE["chosen_norm"] & (BASE["question"] != "q0")))],
            "3 questions of arc/de",
        ),
        ([(ADAPTER, TUNED)], "no baseline for one arc/de seed 17 on arc/de; there: none"),
        ([(RunKey("one", None, 4), BASE), (ADAPTER, TUNED)], "there: seed 4"),
        ([(BASELINE, BASE), (RunKey("one", None, 17), BASE), (ADAPTER, TUNED)], "leave out one kind"),
        ([(BASELINE, BASE.assign(task="piqa"))], "piqa, of which the headline accuracy is not known"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, message: str) -> None:
    with pytest.raises(Refused, match=message):
        collect(runs, HEADLINES)


def test_an_unknown_headline_is_refused() -> None:
    with pytest.raises(Refused, match="must be acc or acc_norm"):
        collect([], {"arc": "f1"})
