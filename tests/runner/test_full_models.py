"""A study that trains every weight records whole models; they are loaded, scored, analysed and served like adapters."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.artifacts import download_artifacts
from transformers import AutoModelForCausalLM, AutoTokenizer

from registry.cells import Cell
from registry.errors import Refused
from registry.lora import train
from registry.lora.encoding import encode_queries
from registry.lora.score import ScoringSet, loglikelihoods
from registry.models import memory
from registry.runner.single import finetune_one
from registry.tracking.adapters import RegisteredAdapter
from registry.tracking.claims import claims_model
from registry.tracking.names import Kind, Tag
from registry.tracking.outcomes import recorded_scores
from registry.tracking.store import experiment_id

FULL = (
    ("seeds: [17, 42]", "seeds: [17]\nsources: [kind/en, pair/tr]"),
    ("  learning_rate: 5.0e-2\n", "  learning_rate: 1.0e-2\n  method: full\n  precision: bf16\n"),
    ("  validation: 0\n", "  validation: 0.25\n"),
    ("  epochs: 1\n", "  epochs: 2\n"),
)


@pytest.fixture(scope="module")
def whole(new_store, small_study, finished, rerun):
    """A study of full fine-tunes in bf16, run to its end; nothing may write to it."""
    records = type(finished)(new_store(), small_study(*FULL))
    assert rerun(records) == []
    yield records
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


@pytest.fixture
def again(uri, small_study, finished):
    """The same study with an empty store."""
    return type(finished)(uri, small_study(*FULL))


def digests(records) -> dict[str, str]:
    """Digest of each model's weights by the fine-tune's fingerprint."""
    runs = records.finished(Kind.FINETUNE).items()
    return {print: records.client.get_logged_model(run.data.tags[Tag.MODEL_ID]).tags[Tag.DIGEST] for print, run in runs}


def folder_of(records, run, to: Path) -> Path:
    mlflow.set_tracking_uri(records.uri)
    return Path(download_artifacts(RegisteredAdapter.of(run).uri, dst_path=str(to)))


def test_every_run_is_there_and_no_model_is_registered(whole) -> None:
    whole.assert_complete()
    names = {model.name for model in whole.client.search_registered_models()}
    # Who is at work shows there; no full model does.
    assert names <= {claims_model(experiment_id(whole.client, whole.study.name))}
    assert len(set(digests(whole).values())) == 2
    for kind in (Kind.FINETUNE, Kind.EVALUATE):
        for run in whole.finished(kind).values():
            assert Tag.MODEL_VERSION not in run.data.tags
            assert run.data.params["method"] == "full"
            assert not [name for name in run.data.params if name.startswith("lora")]
            assert f"Full fine-tune of **tiny** on **{source_of(run)}**" in run.data.tags["mlflow.note.content"]
            assert "adapter" not in run.data.tags["mlflow.note.content"].lower()


def source_of(run) -> Cell:
    return Cell(run.data.tags[Tag.SOURCE_TASK], run.data.tags[Tag.SOURCE_LANGUAGE])


def test_a_model_says_what_it_is_and_links_its_runs(whole) -> None:
    evaluations = {run.data.tags[Tag.FINETUNE_RUN]: run for run in whole.finished(Kind.EVALUATE).values()}
    for fingerprint, run in whole.finished(Kind.FINETUNE).items():
        logged = whole.client.get_logged_model(run.data.tags[Tag.MODEL_ID])
        assert (logged.status, logged.model_type) == ("READY", "full-fine-tune")
        expected = {
            Tag.STUDY: "small",
            Tag.BASE_MODEL: "tiny",
            Tag.SOURCE_TASK: source_of(run).task,
            Tag.SEED: "17",
            Tag.FINGERPRINT: fingerprint,
        }
        assert {key: logged.tags[key] for key in expected} == expected
        assert "every weight, learning rate 0.01" in logged.tags["mlflow.note.content"]
        scored = whole.client.get_run(evaluations[run.info.run_id].info.run_id)
        assert [model.model_id for model in scored.inputs.model_inputs] == [logged.model_id]
        assert {metric.key: metric.value for metric in logged.metrics}["delta_mean/MT-ML"] == scored.data.metrics[
            "delta_mean/MT-ML"
        ]


def test_transformers_loads_the_folder_and_scores_it_the_same(whole, tmp_path: Path) -> None:
    experiment, moved = whole.experiment, 0
    tunes = {run.info.run_id: run for run in whole.finished(Kind.FINETUNE).values()}
    (baseline,) = whole.finished(Kind.BASELINE).values()
    for evaluation in whole.finished(Kind.EVALUATE).values():
        folder = folder_of(whole, tunes[evaluation.data.tags[Tag.FINETUNE_RUN]], tmp_path)
        names = {path.name for path in folder.iterdir()}
        assert {"MLmodel", "conda.yaml", "config.json", "model.safetensors", "tokenizer.json"} <= names
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        scores = recorded_scores(evaluation)
        moved += scores != recorded_scores(baseline)
        for cell in experiment.grid:
            prompt = experiment.items.prompts[cell.task]
            queries = [prompt.query(item) for item in experiment.items.test(cell)]
            encoded = encode_queries(tokenizer, [(query.context, query.continuations) for query in queries])
            values = loglikelihoods(model, ScoringSet(encoded, tokens_per_batch=2048, max_length=256))
            right = [
                int(np.argmax(value / np.array(query.lengths))) == query.answer
                for value, query in zip(values, queries, strict=True)
            ]
            assert scores[cell] == pytest.approx(np.mean(right), abs=1 / 16 + 1e-9), "bf16 may tip one of sixteen"
    assert moved == 2, "training must move the scores"


def test_nothing_in_the_folder_is_pickled_or_names_this_machine(whole, base, tmp_path: Path) -> None:
    for run in whole.finished(Kind.FINETUNE).values():
        for path in folder_of(whole, run, tmp_path).rglob("*"):
            assert path.suffix not in (".pkl", ".pickle", ".bin", ".pt", ".pth", ".joblib")
            if path.suffix in (".json", "") and path.is_file():
                assert str(base) not in path.read_text()


def test_a_model_whose_evaluation_is_missing_is_scored_from_its_record_to_the_same_numbers(
    whole, again, rerun, monkeypatch
) -> None:
    assert rerun(again) == []
    assert digests(again) == digests(whole)
    for run in again.runs(Kind.EVALUATE):
        again.client.delete_run(run.info.run_id)
    monkeypatch.setattr(train, "train_full", lambda *_, **__: pytest.fail("trained again"))
    assert rerun(again) == []
    again.assert_complete()
    expected, found = (
        {fingerprint: recorded_scores(run) for fingerprint, run in records.finished(Kind.EVALUATE).items()}
        for records in (whole, again)
    )
    assert found == expected


def test_a_study_that_was_killed_trains_that_model_again(whole, again, rerun, monkeypatch) -> None:
    own, calls = train.train_full, []

    def killed(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return own(*arguments, **options)

    monkeypatch.setattr(train, "train_full", killed)
    with pytest.raises(KeyboardInterrupt):
        rerun(again)
    assert rerun(again) == []
    assert len(calls) == 3, "the model that was done is not trained again"
    again.assert_complete()
    assert digests(again) == digests(whole)


def test_a_model_whose_weights_were_changed_is_refused(again, rerun) -> None:
    rerun(again)
    for run in again.runs(Kind.EVALUATE):
        again.client.delete_run(run.info.run_id)
    for stored in again.folder.rglob("model.safetensors"):
        content = bytearray(stored.read_bytes())
        content[-1] ^= 1
        stored.write_bytes(content)
    reasons = [failure.reason for failure in rerun(again)]
    assert len(reasons) == 2
    assert all("its weights have SHA-256" in reason and "from a backup" in reason for reason in reasons)


def test_the_analysis_reads_its_evaluations(whole) -> None:
    from analysis.reading.run_record import RunRecord, observations_of

    (baseline,) = whole.finished(Kind.BASELINE).values()
    rows = []
    for run in whole.finished(Kind.EVALUATE).values():
        record = RunRecord(
            run.info.run_id,
            run.info.run_name,
            run.info.status,
            run.info.start_time,
            run.data.tags,
            run.data.metrics,
        )
        rows += observations_of(record, recorded_scores(baseline))
    assert len(rows) == 2 * 4
    assert {row["model_version"] for row in rows} == {""}


def test_one_is_fine_tuned_alone_downloaded_and_served(whole, monkeypatch, tmp_path: Path) -> None:
    from registry.runner.single import narrowed

    monkeypatch.setenv("MLFLOW_TRACKING_URI", whole.uri)
    result = finetune_one(narrowed(whole.study, task="pair", language="tr"))
    assert result.reused
    folder = result.download(str(tmp_path))
    assert (folder / "model.safetensors").is_file()
    item = whole.experiment.items.test(Cell("pair", "tr"))[0]
    served = mlflow.pyfunc.load_model(result.uri)
    answer = served.predict(pd.DataFrame({"question": [item.question], "options": [list(item.options)]}))
    assert answer.choice[0] in item.options
    assert sum(answer.probabilities[0]) == pytest.approx(1.0)


def test_too_little_memory_is_told_before_training(again, rerun, monkeypatch) -> None:
    def little(*_: object, **__: object) -> None:
        raise Refused("every weight of model 'tiny' cannot be trained")

    monkeypatch.setattr(memory, "require_full_memory", little)
    assert [failure.reason for failure in rerun(again)] == [
        "Refused: every weight of model 'tiny' cannot be trained"
    ] * 2
    assert len(again.finished(Kind.BASELINE)) == 1
