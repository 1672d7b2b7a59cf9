"""A study chooses which accuracy is a task's score: nothing is trained again for it, and no two are mixed silently."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.corrected.cells import measured_cells
from analysis.reading.frame import Frame, MixedHeadlinesError, load
from analysis.reading.outcomes import stored_outcomes, study_outcomes
from analysis.record import require_one_headline
from registry.benchmarks.aligned import align
from registry.benchmarks.kinds import load_benchmark
from registry.cards.card import Facts, card
from registry.cards.results import results_of
from registry.cells import Cell
from registry.config.data import BenchmarkSpec
from registry.config.files import load_study, spec_of
from registry.config.study import Study
from registry.deploy.best import best_for
from registry.errors import Refused
from registry.evaluation.outcomes import Outcomes, Questions
from registry.planning.experiment import prepare
from registry.runner.session import prospect
from registry.runner.single import evaluate_one, narrowed
from registry.serving.metadata import read_metadata
from registry.tracking.adapters import RegisteredAdapter, download_adapter
from registry.tracking.names import Kind, Tag
from registry.tracking.outcomes import recorded_accuracies
from registry.tuning.preparation import prepare_search

CHOSEN = ("benchmark: demo", "benchmark: {kind: demo, headline: {pair: acc}}")
FEW = ("seeds: [17, 42]", "seeds: [17]\nsources: [kind/en, pair/tr]")
#: Options so few and items so many that both accuracies differ on each target of the tiny base.
ITEMS = ("test: 16", "test: 60")


def refingerprinted(one: Study, other: Study) -> list[tuple[bool, bool]]:
    """Whether the fine-tune, and the evaluation, of each job have another fingerprint in another study."""
    pairs = zip(prepare(one).jobs(), prepare(other).jobs(), strict=True)
    return [(mine.finetune != theirs.finetune, mine.evaluate != theirs.evaluate) for mine, theirs in pairs]


def test_the_choice_decides_evaluations_alone_and_the_styles_own_decides_nothing(small_study) -> None:
    plain = small_study(FEW)
    assert refingerprinted(plain, small_study(FEW, CHOSEN)) == [(False, True)] * 3
    own = "benchmark: {kind: demo, headline: acc_norm}"
    assert refingerprinted(plain, small_study(FEW, ("benchmark: demo", own))) == [(False, False)] * 3
    every = small_study(FEW, ("benchmark: demo", "benchmark: {kind: demo, headline: acc}"))
    assert refingerprinted(small_study(FEW, CHOSEN), every) == [(False, True)] * 3


def test_a_task_of_files_says_it_itself(tmp_path) -> None:
    (tmp_path / "en").mkdir()
    rows = "".join(f"{number}\tQ{number}?\t0\tshort{number}\ta long one {number}\n" for number in range(8))
    (tmp_path / "en" / "all.tsv").write_text(f"id\ttext\tlabel\tx\ty\n{rows}")
    task = {"train": "{language}/all.tsv", "test": "{language}/all.tsv", "id": "id", "question": "text"}
    task |= {"options": ("x", "y"), "answer": "label"}

    def items(**more: str):
        spec = BenchmarkSpec(kind="files", path=str(tmp_path), languages=("en",), tasks={"one": task | more})
        benchmark = load_benchmark(spec)
        return align(benchmark, benchmark.grid, load_study("demo", split={"train": 2, "test": 4}).split)

    plain, chosen, own = items(), items(headline="acc"), items(headline="acc_norm")
    cell = Cell("one", "en")
    assert [found.prompts["one"].headline for found in (plain, chosen, own)] == ["acc_norm", "acc", "acc_norm"]
    assert [dict(found.headlines) for found in (plain, chosen, own)] == [{}, {"one": "acc"}, {}]
    assert len({found.digest(cell, part) for found in (plain, chosen, own) for part in ("train", "test")}) == 2


@pytest.mark.parametrize(
    ("benchmark", "told"),
    [
        ("{kind: demo, headline: {piar: acc}}", "benchmark.headline: there is no task 'piar'; nearest: pair"),
        ("{kind: demo, headline: accuracy}", "small.yaml:3: benchmark.headline: input should be 'acc' or 'acc_norm'"),
        (
            "{kind: demo, headline: {pair: f1}}",
            "benchmark.headline.pair: input should be 'acc' or 'acc_norm' (got 'f1')",
        ),
    ],
)
def test_a_wrong_choice_is_told(small_study, benchmark: str, told: str) -> None:
    with pytest.raises(Refused) as caught:
        prepare(small_study(("benchmark: demo", f"benchmark: {benchmark}")))
    assert told in str(caught.value)


def test_a_search_judges_by_the_chosen_accuracy(small_study) -> None:
    tune = ("recipe:", "tune: {objective: transfer}\nrecipe:")

    def found(*replaced: tuple[str, str]):
        study = small_study(tune, *replaced)
        return prepare_search(study, spec_of(study), task="pair")

    plain, chosen = found(), found(CHOSEN)
    assert plain.fingerprint != chosen.fingerprint
    questions = Questions.of(chosen.experiment)
    values = [np.linspace(-9.0, -1.0, count) for count in questions.counts]
    for cell, score in Outcomes(questions, values).scores().items():
        assert score.score == (score.acc if cell.task == "pair" else score.acc_norm)
    losses = ("objective: transfer", "objective: validation_loss")
    assert found(losses).fingerprint == found(losses, CHOSEN).fingerprint


def as_measured(frame: Frame, headline: str) -> None:
    """The frame's scores of `pair` are of an accuracy, those of `kind` the style's own; deltas follow."""
    for row in frame.observations.itertuples():
        assert row.score == (getattr(row, headline) if row.target_task == "pair" else row.acc_norm)
        assert row.delta == pytest.approx(100 * (row.score - row.baseline), abs=1e-9)


def test_another_choice_scores_again_and_trains_nothing(records_of, small_study, rerun, caplog, tmp_path) -> None:
    plain = records_of(small_study(FEW, ITEMS))
    chosen = replace(plain, study=small_study(FEW, ITEMS, CHOSEN))
    client, name = plain.client, plain.study.name
    rerun(plain)
    before = load(client, name)
    as_measured(before, "acc_norm")
    assert before.headlines == {"kind": "acc_norm", "pair": "acc_norm"}

    ready = prospect(chosen.study, workers=1)
    assert (ready.plan.fine_tunes, ready.plan.evaluations) == (0, 3)
    evaluate_one(narrowed(chosen.study, task="pair", language="tr", seed=17))
    caplog.clear()
    mixed = load(client, name)
    assert mixed.headlines == {"kind": "acc_norm", "pair": "acc"}
    as_measured(mixed, "acc")
    (note,) = [note for note in mixed.notes if "The score of pair is acc" in note]
    assert "1 evaluation run recorded another accuracy" in note
    assert note in caplog.messages
    with pytest.raises(
        Refused, match=r"its score is not the same accuracy in all evaluations \(acc in small, acc_norm"
    ):
        best_for(client, Cell("pair", "en"))
    assert best_for(client, Cell("kind", "en")).version

    assert rerun(chosen) == []
    whole = load(client, name)
    key = ["source_task", "target_task", "target_language"]
    numbers = ["score", "baseline", "delta"]
    assert whole.observations.set_index(key)[numbers].equals(mixed.observations.set_index(key)[numbers])
    assert not [note for note in whole.notes if "The score of pair" in note]
    assert (before.observations["score"] != whole.observations["score"]).any(), "or nothing is shown"
    baselines = whole.baselines.set_index(["task", "language"])["score"]
    for row in whole.observations.itertuples():
        assert baselines[row.target_task, row.target_language] == row.baseline
    for frame in (mixed, whole):  # from every question's outcome, as from the metrics
        cells = measured_cells(study_outcomes(stored_outcomes(client, frame))).set_index(key)["delta"]
        assert cells.to_dict() == pytest.approx(whole.observations.set_index(key)["delta"].to_dict(), abs=1e-9)

    evaluations = chosen.finished(Kind.EVALUATE)
    for job in (job for job in chosen.experiment.jobs() if job.source is not None):
        run = evaluations[job.evaluate]
        assert run.data.tags[Tag.HEADLINES] == "kind=acc_norm pair=acc"
        for target, accuracy in ((Cell("pair", "en"), "acc"), (Cell("kind", "en"), "acc_norm")):
            found = recorded_accuracies(client, run.info.run_id, accuracy)[target]
            assert run.data.metrics[f"score/{target}"] == pytest.approx(found, abs=1e-12)
        asked_and_told_as_evaluated(client, RegisteredAdapter.of(run), job.source_cell, tmp_path / job.source_cell.task)
    assert best_for(client, Cell("pair", "en")).version
    back = prospect(plain.study, workers=1)
    assert back.plan.todo == ()


def test_studies_of_different_accuracies_are_not_compared(finished) -> None:
    frame = load(finished.client, finished.study.name)
    require_one_headline(frame, frame)
    other = replace(frame, study="other", headlines={"pair": "acc"})
    with pytest.raises(Refused, match=r"the score of pair is acc_norm in study 'small' and acc in 'other'"):
        require_one_headline(frame, other)


def asked_and_told_as_evaluated(client, adapter: RegisteredAdapter, source: Cell, folder: Path) -> None:
    """A version is served, and described, by the accuracy of its last evaluation, not of its training's study."""
    version = client.get_model_version(adapter.name, adapter.version)
    folder.mkdir()
    metadata = read_metadata(download_adapter(client, adapter, folder))
    assert metadata.prompt.headline == "acc_norm"
    wanted = "acc" if source.task == "pair" else "acc_norm"
    assert metadata.evaluated(version.tags).prompt.headline == wanted
    results = results_of(client, f"{adapter.name}/{adapter.version}")
    serving = {
        "base": {"name": "tiny", "reference": "tiny", "revision": "sha256:1"},
        "prompt": {"headline": "acc_norm"},
    }
    text = card(Facts(version.tags, {}, serving, "demo"), results)
    assert "The score of `pair` is `acc`." in text
    assert "The score of `kind` is `acc_norm`." in text
    assert f"headline: {wanted}\n" in text


def test_what_was_not_recorded_by_the_chosen_accuracy_is_refused(client) -> None:
    from tests.analysis.conftest import Recorder

    recorder, target = Recorder(client, "older"), Cell("arc", "en")
    base = recorder.baseline("lab/two-7b", {target: 0.5})
    for seed, headline in ((17, "acc_norm"), (42, "acc")):
        tags = {Tag.HEADLINES: f"arc={headline}"}
        recorder.evaluation("lab/two-7b", target, seed, {target: 0.6}, {target: 0.5}, base, **tags)
    with pytest.raises(MixedHeadlinesError, match=r"task arc: evaluations took different accuracies"):
        load(client, "older")
