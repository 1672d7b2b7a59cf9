"""A process with a base model and its tokenised items in memory, doing one job after another.

Here the engine (``lora``) and the records (``tracking``, by way of ``records.py``) meet.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from registry.lora.adapter import Adapter, fresh_adapter, merged, read_adapter, save_adapter
from registry.lora.cost import Size, Usage, peak_memory_gb, reset_peak_memory, scoring_flop, training_flop
from registry.lora.score import ScoringSet, loglikelihoods
from registry.lora.tokens import Example, encode_examples, encode_queries
from registry.lora.train import Assignment, Training, train_adapters
from registry.models import Base, load_base, load_tokenizer
from registry.runner.experiment import Experiment, Job
from registry.runner.outcomes import Outcomes
from registry.runner.plan import Step
from registry.runner.records import Records
from registry.tracking.adapters import RegisteredAdapter, download_adapter
from registry.tracking.names import Kind
from registry.tracking.runs import Recording

__all__ = ["Progress", "Resident"]

_GPU_WORTH = 4096  # tokens that a shared beginning must save: a pass of its own costs a GPU its launches

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

    def do(self, tasks: Sequence[tuple[Job, Step]], progress: Progress) -> Iterator[tuple[Job, Exception | None]]:
        """Do what jobs of one base have left and record it; yield each with the reason where it could not be done.

        Several fine-tunes are trained at once.
        """
        progress("load", 0.0)
        held = self._load(tasks[0][0].model)
        left = {job: self._left(job, step) for job, step in tasks}
        fresh = [job for job, step in left.items() if step in (Step.TRAIN, Step.TRAIN_AND_EVALUATE)]
        trained = self._train_together(held, fresh, progress) if len(fresh) > 1 else {}
        for job, step in left.items():
            try:
                self._do(held, job, step, trained.get(job), progress)
            except Exception as error:
                yield job, error
            else:
                yield job, None

    def _do(
        self, held: _Loaded, job: Job, left: Step | None, trained: Training | Exception | None, progress: Progress
    ) -> None:
        if left is Step.BASELINE:
            with self.records.opened(Kind.BASELINE, job) as recording:
                self.records.baseline(recording, job, self._score(held, held.model, recording, progress))
        elif left is Step.EVALUATE:
            registered, run = self.records.registered(job)
            with tempfile.TemporaryDirectory() as name:
                adapter = read_adapter(download_adapter(self.records.client, registered, Path(name)))
            self._evaluate(held, job, adapter, registered, run.info.run_id, progress)
        elif left is not None:
            adapter, registered, run_id = self._finetune(held, job, trained, progress)
            if left is Step.TRAIN_AND_EVALUATE:
                self._evaluate(held, job, adapter, registered, run_id, progress)

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
        questions = ScoringSet(
            encode_queries(
                tokenizer, ((query.context, query.continuations) for query in queries), chat=study.chat_template
            ),
            tokens_per_batch=self._tokens_per_batch,
            max_length=base.max_positions,
            worth=None if self.records.device == "cpu" else _GPU_WORTH,
        )
        dtype = torch.bfloat16 if study.recipe.precision == "bf16" else torch.float32
        model = load_base(base, dtype=dtype, device=device, placement=study.placement, quantization=study.quantization)
        self._held = _Loaded(base, model, tokenizer, questions)
        return self._held

    def _train_together(
        self, held: _Loaded, jobs: Sequence[Job], progress: Progress
    ) -> dict[Job, Training | Exception]:
        """Train several adapters at once, before their runs are opened: each is recorded with its share of the time."""
        try:
            found = self._train(held, jobs, progress)
        except Exception as error:
            return dict.fromkeys(jobs, error)
        return dict(zip(jobs, found, strict=True))

    def _train(self, held: _Loaded, jobs: Sequence[Job], progress: Progress) -> list[Training | FloatingPointError]:
        study = self.experiment.study
        assignments = [
            Assignment(
                fresh_adapter(held.model, study.recipe.lora, seed=job.adapter_seed),
                self._examples(held, job),
                job.adapter_seed,
                _checkpoint(job),
            )
            for job in jobs
        ]
        reset_peak_memory(self.records.device)
        return train_adapters(
            held.model,
            assignments,
            study.recipe,
            tokens_per_batch=self._tokens_per_batch,
            gradient_checkpointing=study.gradient_checkpointing,
            progress=lambda share: progress("train", share),
        )

    def _finetune(
        self, held: _Loaded, job: Job, trained: Training | Exception | None, progress: Progress
    ) -> tuple[Adapter, RegisteredAdapter, str]:
        before = trained.seconds if isinstance(trained, Training) else 0.0
        with self.records.opened(Kind.FINETUNE, job, seconds_ago=before) as recording:
            self.records.training_set(recording, job.source_cell)
            result = trained if trained is not None else self._train(held, [job], progress)[0]
            if isinstance(result, Exception):
                raise result
            progress("register", 1.0)
            self.records.training(recording, result, self._training_usage(held, result))
            with tempfile.TemporaryDirectory() as name:
                folder, base = Path(name), held.base
                save_adapter(result.adapter, folder, base_reference=base.reference, base_revision=base.hub_revision)
                registered = self.records.adapter(recording, job, folder, result)
        _checkpoint(job).unlink(missing_ok=True)
        return result.adapter, registered, recording.run_id

    def _training_usage(self, held: _Loaded, training: Training) -> Usage:
        flop = training_flop(
            Size.of(held.model),
            training.adapter,
            tokens=training.tokens,
            predictions=training.predictions,
            validation_tokens=training.validation_tokens,
            validation_predictions=training.validation_predictions,
        )
        return Usage(training.seconds, training.tokens, flop, peak_memory_gb(self.records.device))

    def _examples(self, held: _Loaded, job: Job) -> list[Example]:
        items, recipe = self.experiment.items, self.experiment.study.recipe
        texts = [items.prompts[job.source_cell.task].training(item) for item in items.train(job.source_cell)]
        longest = min(recipe.max_length, held.base.max_positions)
        return encode_examples(held.tokenizer, ((text.prompt, text.target) for text in texts), max_length=longest)

    def _evaluate(
        self,
        held: _Loaded,
        job: Job,
        adapter: Adapter,
        registered: RegisteredAdapter,
        finetune_run: str,
        progress: Progress,
    ) -> None:
        with self.records.opened(Kind.EVALUATE, job) as recording:
            with merged(held.model, adapter) as whole:
                outcomes = self._score(held, whole, recording, progress)
            self.records.evaluation(recording, job, outcomes, registered, finetune_run)

    def _score(self, held: _Loaded, model: PreTrainedModel, recording: Recording, progress: Progress) -> Outcomes:
        reset_peak_memory(self.records.device)
        started = time.perf_counter()
        values = loglikelihoods(model, held.questions, progress=lambda share: progress("score", share))
        seconds = time.perf_counter() - started
        tokens = held.questions.tokens
        flop = scoring_flop(Size.of(model), tokens=tokens, predictions=held.questions.predictions)
        self.records.usage(recording, "score", Usage(seconds, tokens, flop, peak_memory_gb(self.records.device)))
        progress("record", 1.0)
        return Outcomes(self.experiment, values)

    @property
    def _tokens_per_batch(self) -> int:
        given = self.experiment.study.tokens_per_batch
        return given or (2048 if self.records.device == "cpu" else 32768)


def _checkpoint(job: Job) -> Path:
    """Return the file that keeps the finished epochs of a long training, on this machine."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "donors-recipients" / "training" / f"{job.finetune}.safetensors"
