"""A process with a base model and its tokenised items in memory, doing one job after another.

Here, and only here, the engine (``lora``) and the records (``tracking``) meet.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from registry.cells import Cell, Regime, regime_of
from registry.lora.adapter import attached, loaded, merged, save_adapter
from registry.lora.score import ScoringSet, loglikelihoods
from registry.lora.tokens import encode_examples, encode_queries
from registry.lora.train import Training, train_adapter
from registry.models import Base, load_base, load_tokenizer
from registry.runner import describe
from registry.runner.experiment import Experiment, Job
from registry.runner.outcomes import Outcomes
from registry.runner.plan import Step
from registry.tracking.adapters import RegisteredAdapter, download_adapter, register_adapter
from registry.tracking.evaluations import (
    below_chance,
    delta_metrics,
    record_inputs,
    recorded_scores,
    score_metrics,
)
from registry.tracking.names import Kind, Tag, registered_model, run_name
from registry.tracking.runs import Recording, finished_by_fingerprint, recorded

__all__ = ["Progress", "Resident"]

#: Told what a job is doing and the share of it done, in [0, 1].
Progress = Callable[[str, float], None]


@dataclass
class _Loaded:
    """One base in memory, with every target's questions laid out for it."""

    base: Base
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    questions: ScoringSet


