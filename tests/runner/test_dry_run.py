"""A dry run says what a study is and what it takes, without network and with nothing at hand."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from registry.benchmarks.aligned import align
from registry.benchmarks.kinds import load_benchmark
from registry.cells import Cell
from registry.config.data import SplitSpec
from registry.config.files import load_studies, load_study
from registry.errors import Refused
from registry.lora.encoding import Continuations, encode_queries
from registry.lora.score import ScoringSet
from registry.models.catalogue import PAPER
from registry.paths import PROJECT
from registry.planning import estimate, forecast
from registry.planning.estimate import laid_out
from registry.planning.outline import outline
from registry.runner.session import rehearse
from registry.tracking.names import Kind, Tag
from registry.tracking.runs import recorded
from registry.tracking.store import experiment_id
from tests.fake_hub import Repository, fake_hub, unreachable


@pytest.fixture
def alone(tmp_path: Path):
    """A machine with an empty cache, that reaches no hub."""
    with unreachable(tmp_path):
        yield tmp_path


@pytest.fixture
def no_gpu(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def test_the_papers_grid_is_told_by_the_command_with_nothing_at_hand(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "entrypoints.study",
            "--study",
            "paper",
            "--dry-run",
            "--output",
            str(tmp_path / "plan"),
        ],
        cwd=PROJECT,
        env=os.environ
        | {
            "HF_HOME": str(tmp_path / "cache"),
            "HF_ENDPOINT": "http://127.0.0.1:9",
            "MLFLOW_TRACKING_URI": f"sqlite:///{file}",
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "study 'paper': 9 bases x 44 sources x 3 seeds = 1188 fine-tunes, scored on 44 targets"
    assert "  to do         1188 fine-tunes, 1197 evaluations (1188 of fine-tuned models, 9 untouched bases)" in lines
    (hours,) = re.findall(r"expected .* ([\d.]+) GPU hours", done.stdout)
    # 29.6 billion weights (bodies and LM heads) x 132 x 2 FLOP x 1.9 million tokens, trainings some 7 % more.
    assert float(hours) == pytest.approx(29.6e9 * 133 * 2 * 1.9e6 * 1.07 / (0.4 * 312e12) / 3600, rel=0.05)
    assert "one NVIDIA A100 80GB, assumed: 40% of the 312 TFLOP/s of its data sheet in bf16" in done.stdout
    # 436 million parameters of nine adapters x 132 x 4 bytes; 30.5 billion parameters x 2 bytes.
    assert "230.1 GB of fine-tuned weights and 1.1 GB of outcomes" in done.stdout
    assert "61.0 GB of models to download" in done.stdout
    assert not file.exists()
    assert not (tmp_path / "cache" / "hub").exists()
    written = load_study(str(tmp_path / "plan" / "study.yaml"))
    assert written == load_study("paper")


def test_a_dry_run_asks_a_hub_that_is_there_nothing(uri, tmp_path: Path, base) -> None:
    with fake_hub(tmp_path) as hub:
        hub.repositories["mine/tiny"] = Repository.of(base)
        text = rehearse(load_study("demo", models=["mine/tiny"]))
        assert hub.asked == []
    assert "model 'mine/tiny' is not in the hub's cache" in text
    assert "whose configuration is not at hand" in text
    assert "1 bases x 32 sources x 2 seeds = 64 fine-tunes" in text


def test_what_is_recorded_counts_by_its_names(alone, client, no_gpu) -> None:
    study = load_study("demo", models=list(PAPER)[3:5], seeds=(17,), sources=("kind/en", "kind/it"))
    identity = experiment_id(client, study.name)

    def record(kind: Kind, model: str, language: str = "", *, fails: bool = False) -> None:
        tags = {Tag.BASE_MODEL: model, Tag.FINGERPRINT: f"{kind} {model} {language}"}
        if language:
            tags |= {Tag.SOURCE_TASK: "kind", Tag.SOURCE_LANGUAGE: language, Tag.SEED: "17"}
        try:
            with recorded(client, identity, kind=kind, name="x", tags=tags):
                if fails:
                    raise ValueError
        except ValueError:
            pass

    one, other = (spec.name for spec in study.models)
    record(Kind.BASELINE, one)
    record(Kind.FINETUNE, one, "en")
    record(Kind.EVALUATE, one, "en")
    record(Kind.FINETUNE, other, "it")
    record(Kind.EVALUATE, other, "it", fails=True)
    seen = outline(study)
    assert (seen.left(one).baselines, seen.left(one).fine_tunes, seen.left(one).adapter_evaluations) == (0, 1, 1)
    assert (seen.left(other).baselines, seen.left(other).fine_tunes, seen.left(other).adapter_evaluations) == (1, 1, 2)
    text = rehearse(study)
    assert "there already 1 baseline, 2 finetune, 1 evaluate, by names" in text
    assert "to do         2 fine-tunes, 4 evaluations (3 of fine-tuned models, 1 untouched base)" in text


def test_a_dry_run_of_a_study_at_hand_counts_and_measures(records, alone) -> None:
    text = rehearse(records.study)
    assert "to do         8 fine-tunes, 9 evaluations (8 of fine-tuned models, 1 untouched base)" in text
    assert "tokens, parameters and this machine's matrix-product rate" in text
    assert "by names" not in text


@pytest.mark.parametrize(
    ("fields", "told"),
    [({"models": ["Qwen2.5"]}, "no model 'Qwen2.5'"), ({"languages": ["en", "xx"]}, "no language 'xx'")],
)
def test_a_mistake_is_refused_in_a_dry_run_too(alone, uri, fields, told: str) -> None:
    with pytest.raises(Refused, match=told):
        rehearse(load_study("paper", **fields))


@pytest.mark.parametrize(
    ("study", "fine_tunes", "evaluations"),
    [("paper-v1", 396, 405), ("paper-rank:r64", 54, 57), ("paper-full:full", 54, 57)],
)
def test_the_papers_other_studies_have_their_size(alone, uri, no_gpu, study: str, fine_tunes, evaluations) -> None:
    left = outline(load_study(study)).left_in_all
    assert (left.fine_tunes, left.evaluations) == (fine_tunes, evaluations)
    assert f"{fine_tunes} fine-tunes, {evaluations} evaluations" in rehearse(load_study(study))


def test_a_full_fine_tune_costs_more_time_and_disk(alone, uri, no_gpu) -> None:
    lora, full = (forecast.forecast(outline(study)) for study in load_studies("paper-full"))
    assert full.seconds > lora.seconds
    bases = [PAPER[spec.name] for spec in load_study("paper-full:full").models]
    weights = sum(base.parameters for base in bases)
    assert 0.95 * weights < full.adapters / (18 * 2) <= weights, "all but what Gemma-3-4b has for images"


def test_a_base_that_is_done_is_not_downloaded_again(alone, uri, no_gpu) -> None:
    outlined = outline(load_study("paper"))
    name = outlined.study.models[0].name
    jobs = {(name, str(source), seed) for source in outlined.sources for seed in outlined.study.seeds}
    done = dataclasses.replace(
        outlined, recorded={Kind.BASELINE: {(name, None, None)}, Kind.FINETUNE: jobs, Kind.EVALUATE: jobs}
    )
    saved = forecast.forecast(outlined).downloads - forecast.forecast(done).downloads
    assert saved == 2 * PAPER[name].parameters


def test_a_gpu_that_is_there_is_measured(alone, uri, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(forecast, "gemm_rate", lambda precision: 312e12 * 0.4 / estimate.SHARE_OF_GEMM)
    measured = forecast.forecast(outline(load_study("paper")))
    assert measured.basis.startswith("Some GPU at 70% of its measured matrix-product rate")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert measured.seconds == pytest.approx(forecast.forecast(outline(load_study("paper"))).seconds)


def test_the_rate_is_that_of_a_workers_one_thread(monkeypatch, no_gpu) -> None:
    seen: list[int] = []
    clock = time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: seen.append(torch.get_num_threads()) or clock())
    torch.set_num_threads(2)
    try:
        assert estimate.gemm_rate("fp32") > 0
        assert (set(seen), torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(1)


def test_items_are_counted_from_the_split_or_its_manifest(alone, uri, tmp_path: Path, no_gpu) -> None:
    study = load_study("paper")
    tasks = ("arc_challenge", "global_mmlu", "hellaswag", "truthfulqa")
    for task in tasks:
        rows = [f"train,{number}" for number in range(300 if task != "global_mmlu" else 215)]
        rows += [f"test,{number}" for number in range(400)]
        (tmp_path / f"{task}.csv").write_text("\n".join(["split,id", *rows]) + "\n")
    named = load_study("paper", split=SplitSpec(manifest=str(tmp_path)))
    assert forecast.forecast(outline(named)) == forecast.forecast(outline(study))
    fewer = load_study("paper", split={"train": 30, "test": 40})
    assert forecast.forecast(outline(fewer)).outcomes == pytest.approx(forecast.forecast(outline(study)).outcomes / 10)


def test_the_assumed_tokens_are_those_of_the_papers_runs() -> None:
    texts = (300 + 215 + 300 + 300) / 4 * 0.9 * 3
    questions = 44 * 400
    assert texts * forecast.TOKENS_PER_TEXT == pytest.approx(0.07e6, rel=0.01)
    assert questions * forecast.TOKENS_PER_QUESTION == pytest.approx(1.9e6, rel=0.01)


def test_tokens_are_guessed_as_the_questions_will_be_laid_out(tokenizer) -> None:
    benchmark = load_benchmark(load_study("demo").benchmark)
    grid = benchmark.select(("kind", "pair"), ("en", "tr")) if "kind" in benchmark.grid.tasks else benchmark.select()
    items = align(benchmark, grid, SplitSpec(train=20, test=100))
    primer = "Which of these is the right one? Here are some that were asked before. " * 8

    def queries(count: int) -> list[Continuations]:
        found = [items.prompts[cell.task].query(item) for cell in grid for item in items.test(cell)[:count]]
        return encode_queries(tokenizer, [(primer + query.context, query.continuations) for query in found])

    whole = ScoringSet(queries(100), tokens_per_batch=2048, max_length=4096)
    guessed = laid_out(queries(20), [5.0] * 20 * len(grid), max_length=4096)
    assert guessed == pytest.approx(whole.tokens, rel=0.1)
    apart = sum(len(query.context) + sum(len(option) - 1 for option in query.options) for query in queries(100))
    assert whole.tokens < 0.5 * apart
    assert isinstance(next(iter(grid)), Cell)
