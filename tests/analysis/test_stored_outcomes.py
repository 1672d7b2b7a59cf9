"""Answers to single questions, from the artifacts of runs to what was right: as the engine itself counted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from analysis.measures.answers import RunKey, StudyOutcomes, collect
from analysis.reading import outcome_files, outcomes
from analysis.reading.cache import cache_folder
from analysis.reading.frame import load
from analysis.reading.outcome_files import StoredTable
from analysis.reading.outcomes import StoredOutcomes, stored_outcomes
from analysis.reading.packed import PackedCache, pack
from analysis.reading.run_record import InconsistentRunError
from analysis.reading.study import StudyStore
from registry.cells import Cell, regime_of
from registry.files.outputs import file_digest
from registry.imports.imported import ImportedResults
from registry.imports.record import record_import
from registry.tracking.columns import BASELINE_COLUMNS, STORED_COLUMNS, WITH_CHECKSUMS
from registry.tracking.names import Tag, outcomes_file

if TYPE_CHECKING:
    from tests.analysis.conftest import Recorder

ONE, TWO = "lab/one-0.5b", "lab/two-7b"
ARC, MMLU = Cell("arc", "de"), Cell("mmlu", "de")
#: arc by acc_norm, mmlu by acc: an answer that only the other accuracy counts must not come out.
HEADLINES = {"arc": "acc_norm", "mmlu": "acc"}


def options(seed: int, questions: int = 11, cells: Sequence[Cell] = (ARC, MMLU)) -> pd.DataFrame:
    """Outcomes as the engine writes them: three to five options each, answers and choices drawn."""
    random = np.random.default_rng(seed)
    rows = []
    for cell in cells:
        for number in range(questions):
            count = 3 + number % 3  # not drawn: every run is asked the same
            chosen, chosen_norm = random.integers(count, size=2)
            rows += [
                (cell.task, cell.language, f"q{number}", option, -1.0, 4, option == number % count, *picked)
                for option in range(count)
                for picked in [(option == chosen, option == chosen_norm)]
            ]
    names = ["task", "language", "question", "option", "loglikelihood", "length", "right", "chosen", "chosen_norm"]
    return pd.DataFrame(rows, columns=names).astype({"task": "category", "language": "category"})


def scores(frame: pd.DataFrame) -> dict[Cell, float]:
    """Share of right answers by the headline accuracy."""
    found = {}
    for (task, language), rows in frame.groupby(["task", "language"], observed=True):
        chosen = rows["chosen_norm" if HEADLINES[task] == "acc_norm" else "chosen"]
        found[Cell(task, language)] = float((chosen & rows["right"]).sum() / rows["question"].nunique())
    return found


def told() -> dict[str, str]:
    """The tag that says which accuracy is a task's score."""
    return {Tag.HEADLINES: " ".join(f"{task}={name}" for task, name in HEADLINES.items())}


def log(recorder: Recorder, run: str, frame: pd.DataFrame | None, folder: Path) -> None:
    if frame is not None:
        frame.to_parquet(folder / "outcomes.parquet", index=False, compression="zstd")
        recorder.client.log_artifact(run, str(folder / "outcomes.parquet"))


def study(
    recorder: Recorder, folder: Path, *, model: str = ONE, lacking: int | None = None, base: pd.DataFrame | None = None
) -> tuple[str, dict[RunKey, str]]:
    """Record a base and three adapters with their outcomes, of which one may lack."""
    base = options(0) if base is None else base
    base_run = recorder.baseline(model, scores(base), **told())
    log(recorder, base_run, base, folder)
    runs = {}
    for seed in (1, 2, 3):
        mine = options(seed)
        run = recorder.evaluation(model, ARC, seed, scores(mine), scores(base), base_run, **told())
        log(recorder, run, None if seed == lacking else mine, folder)
        runs[RunKey(model, ARC, seed)] = run
    return base_run, runs