@dataclass
class Resident:
    """Does the jobs of one experiment; holds at most one base model at a time.

    Parameters
    ----------
    device : str
        "cpu", "cuda:0", …
    """

    experiment: Experiment
    client: MlflowClient
    experiment_id: str
    device: str = "cpu"
    _held: _Loaded | None = None
    _baselines: dict[str, Run] = field(default_factory=dict)

    def do(self, job: Job, step: Step, progress: Progress) -> None:
        """Do what one job has left, and record it."""
        progress("load", 0.0)
        held, left = self._load(job.model), self._left(job, step)
        if left is None:
            return
        if left is Step.BASELINE:
            self._baseline(held, job, progress)
        elif left is Step.EVALUATE:
            adapter, run_id = self._registered(job)
            with (
                tempfile.TemporaryDirectory() as folder,
                loaded(held.model, download_adapter(self.client, adapter, Path(folder))) as model,
            ):
                self._evaluate(held, job, model, adapter, run_id, progress)
        else:
            with attached(held.model, self.experiment.study.recipe.lora, seed=self._seed(job)) as model:
                adapter, run_id = self._finetune(held, job, model, progress)
                if left is Step.TRAIN_AND_EVALUATE:
                    self._evaluate(held, job, model, adapter, run_id, progress)

    def _left(self, job: Job, step: Step) -> Step | None:
        """Return what is left of a step now: since the plan was made, another process may have done some of it."""
        if step is Step.BASELINE:
            return None if self._finished(Kind.BASELINE, job.evaluate) else step
        if step is not Step.TRAIN and self._finished(Kind.EVALUATE, job.evaluate):
            return None
        if step is not Step.EVALUATE and self._finished(Kind.FINETUNE, job.finetune):
            return None if step is Step.TRAIN else Step.EVALUATE
        return step

    def _finished(self, kind: Kind, fingerprint: str | None) -> Run | None:
        wanted = fingerprint or ""
        return finished_by_fingerprint(self.client, self.experiment_id, kind, only=wanted).get(wanted)

    def _load(self, name: str) -> _Loaded:
        if self._held is not None and self._held.base.name == name:
            return self._held
        self._held = None  # free the former base before the next is loaded
        base, study = self.experiment.bases[name], self.experiment.study
        dtype = torch.bfloat16 if study.recipe.precision == "bf16" else torch.float32
        tokenizer = load_tokenizer(base)
        prompts = self.experiment.items.prompts
        queries = [
            prompts[cell.task].query(item) for cell in self.experiment.grid for item in self.experiment.items.test(cell)
        ]
        questions = ScoringSet.of(
            encode_queries(tokenizer, ((query.context, query.continuations) for query in queries)),
            tokens_per_batch=study.tokens_per_batch,
            max_length=base.max_positions,
            device=self.device,
        )
        self._held = _Loaded(base, load_base(base, dtype=dtype, device=self.device), tokenizer, questions)
        return self._held

    def _baseline(self, held: _Loaded, job: Job, progress: Progress) -> None:
        with self._recorded(Kind.BASELINE, held.base, job, job.evaluate) as recording:
            outcomes = self._score(held, held.model, recording, progress)
            scores = outcomes.scores()
            low = below_chance(scores)
            digests = {cell: self.experiment.items.digest(cell, "test") for cell in scores}
            record_inputs(recording, {"baseline": scores}, benchmark=self._benchmark, digests=digests)
            recording.metrics(score_metrics(scores))
            if low:
                recording.tags({Tag.BELOW_CHANCE: " ".join(map(str, low))})
            self._files(recording, self.experiment.grid.tasks, outcomes)
            describe.warn_below_chance(job, low, scores)

    def _finetune(self, held: _Loaded, job: Job, model: PeftModel, progress: Progress) -> tuple[RegisteredAdapter, str]:
        source, recipe = _source(job), self.experiment.study.recipe
        prompt = self.experiment.items.prompts[source.task]
        items = self.experiment.items.train(source)
        texts = [prompt.training(item) for item in items]
        examples = encode_examples(
            held.tokenizer,
            ((text.prompt, text.target) for text in texts),
            max_length=min(recipe.max_length, held.base.max_positions),
        )
        with self._recorded(Kind.FINETUNE, held.base, job, job.finetune) as recording:
            digest = {source: self.experiment.items.digest(source, "train")}
            record_inputs(recording, {"training": [source]}, benchmark=self._benchmark, digests=digest)
            training = train_adapter(
                model, examples, recipe, seed=self._seed(job), progress=lambda share: progress("train", share)
            )
            progress("register", 1.0)
            recording.curves({"train/loss": training.losses, "train/learning_rate": training.learning_rates})
            recording.curves({"validation/loss": training.validation_losses})
            recording.metrics(_training_metrics(training))
            self._files(recording, [source.task])
            with tempfile.TemporaryDirectory() as folder:
                save_adapter(
                    model, Path(folder), base_reference=held.base.reference, base_revision=held.base.hub_revision
                )
                adapter = register_adapter(
                    recording,
                    Path(folder),
                    name=registered_model(held.base.name, source),
                    tags=self._tags(held.base, job, job.finetune),
                    metadata=self._serving(held.base, source),
                    description=describe.adapter(self.experiment, job, training),
                )
            recording.tags({Tag.MODEL_VERSION: f"{adapter.name}/{adapter.version}", Tag.MODEL_ID: adapter.model_id})
        return adapter, recording.run_id

    def _evaluate(
        self,
        held: _Loaded,
        job: Job,
        model: PeftModel,
        adapter: RegisteredAdapter,
        finetune_run: str,
        progress: Progress,
    ) -> None:
        source, baseline = _source(job), self._baseline_run(job.model)
        with self._recorded(Kind.EVALUATE, held.base, job, job.evaluate) as recording:
            with merged(model) as whole:
                outcomes = self._score(held, whole, recording, progress)
            scores = outcomes.scores()
            regimes: dict[str, list[Cell]] = {}
            for target in scores:
                regimes.setdefault(regime_of(source, target), []).append(target)
            digests = {cell: self.experiment.items.digest(cell, "test") for cell in scores}
            # Inputs before metrics: MLflow drops the inputs' tags when a metric named the dataset first.
            record_inputs(
                recording,
                {regime: regimes[regime] for regime in Regime if regime in regimes},
                benchmark=self._benchmark,
                digests=digests,
                model_id=adapter.model_id,
            )
            deltas = delta_metrics(
                source, {cell: found.score for cell, found in scores.items()}, recorded_scores(baseline)
            )
            recording.metrics(score_metrics(scores) | deltas, model_id=adapter.model_id)
            recording.tags(
                {
                    Tag.FINETUNE_RUN: finetune_run,
                    Tag.BASELINE_RUN: baseline.info.run_id,
                    Tag.MODEL_VERSION: f"{adapter.name}/{adapter.version}",
                }
                | {tag: value for tag, value in baseline.data.tags.items() if tag == Tag.BELOW_CHANCE}
            )
            self._files(recording, self.experiment.grid.tasks, outcomes)

    def _score(self, held: _Loaded, model: PreTrainedModel, recording: Recording, progress: Progress) -> Outcomes:
        started = time.perf_counter()
        values = loglikelihoods(model, held.questions, progress=lambda share: progress("score", share))
        seconds = time.perf_counter() - started
        recording.metrics({"seconds/score": seconds, "tokens/score": held.questions.tokens})
        progress("record", 1.0)
        return Outcomes(self.experiment, values)

    @contextmanager
    def _recorded(self, kind: Kind, base: Base, job: Job, fingerprint: str | None) -> Iterator[Recording]:
        with recorded(
            self.client,
            self.experiment_id,
            kind=kind,
            name=run_name(kind, base.name, job.source, job.seed),
            tags=self._tags(base, job, fingerprint),
            params=describe.parameters(self.experiment.study) | {"device": self.device},
            description=describe.run(kind, self.experiment, job),
        ) as recording:
            yield recording

    def _tags(self, base: Base, job: Job, fingerprint: str | None) -> dict[str, object]:
        prompts = self.experiment.items.prompts
        tags: dict[str, object] = {
            Tag.STUDY: self.experiment.study.name,
            Tag.PROTOCOL: self.experiment.protocol,
            Tag.BASE_MODEL: base.name,
            Tag.BASE_REVISION: base.revision,
            Tag.MODEL_FAMILY: base.family,
            Tag.MODEL_SIZE_B: f"{base.size_b:g}",
            Tag.FINGERPRINT: fingerprint,
            Tag.HEADLINES: " ".join(f"{task}={prompts[task].headline}" for task in self.experiment.grid.tasks),
        }
        if job.source is not None:
            tags |= {Tag.SOURCE_TASK: job.source.task, Tag.SOURCE_LANGUAGE: job.source.language, Tag.SEED: job.seed}
        return tags

    def _serving(self, base: Base, source: Cell) -> dict[str, Any]:
        """What ``registry/serving.py`` reads from the adapter's ``MLmodel``."""
        return {
            "base": {"name": base.name, "reference": base.reference, "revision": base.revision},
            "source": str(source),
            "prompt": asdict(self.experiment.items.prompts[source.task]),
        }

    def _files(self, recording: Recording, tasks: Iterable[str], outcomes: Outcomes | None = None) -> None:
        """Store the manifests of the items used, the resolved study and, of a scoring, every question's outcome."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            describe.write_design(self.experiment, folder, tasks)
            if outcomes is not None:
                outcomes.write(folder / "outcomes.parquet")
            recording.files(folder)

    def _baseline_run(self, model: str) -> Run:
        if model not in self._baselines:
            found = self._finished(Kind.BASELINE, self.experiment.baseline(model).evaluate)
            if found is None:
                raise RuntimeError(f"there is no finished baseline of {model} to measure against")
            self._baselines[model] = found
        return self._baselines[model]

    def _registered(self, job: Job) -> tuple[RegisteredAdapter, str]:
        run = self._finished(Kind.FINETUNE, job.finetune)
        if run is None:
            raise RuntimeError(f"the fine-tune of {job} is gone since the plan was made")
        name, _, version = run.data.tags[Tag.MODEL_VERSION].rpartition("/")
        return RegisteredAdapter(name, version, run.data.tags[Tag.MODEL_ID]), run.info.run_id

    @property
    def _benchmark(self) -> str:
        return self.experiment.study.benchmark.kind

    @staticmethod
    def _seed(job: Job) -> int:
        if job.seed is None:
            raise ValueError(f"{job} has no seed: only adapters are trained")
        return job.seed


def _source(job: Job) -> Cell:
    if job.source is None:
        raise ValueError(f"{job} has no source cell: only adapters are trained")
    return job.source


def _training_metrics(training: Training) -> dict[str, float]:
    return {
        "train/final_loss": training.losses[-1],
        "train/kept_epoch": training.kept_epoch,
        "seconds/train": training.seconds,
        "tokens/train": training.tokens,
    }
