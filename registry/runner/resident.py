"""A process with a base model and its tokenised items in memory, doing one job after another.

Here the engine (``lora``) and the records (``tracking``, by way of ``records.py``) meet.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from registry.lora.adapter import attached, loaded, merged, save_adapter
from registry.lora.score import ScoringSet, loglikelihoods
from registry.lora.tokens import Example, encode_examples, encode_queries
from registry.lora.train import train_adapter
from registry.models import Base, load_base, load_tokenizer
from registry.runner.experiment import Experiment, Job
from registry.runner.outcomes import Outcomes
from registry.runner.plan import Step
from registry.runner.records import Records
from registry.tracking.adapters import RegisteredAdapter, download_adapter
from registry.tracking.names import Kind
from registry.tracking.runs import Recording

__all__ = ["Progress", "Resident"]

#: Told what a job is doing and the share of it done, in [0, 1].
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class _Loaded:
    """One base in memory, with every target's questions laid out for it."""

    base: Base
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    questions: ScoringSet


@dataclass
class Resident:
    """Does the jobs of one experiment; holds at most one base model at a time."""

    records: Records
    _held: _Loaded | None = None

    @property
    def experiment(self) -> Experiment:
        """The experiment whose jobs these are."""
        return self.records.experiment

    def do(self, job: Job, step: Step, progress: Progress) -> None:
        """Do what one job has left, and record it."""
        progress("load", 0.0)
        held, left = self._load(job.model), self._left(job, step)
        if left is Step.BASELINE:
            with self.records.opened(Kind.BASELINE, job) as recording:
                self.records.baseline(recording, job, self._score(held, held.model, recording, progress))
        elif left is Step.EVALUATE:
            adapter, run = self.records.registered(job)
            with tempfile.TemporaryDirectory() as name:
                folder = download_adapter(self.records.client, adapter, Path(name))
                with loaded(held.model, folder) as model:
                    self._evaluate(held, job, model, adapter, run.info.run_id, progress)
        elif left is not None:
            with attached(held.model, self.experiment.study.recipe.lora, seed=job.adapter_seed) as model:
                adapter, run_id = self._finetune(held, job, model, progress)
                if left is Step.TRAIN_AND_EVALUATE:
                    self._evaluate(held, job, model, adapter, run_id, progress)

    def _left(self, job: Job, step: Step) -> Step | None:
        """Return what is left of a step now: since the plan was made, another process may have done some of it."""
        if step is Step.BASELINE:
            return None if self.records.finished(Kind.BASELINE, job.evaluate) else step
        if step is not Step.TRAIN and self.records.finished(Kind.EVALUATE, job.evaluate):
            return None
        if step is not Step.EVALUATE and self.records.finished(Kind.FINETUNE, job.finetune):
            return None if step is Step.TRAIN else Step.EVALUATE
        return step

    def _load(self, name: str) -> _Loaded:
        if self._held is not None and self._held.base.name == name:
            return self._held
        self._held = None  # free the former base before the next is loaded
        base, study, items = self.experiment.bases[name], self.experiment.study, self.experiment.items
        device = self.records.device
        tokenizer = load_tokenizer(base)
        queries = [items.prompts[cell.task].query(item) for cell in self.experiment.grid for item in items.test(cell)]
        questions = ScoringSet.of(
            encode_queries(tokenizer, ((query.context, query.continuations) for query in queries)),
            tokens_per_batch=study.tokens_per_batch,
            max_length=base.max_positions,
            device=device,
        )
        dtype = torch.bfloat16 if study.recipe.precision == "bf16" else torch.float32
        self._held = _Loaded(base, load_base(base, dtype=dtype, device=device), tokenizer, questions)
        return self._held

    def _finetune(self, held: _Loaded, job: Job, model: PeftModel, progress: Progress) -> tuple[RegisteredAdapter, str]:
        examples, recipe = self._examples(held, job), self.experiment.study.recipe
        with self.records.opened(Kind.FINETUNE, job) as recording:
            self.records.training_set(recording, job.source_cell)
            training = train_adapter(
                model, examples, recipe, seed=job.adapter_seed, progress=lambda share: progress("train", share)
            )
            progress("register", 1.0)
            self.records.training(recording, training)
            with tempfile.TemporaryDirectory() as name:
                folder, base = Path(name), held.base
                save_adapter(model, folder, base_reference=base.reference, base_revision=base.hub_revision)
                adapter = self.records.adapter(recording, job, folder, training)
        return adapter, recording.run_id

    def _examples(self, held: _Loaded, job: Job) -> list[Example]:
        items, recipe = self.experiment.items, self.experiment.study.recipe
        texts = [items.prompts[job.source_cell.task].training(item) for item in items.train(job.source_cell)]
        longest = min(recipe.max_length, held.base.max_positions)
        return encode_examples(held.tokenizer, ((text.prompt, text.target) for text in texts), max_length=longest)

    def _evaluate(
        self,
        held: _Loaded,
        job: Job,
        model: PeftModel,
        adapter: RegisteredAdapter,
        finetune_run: str,
        progress: Progress,
    ) -> None:
        with self.records.opened(Kind.EVALUATE, job) as recording:
            with merged(model) as whole:
                outcomes = self._score(held, whole, recording, progress)
            self.records.evaluation(recording, job, outcomes, adapter, finetune_run)

    def _score(self, held: _Loaded, model: PreTrainedModel, recording: Recording, progress: Progress) -> Outcomes:
        started = time.perf_counter()
        values = loglikelihoods(model, held.questions, progress=lambda share: progress("score", share))
        seconds = time.perf_counter() - started
        recording.metrics({"seconds/score": seconds, "tokens/score": held.questions.tokens})
        progress("record", 1.0)
        return Outcomes(self.experiment, values)