def same(found: StoredOutcomes, direct: dict[RunKey, pd.DataFrame]) -> None:
    """Fail unless a study's changes are those of the frames themselves."""
    mine, theirs = collect(found, found.headlines), collect(sorted(direct.items(), key=str), HEADLINES)
    assert changes(mine) == changes(theirs)


def changes(study: StudyOutcomes) -> dict[tuple[str, Cell, Cell], dict[str, list[int]]]:
    return {
        (block.model, block.target, source): {
            str(question): change[:, place].tolist() for place, question in enumerate(block.questions)
        }
        for block in study
        for source, change in block.changes().items()
    }


def check_outcomes(recorder: Recorder, folder: Path) -> None:
    """Record a study, read it cold and warm, and compare with the frames that were recorded."""
    study(recorder, folder)
    frame = load(recorder.client, recorder.study)
    direct = {RunKey(ONE): options(0)} | {RunKey(ONE, ARC, seed): options(seed) for seed in (1, 2, 3)}
    for _ in range(2):
        found = stored_outcomes(recorder.client, frame, cache=folder / "cache")
        same(found, direct)
        assert found.notes == ()
        assert len(found.test_sets) == 1
        assert {len(run.packed.bits) for run in found.runs} == {3}  # 22 questions, a bit each
    same(stored_outcomes(recorder.client, frame), direct)


def test_what_was_right_comes_back_from_artifacts_and_from_bits(recorder: Recorder, tmp_path: Path) -> None:
    check_outcomes(recorder, tmp_path)


def test_right_answers_are_the_recorded_scores(recorder: Recorder, tmp_path: Path) -> None:
    study(recorder, tmp_path)
    frame = load(recorder.client, recorder.study)
    by_run = frame.observations.set_index(["seed", "target_task"])["score"]
    for key, rows in stored_outcomes(recorder.client, frame):
        if key.source is not None:
            for task, share in rows.groupby("task", observed=True)["right"].mean().items():
                assert share == pytest.approx(by_run[key.seed, task], abs=1e-12)


