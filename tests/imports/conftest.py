"""Results to import: a small published table, and what lm-evaluation-harness writes of a study that was run here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
import pandas as pd
import pytest
import yaml
from lm_eval import evaluator
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager
from peft import PeftModel
from transformers import AutoModelForCausalLM

from registry.cells import Cell
from registry.config.study import Study
from registry.planning.experiment import Experiment, prepare
from registry.runner.session import prospect, run_study
from registry.tracking.adapters import RegisteredAdapter, download_adapter
from registry.tracking.names import Kind
from registry.tracking.runs import finished_by_fingerprint
from registry.tracking.store import experiment_id, open_store
from tests.imports.published_table import published_table

SOURCE, SEED = Cell("pair", "tr"), 17

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: context
doc_to_choice: options
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


@pytest.fixture(scope="session")
def small_table() -> Callable[[], pd.DataFrame]:
    """Two models, two tasks (one of them without acc_norm of its own), two languages: 32 rows in lines 2 to 33."""
    made = published_table(
        ("Qwen2.5-0.5B-Instruct", "gemma-3-4b-it"), tasks=("hellaswag", "global_mmlu"), languages=("de", "hi")
    )
    return made.copy


@dataclass(frozen=True)
class Twice:
    """One study, measured here (``uri``) and by the harness (``folder``, which holds a manifest)."""

    study: Study
    uri: str
    folder: Path

    @property
    def experiment(self) -> Experiment:
        return prepare(self.study)


@pytest.fixture(scope="session")
def twice(new_store, small_study, tokenizer, tmp_path_factory) -> Twice:
    """The small study with one adapter, run; then its base and the merged adapter, scored by the harness."""
    study = small_study(("seeds: [17, 42]", f"seeds: [{SEED}]\nsources: [{SOURCE}]"))
    found = Twice(study, new_store(), tmp_path_factory.mktemp("harness"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", found.uri)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr(evaluator, "add_env_info", lambda results: None)  # asks pip for every package, for seconds
        patch.setattr(evaluator, "get_git_commit_hash", lambda: None)
        assert run_study(prospect(study, workers=1)) == []
        base = Path(str(study.models[0].path))
        merged = merge(found, base, tmp_path_factory.mktemp("merged"))
        tokenizer.save_pretrained(merged)
        tasks = write_tasks(found.experiment, tmp_path_factory.mktemp("tasks"))
        evaluate(base, tasks, found.folder / "base")
        evaluate(merged, tasks, found.folder / "adapter")
    write_manifest(found)
    return found


def merge(found: Twice, base: Path, folder: Path) -> Path:
    """Write the base with the study's one adapter merged by PEFT."""
    client = open_store(found.uri)
    (run,) = finished_by_fingerprint(client, experiment_id(client, found.study.name), Kind.FINETUNE).values()
    adapter = download_adapter(client, RegisteredAdapter.of(run), folder / "adapter")
    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().save_pretrained(folder / "merged")
    return folder / "merged"


def write_tasks(experiment: Experiment, folder: Path) -> Path:
    """Write the study's test questions as tasks of the harness."""
    for cell in experiment.grid:
        name = f"{cell.task}_{cell.language}"
        queries = [(item.id, experiment.items.prompts[cell.task].query(item)) for item in experiment.items.test(cell)]
        rows = [
            {"id": id_, "context": query.context, "options": [text[1:] for text in query.continuations]}
            | {"answer": query.answer}
            for id_, query in queries
        ]
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        text = TASK.format(name=name, rows=data, cache=folder / "cache")
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def evaluate(model: Path, tasks: Path, output: Path) -> None:
    """Do what the `lm_eval` command does with --output_path and --log_samples."""
    tracker = EvaluationTracker(output_path=str(output))
    told = evaluator.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), "dtype": "float32"},
        tasks=[file.stem for file in sorted(tasks.glob("*.yaml"))],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        device="cpu",
        batch_size=16,
        log_samples=True,
        evaluation_tracker=tracker,
        bootstrap_iters=0,
    )
    samples = told.pop("samples")
    tracker.save_results_aggregated(results=told, samples=samples)
    for task in told["configs"]:
        tracker.save_results_samples(task_name=task, samples=samples[task])


def write_manifest(found: Twice) -> None:
    base = found.experiment.bases["tiny"]
    manifest = {
        "protocol": found.study.name,
        "models": {"tiny": {"family": base.family, "size_b": base.size_b}},
        "tasks": {"kind_{language}": "kind", "pair_{language}": "pair"},
        "runs": [
            {"folder": "base", "model": "tiny", "source": None},
            {"folder": "adapter", "model": "tiny", "source": str(SOURCE), "seed": SEED},
        ],
    }
    (found.folder / "manifest.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
