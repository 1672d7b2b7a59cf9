"""A small study's records, made by hand: what doctor reads of them, without training anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.numpy import save_file

from registry.cells import Grid
from registry.config.study import LoraSpec
from registry.doctor.examination import Examination, examine
from registry.doctor.findings import Finding, Level
from registry.files.adapter import CONFIG, WEIGHTS, AdapterConfig, config_text, tensor_name
from registry.planning.experiment import Experiment, Job, prepare
from registry.tracking.adapters import register_adapter
from registry.tracking.metric_names import acc, delta, score
from registry.tracking.names import Kind, Tag
from registry.tracking.recording import Recording
from registry.tracking.store import experiment_id


@dataclass(frozen=True)
class Book:
    """A study's place in a store that is filled by hand.

    Attributes
    ----------
    file
        The study's file.
    folder
        Of its artifacts.
    """

    client: MlflowClient
    experiment: Experiment
    identity: str
    file: Path
    folder: Path
    scratch: Path

    @property
    def jobs(self) -> list[Job]:
        return self.experiment.jobs()

    def run(self, kind: Kind, job: Job, *, status: str = "FINISHED", value: float = 0.5, **tags: str) -> Run:
        """Record a run with the tags, metrics and outcomes that one of its kind has."""
        mark = job.finetune if kind is Kind.FINETUNE else job.evaluate
        every = {Tag.KIND: str(kind), Tag.STUDY: "small", Tag.FINGERPRINT: str(mark), Tag.BASE_MODEL: job.model}
        if job.source is not None:
            every |= job.source.tags
            every |= {Tag.SEED: str(job.seed)}
        run = self.client.create_run(self.identity, tags=every | tags, run_name=f"{kind} {job}")
        identity = run.info.run_id
        if kind is Kind.FINETUNE:
            self.client.log_metric(identity, "train/final_loss", 1.0)
        else:
            for target in self.experiment.grid:
                self.client.log_metric(identity, score(target), value)
                self.client.log_metric(identity, acc(target), 0.5)
                if job.source is not None:
                    self.client.log_metric(identity, delta(job.source.regime(target), target), 1.0)
            answers(self.scratch / "outcomes.parquet", self.experiment.grid)
            self.client.log_artifact(identity, str(self.scratch / "outcomes.parquet"))
        if status != "RUNNING":
            self.client.set_terminated(identity, status)
        return self.client.get_run(identity)

    def adapter(self, run: Run, job: Job, *, weights: str = "") -> Path:
        """Register an adapter of a fine-tune, and return the folder it is stored in."""
        folder = self.scratch / run.info.run_id
        folder.mkdir()
        spec = LoraSpec(rank=2, alpha=4.0, targets=("q_proj",))
        drawn = np.random.default_rng(list((weights or run.info.run_id).encode()))
        factors = {tensor_name("q_proj", letter): drawn.random((2, 2), dtype=np.float32) for letter in "AB"}
        save_file(factors, folder / WEIGHTS)
        (folder / CONFIG).write_text(config_text(AdapterConfig(spec, job.model)))
        cell = job.source_cell
        tags = {
            Tag.STUDY: "small", Tag.BASE_MODEL: job.model, Tag.MODEL_FAMILY: "llama",
            Tag.SOURCE_TASK: cell.task, Tag.SOURCE_LANGUAGE: cell.language, Tag.FINGERPRINT: job.finetune,
        }  # fmt: skip
        metadata = {"base": {"name": job.model}, "source": str(cell)}
        recording = Recording(self.client, self.identity, run.info.run_id, run.info.artifact_uri)
        made = register_adapter(
            recording, folder, name=f"tiny--{cell.task}--{cell.language}", tags=tags, metadata=metadata, description=""
        )
        recording.tags(made.tags)
        return self.folder / "models" / made.model_id / "artifacts"

    def fill(self) -> dict[str, Path]:
        """Record the whole study; returns the folder of every adapter by its fingerprint."""
        folders = {}
        baselines = {job.model: self.run(Kind.BASELINE, job) for job in self.jobs if job.source is None}
        for job in self.jobs:
            if job.source is None:
                continue
            trained = self.run(Kind.FINETUNE, job)
            folders[str(job.finetune)] = self.adapter(trained, job)
            named = self.client.get_run(trained.info.run_id).data.tags
            self.run(
                Kind.EVALUATE,
                job,
                **{
                    Tag.MODEL_ID: named[Tag.MODEL_ID],
                    Tag.FINETUNE_RUN: trained.info.run_id,
                    Tag.BASELINE_RUN: baselines[job.model].info.run_id,
                },
            )
        return folders

    def findings(self, *, digests: bool | None = None) -> list[Finding]:
        """What doctor finds in the study's records."""
        sections = list(examine(Examination(str(self.file), "", digests)))
        return [finding for section in sections if section.title == "study small" for finding in section.findings]

    def faults(self) -> list[Finding]:
        return [finding for finding in self.findings() if finding.level is Level.WRONG]


def answers(path: Path, grid: Grid, *, right: int = 1) -> None:
    """Write the outcomes of two questions on every target, of which some are answered rightly."""
    rows = [
        (cell.task, cell.language, f"q{number}", option, option == 0, option == int(number >= right))
        for cell in grid
        for number in range(2)
        for option in range(2)
    ]
    table = pd.DataFrame(rows, columns=["task", "language", "question", "option", "right", "chosen"])
    table.assign(chosen_norm=table["chosen"], loglikelihood=-1.0).to_parquet(path)


@pytest.fixture
def book(client: MlflowClient, study_file: Callable[..., Path], small_study, tmp_path: Path, uri: str) -> Book:
    """The small study with one seed and two source cells, nothing recorded."""
    few = ("seeds: [17, 42]", "seeds: [17]\nsources: [kind/en, pair/tr]")
    identity = experiment_id(client, "small")
    folder = Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" / "small"
    return Book(client, prepare(small_study(few)), identity, study_file(few), folder, tmp_path)