def test_kept_runs_are_not_read_again_and_changed_ones_are(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, runs = study(recorder, tmp_path)
    frame = load(recorder.client, recorder.study)
    stored_outcomes(recorder.client, frame, cache=tmp_path / "cache")
    read = []
    packed = outcomes._packed
    monkeypatch.setattr(outcomes, "_packed", lambda one: read.append(one.run) or packed(one))
    stored_outcomes(recorder.client, frame, cache=tmp_path / "cache")
    assert read == []
    changed = runs[RunKey(ONE, ARC, 2)]
    log(recorder, changed, options(2), tmp_path)
    found = stored_outcomes(recorder.client, frame, cache=tmp_path / "cache")
    assert read == [changed]
    same(found, {RunKey(ONE): options(0)} | {RunKey(ONE, ARC, seed): options(seed) for seed in (1, 2, 3)})


# --- answers that were swapped


def shuffled(frame: pd.DataFrame) -> pd.DataFrame:
    """Return outcomes with as many right answers on every target, but to other questions."""
    names = frame["question"].unique()
    return frame.assign(question=frame["question"].map(dict(zip(names, np.roll(names, 3), strict=True))))


def check_swaps(recorder: Recorder, folder: Path) -> None:
    """Swap a file behind a warm cache: for one with other scores, and for one that only its digest tells."""
    base, runs = study(recorder, folder)
    client = recorder.client
    for run, frame in ((base, options(0)), *((runs[RunKey(ONE, ARC, seed)], options(seed)) for seed in (1, 2, 3))):
        frame.to_parquet(folder / "outcomes.parquet", index=False, compression="zstd")
        client.set_tag(run, Tag.OUTCOMES_DIGEST, file_digest(folder / "outcomes.parquet"))

    def read() -> StoredOutcomes:
        return stored_outcomes(client, load(client, recorder.study), cache=folder / "cache")

    read()
    for run, right in ((runs[RunKey(ONE, ARC, 2)], options(2)), (base, options(0))):
        for other in (options(77), shuffled(right)):
            log(recorder, run, other, folder)
            for _ in range(2):  # nothing of a refused file is kept
                with pytest.raises(InconsistentRunError, match=f"run {run}.*not the file that was recorded"):
                    read()
            log(recorder, run, right, folder)
            read()


def test_a_swapped_file_is_seen_behind_a_warm_cache(recorder: Recorder, tmp_path: Path) -> None:
    check_swaps(recorder, tmp_path)


def test_a_swapped_file_on_a_server_is_seen_behind_a_warm_cache(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StoredTable, "local", None)  # every file is downloaded, and none has a date
    check_swaps(recorder, tmp_path)


def test_all_files_on_a_server_are_looked_at_in_turn(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few each time; of an unnoticed edit without digest, all are read again once one of them is another."""
    _, runs = study(recorder, tmp_path)
    monkeypatch.setattr(StoredTable, "local", None)
    monkeypatch.setattr(outcomes, "_AGAIN", 1)
    frame, read = load(recorder.client, recorder.study), list[str]()
    stored_outcomes(recorder.client, frame, cache=tmp_path / "cache")
    packed = outcomes._packed
    monkeypatch.setattr(outcomes, "_packed", lambda one: read.append(one.run) or packed(one))
    for _ in range(4):
        stored_outcomes(recorder.client, frame, cache=tmp_path / "cache")
    assert len(set(read)) == len(read) == 4
    swapped = runs[RunKey(ONE, ARC, 3)]
    log(recorder, swapped, shuffled(options(3)), tmp_path)  # the scores stay the same
    read.clear()
    for _ in range(4):
        found = stored_outcomes(recorder.client, frame, cache=tmp_path / "cache")
    assert len(read) == 4 + 3
    direct = {RunKey(ONE): options(0)} | {RunKey(ONE, ARC, seed): options(seed) for seed in (1, 2)}
    same(found, direct | {RunKey(ONE, ARC, 3): shuffled(options(3))})


def test_a_file_of_the_same_size_and_age_is_read_again(recorder: Recorder, tmp_path: Path) -> None:
    _, runs = study(recorder, tmp_path)
    frame = load(recorder.client, recorder.study)
    stored_outcomes(recorder.client, frame, cache=tmp_path / "cache")
    run = runs[RunKey(ONE, ARC, 1)]
    assert frame.runs is not None
    file = StoredTable(recorder.client, run, frame.runs.folders[run], "outcomes.parquet").local
    assert file is not None
    before, other = file.stat(), file.read_bytes()
    places = [place for place in range(4, len(other)) if other[place]]
    file.write_bytes(other[: places[0]] + bytes([other[places[0]] ^ 1]) + other[places[0] + 1 :])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(InconsistentRunError, match=f"{run}"):
        stored_outcomes(recorder.client, frame, cache=tmp_path / "cache")


def test_answers_of_another_run_are_seen_without_a_digest(recorder: Recorder, tmp_path: Path) -> None:
    """In a store from before there were digests the scores tell, of bases and of adapters, and of edited metrics."""
    base, runs = study(recorder, tmp_path)
    client, run = recorder.client, runs[RunKey(ONE, ARC, 1)]
    for changed in (run, base):
        log(recorder, changed, options(55), tmp_path)
        with pytest.raises(InconsistentRunError, match=f"1 run are not those that were scored: run {changed}: score"):
            stored_outcomes(client, load(client, recorder.study), cache=tmp_path / "cache")
        log(recorder, changed, options(1 if changed == run else 0), tmp_path)
        stored_outcomes(client, load(client, recorder.study), cache=tmp_path / "cache")
    log(recorder, run, options(1, cells=[ARC]), tmp_path)
    with pytest.raises(InconsistentRunError, match="no answer on mmlu/de"):
        stored_outcomes(client, load(client, recorder.study), cache=tmp_path / "cache")


@pytest.mark.parametrize("lost", ["outcomes.parquet", "questions"])
def test_lost_and_broken_files_are_made_anew(recorder: Recorder, tmp_path: Path, lost: str) -> None:
    study(recorder, tmp_path)
    frame = load(recorder.client, recorder.study)
    expected = stored_outcomes(recorder.client, frame, cache=tmp_path / "cache")
    folder = cache_folder(tmp_path / "cache", recorder.client.tracking_uri, recorder.experiment)
    (file,) = folder.glob(f"{lost}*")
    file.write_bytes(b"PAR1")
    found = stored_outcomes(recorder.client, frame, cache=tmp_path / "cache")
    assert changes(collect(found, found.headlines)) == changes(collect(expected, expected.headlines))


@pytest.mark.parametrize("kept", ["outcomes.parquet", "questions"])
def test_a_flipped_bit_in_what_is_kept_changes_no_answer(recorder: Recorder, tmp_path: Path, kept: str) -> None:
    study(recorder, tmp_path)
    frame = load(recorder.client, recorder.study)
    expected = stored_outcomes(recorder.client, frame, cache=tmp_path / "cache")
    folder = cache_folder(tmp_path / "cache", recorder.client.tracking_uri, recorder.experiment)
    (file,) = folder.glob(f"{kept}*")
    whole = file.read_bytes()
    for place in np.random.default_rng(0).choice(len(whole), 8, replace=False):
        content = bytearray(whole)
        content[place] ^= 1 << (place % 8)
        file.write_bytes(content)
        found = stored_outcomes(recorder.client, frame, cache=tmp_path / "cache")
        assert changes(collect(found, found.headlines)) == changes(collect(expected, expected.headlines))


def test_a_flipped_bit_in_a_runs_own_file_gives_no_other_answer(recorder: Recorder, tmp_path: Path) -> None:
    _, runs = study(recorder, tmp_path)
    frame = load(recorder.client, recorder.study)
    expected = stored_outcomes(recorder.client, frame)
    run = runs[RunKey(ONE, ARC, 2)]
    options(2).to_parquet(tmp_path / "outcomes.parquet", index=False, compression="zstd", **WITH_CHECKSUMS)
    whole = (tmp_path / "outcomes.parquet").read_bytes()
    refused = 0
    for place in np.random.default_rng(0).choice(len(whole), 12, replace=False):
        content = bytearray(whole)
        content[place] ^= 1 << (place % 8)
        (tmp_path / "outcomes.parquet").write_bytes(content)
        recorder.client.log_artifact(run, str(tmp_path / "outcomes.parquet"))
        try:
            found = stored_outcomes(recorder.client, frame)
        except InconsistentRunError as error:
            assert f"run {run}" in str(error)
            refused += 1
        else:
            assert changes(collect(found, found.headlines)) == changes(collect(expected, expected.headlines))
    assert refused


def test_bits_that_are_too_few_for_the_questions_do_not_count(recorder: Recorder, tmp_path: Path) -> None:
    study(recorder, tmp_path)
    frame = load(recorder.client, recorder.study)
    expected = stored_outcomes(recorder.client, frame, cache=tmp_path / "cache")
    kept = PackedCache(cache_folder(tmp_path / "cache", recorder.client.tracking_uri, recorder.experiment))
    for run, (stamp, headlines, _, packed) in list(kept._rows.items()):
        kept.add(run, stamp, headlines, replace(packed, bits=packed.bits[:1]), kept.test_sets[packed.test_set])
    kept.save()
    found = stored_outcomes(recorder.client, frame, cache=tmp_path / "cache")
    assert changes(collect(found, found.headlines)) == changes(collect(expected, expected.headlines))


def test_no_run_is_blamed_for_answers_that_are_kept(
    recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study(recorder, tmp_path)
    client, cache = recorder.client, tmp_path / "cache"
    frame, expected = StudyStore(client, recorder.study, cache).frame_and_outcomes()
    kept = PackedCache(cache_folder(cache, client.tracking_uri, recorder.experiment))
    for run, (stamp, headlines, _, packed) in list(kept._rows.items()):
        others = replace(packed, bits=bytes(len(packed.bits)))
        kept.add(run, stamp, headlines, others, kept.test_sets[packed.test_set])
    kept.save()
    with pytest.raises(InconsistentRunError, match="are not those that were scored"):
        stored_outcomes(client, frame, cache=cache)
    for logged in (1, 0):
        caplog.clear()
        _, found = StudyStore(client, recorder.study, cache).frame_and_outcomes()
        assert changes(collect(found, found.headlines)) == changes(collect(expected, expected.headlines))
        assert caplog.text.count("is deleted and the store is read again") == logged


def test_runs_without_outcomes_are_noted(recorder: Recorder, tmp_path: Path) -> None:
    _, runs = study(recorder, tmp_path, lacking=2)
    found = stored_outcomes(recorder.client, load(recorder.client, recorder.study), cache=tmp_path / "cache")
    lacking = runs[RunKey(ONE, ARC, 2)]
    assert found.notes == (f"1 evaluation has no outcomes of single questions ({lacking}).",)
    assert {run.key.seed for run in found.runs} == {None, 1, 3}


def test_without_its_base_a_model_is_left_out(recorder: Recorder, tmp_path: Path) -> None:
    study(recorder, tmp_path)
    base = options(5)
    lonely = recorder.baseline(TWO, scores(base))
    run = recorder.evaluation(TWO, ARC, 1, scores(options(6)), scores(base), lonely)
    log(recorder, run, options(6), tmp_path)
    found = stored_outcomes(recorder.client, load(recorder.client, recorder.study))
    assert found.notes == (f"The baseline of {TWO} has no outcomes: single questions of it cannot be compared.",)
    assert {run.key.model for run in found.runs} == {ONE}


def test_of_two_bases_the_one_measured_against_most_is_taken(recorder: Recorder, tmp_path: Path) -> None:
    first, _ = study(recorder, tmp_path)
    other = options(9)
    second = recorder.baseline(ONE, scores(other), **told(), fingerprint="another")
    log(recorder, second, other, tmp_path)
    run = recorder.evaluation(ONE, MMLU, 1, scores(options(1)), scores(other), second, **told())
    log(recorder, run, options(1), tmp_path)
    found = stored_outcomes(recorder.client, load(recorder.client, recorder.study))
    assert (
        f"2 baselines with different answers. Single questions are compared with those of run {first}" in found.notes[0]
    )
    assert [run.run for run in found.runs if run.key.source is None] == [first]


def test_a_run_counts_only_for_targets_that_no_newer_run_measured(recorder: Recorder, tmp_path: Path) -> None:
    base_run, runs = study(recorder, tmp_path)
    newer = options(50, cells=[MMLU])
    changed = {Tag.FINGERPRINT: "changed"}
    run = recorder.evaluation(ONE, ARC, 1, scores(newer), scores(options(0)), base_run, **told(), **changed)
    log(recorder, run, newer, tmp_path)
    found = stored_outcomes(recorder.client, load(recorder.client, recorder.study))
    assert {one.run: one.targets for one in found.runs if one.key.seed == 1} == {
        run: {MMLU},
        runs[RunKey(ONE, ARC, 1)]: {ARC},
    }
    mixed = pd.concat([options(1)[lambda rows: rows["task"] == "arc"], newer])
    direct = {RunKey(ONE): options(0), RunKey(ONE, ARC, 1): mixed}
    same(found, direct | {RunKey(ONE, ARC, seed): options(seed) for seed in (2, 3)})


def test_a_base_of_another_study_is_found(recorder: Recorder, tmp_path: Path) -> None:
    lender = type(recorder)(recorder.client, f"{recorder.study}-lender")
    base_run, _ = study(lender, tmp_path)
    run = recorder.evaluation(ONE, ARC, 1, scores(options(1)), scores(options(0)), base_run, **told())
    log(recorder, run, options(1), tmp_path)
    found = stored_outcomes(recorder.client, load(recorder.client, recorder.study))
    assert [one.run for one in found.runs] == [run, base_run]


@pytest.mark.parametrize("held", [True, False])
def test_an_import_is_read_from_its_one_run(recorder: Recorder, tmp_path: Path, held: bool) -> None:
    direct = {RunKey(ONE): options(0)} | {RunKey(ONE, ARC, seed): options(seed) for seed in (1, 2)}
    for key, rows in direct.items():
        path = tmp_path / "staging" / outcomes_file(ONE, key.source, key.seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(path, index=False)
    rows = [observation(target, seed) for seed in (1, 2) for target in (ARC, MMLU)]
    baselines = [(ONE, cell.task, cell.language, share, 0.25, False) for cell, share in scores(options(0)).items()]
    imported = ImportedResults(
        name="results",
        format="lm_eval",
        digest="0" * 64,
        observations=pd.DataFrame(rows)[STORED_COLUMNS],
        baselines=pd.DataFrame(baselines, columns=BASELINE_COLUMNS),
        seed_averaged=False,
        outcomes=tmp_path / "staging" if held else None,
        notes=(),
    )
    record_import(recorder.client, recorder.study, imported)
    frame = load(recorder.client, recorder.study)
    for _ in range(2):
        found = stored_outcomes(recorder.client, frame, cache=tmp_path / "cache")
        if held:
            same(found, direct)
        else:
            assert len(found) == 0
            assert found.notes[0].startswith("2 evaluations have no outcomes of single questions")


def observation(target: Cell, seed: int) -> dict[str, object]:
    score, base = scores(options(seed))[target], scores(options(0))[target]
    return {
        "model": ONE,
        "model_family": "One",
        "model_size_b": 0.5,
        "source_task": ARC.task,
        "source_language": ARC.language,
        "target_task": target.task,
        "target_language": target.language,
        "regime": str(regime_of(ARC, target)),
        "seed": seed,
        "score": score,
        "acc": score if target == MMLU else np.nan,
        "acc_norm": score if target == ARC else np.nan,
        "baseline": base,
        "delta": 100 * (score - base),
        "protocol": "lm_eval",
    }


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda rows: rows.drop(columns="chosen_norm"), "cannot be read"),
        (lambda rows: rows.assign(chosen=False), "not exactly one right and one chosen"),
        (lambda rows: rows.assign(right=rows["option"] < 2), "not exactly one right and one chosen"),
    ],
)
def test_outcomes_that_are_none_name_their_run(recorder: Recorder, tmp_path: Path, spoil, told: str) -> None:
    _, runs = study(recorder, tmp_path)
    run = runs[RunKey(ONE, ARC, 3)]
    log(recorder, run, spoil(options(3)), tmp_path)
    with pytest.raises(InconsistentRunError, match=f"run {run}.*{told}"):
        stored_outcomes(recorder.client, load(recorder.client, recorder.study))


def test_headlines_are_told_from_scores_where_no_tag_does(recorder: Recorder, tmp_path: Path) -> None:
    observations = pd.DataFrame(
        {
            "target_task": ["arc", "arc", "mmlu"],
            "score": [0.5, 0.4, 0.3],
            "acc": [0.5, 0.3, 0.3],
            "acc_norm": [0.5, 0.4, 0.2],
        }
    )
    assert outcome_files._headlines(observations) == HEADLINES


def test_other_questions_are_another_test_set() -> None:
    import pyarrow as pa

    packed = [
        pack("run x", pa.Table.from_pandas(frame), HEADLINES)[0] for frame in (options(1), options(1, questions=12))
    ]
    joined = options(1).assign(question=lambda rows: rows["question"].replace({"q1": "q", "q2": "1q2"}))
    packed.append(pack("run x", pa.Table.from_pandas(joined), HEADLINES)[0])
    assert len({one.test_set for one in packed}) == 3
