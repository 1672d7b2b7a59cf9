"""What CONTRIBUTING.md describes, done: a kind of benchmark, a maker and an analysis, each one module and one line."""

from __future__ import annotations

import inspect

import pandas as pd
import pytest
from safetensors.torch import load_file

from analysis.analysis import analyze
from analysis.corrected.correct import ANALYSES, CellAnalysis
from analysis.published.compute import PublishedOptions
from analysis.reading.frame import load
from registry.benchmarks.kinds import KINDS, BenchmarkKind
from registry.errors import Refused
from registry.imports import read_source, record_import
from registry.recipes.maker import MAKERS
from registry.runner.session import prospect, run_study
from registry.tracking.adapters import RegisteredAdapter, download_adapter
from registry.tracking.names import Kind
from registry.tracking.runs import finished_by_fingerprint
from registry.tracking.store import experiment_id, open_store
from tests.contributing import toy_analysis, toy_benchmark, toy_maker
from tests.imports.published_table import published_table

FEW = ("seeds: [17, 42]", "seeds: [17]\nsources: [kind/en]")


def test_an_extension_is_short() -> None:
    for module in (toy_analysis, toy_benchmark, toy_maker):
        assert len(inspect.getsource(module).splitlines()) <= 40


def test_a_kind_of_benchmark(small_study, client, monkeypatch) -> None:
    with pytest.raises(Refused, match=r"benchmark.kind: input should be 'demo', 'files' or 'hub' \(got 'numbers'\)"):
        small_study(("benchmark: demo", "benchmark: numbers"))
    monkeypatch.setitem(KINDS, "numbers", BenchmarkKind(f"{toy_benchmark.__name__}:open_numbers"))
    with pytest.raises(Refused, match=r"options\.languages: name at least one language"):
        prospect(small_study(("benchmark: demo", "benchmark: numbers")), workers=1)
    study = small_study(
        ("benchmark: demo", "benchmark: {kind: numbers, options: {languages: [one, two]}}"),
        ("seeds: [17, 42]", "seeds: [17]\nsources: [largest/one]"),
        ("tasks: [kind, pair]\nlanguages: [en, tr]\n", ""),
        ("name: small", "name: numbers"),
    )
    assert run_study(prospect(study, workers=1)) == []
    frame = load(client, "numbers")
    assert set(frame.observations["target_language"]) == {"one", "two"}
    assert set(frame.observations["regime"]) == {"MT-ML", "MT-CL"}


def test_a_maker(small_study, client, monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(MAKERS, "random", f"{toy_maker.__name__}:DrawRandom")
    trained, drawn = small_study(FEW), small_study(FEW, ("recipe:", "recipe:\n  method: random"))
    jobs = {study.recipe.method: prospect(study, workers=1).plan.todo for study in (trained, drawn)}
    assert jobs["lora"][1][0].finetune != jobs["random"][1][0].finetune
    assert run_study(prospect(drawn, workers=1)) == []
    (run,) = finished_by_fingerprint(client, experiment_id(client, "small"), Kind.FINETUNE).values()
    folder = download_adapter(client, RegisteredAdapter.of(run), tmp_path)
    weights = load_file(folder / "adapter_model.safetensors")
    assert all(float(weight.abs().max()) > 0 for weight in weights.values()), "a fresh adapter's B is zero"
    assert run.data.tags["source"] == "kind/en"
    assert run.data.params["method"] == "random"
    assert len(load(client, "small").observations) == 4


def test_an_analysis(uri, monkeypatch, tmp_path) -> None:
    place = toy_analysis.__name__
    monkeypatch.setitem(ANALYSES, "moved", CellAnalysis("Targets that moved", f"{place}:moved", f"{place}:moved_part"))
    table = published_table(
        ("Llama-3.2-1B-Instruct", "Qwen2.5-0.5B-Instruct"), ("arc_challenge", "hellaswag"), ("de", "en")
    )
    table.to_csv(tmp_path / "cells.csv", index=False)
    client = open_store(uri)
    record_import(client, "small", read_source(tmp_path / "cells.csv", staging=tmp_path))
    analyze(load(client, "small"), tmp_path / "out", PublishedOptions(mixed_models=False))
    assert set(pd.read_csv(tmp_path / "out" / "moved.csv")["regime"]) == {"MT-ML", "MT-CL", "CT-ML", "CT-CL"}
    assert "Targets whose score is not the baseline" in (tmp_path / "out" / "report.html").read_text()
