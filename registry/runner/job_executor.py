"""A process with a base model and its tokenised items in memory, doing one job after another.

Here the engine (``lora``) and the records (``tracking``, by way of ``recorder.py``) meet.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from registry.evaluation.outcomes import Outcomes, Questions
from registry.lora.cost import Size, Usage, peak_memory_gb, reset_peak_memory, scoring_flop
from registry.lora.encoding import Example
from registry.lora.score import ScoringSet, loglikelihoods
from registry.lora.train import Training
from registry.models.loading import load_tokenizer
from registry.paths import checkpoint
from registry.planning.experiment import Experiment, Job
from registry.planning.plan import Step
from registry.recipes.maker import Held, Maker, Order, maker_of
from registry.runner.engine_inputs import examples_of, loaded, questions_of
from registry.runner.recorder import Recorder
from registry.tracking.adapters import RegisteredAdapter, download_adapter
from registry.tracking.claims import Claim, Claims, TakenElsewhere, Unmeasured
from registry.tracking.names import Kind
from registry.tracking.recording import Recording

__all__ = ["JobExecutor", "Progress"]

_POLL_SECONDS = 1.0  # asking whether a baseline has come costs one query of the store

#: Called with what a job is doing and the share of it done, in [0, 1].
Progress = Callable[[str, float], None]


@dataclass
class JobExecutor:
    """Does the jobs of one experiment; holds at most one base model at a time."""

    recorder: Recorder
    _held: Held | None = None
    _questions: ScoringSet | None = None
    _claimed: Mapping[str, Claim] = field(default_factory=dict)

    @property
    def experiment(self) -> Experiment:
        """The experiment whose jobs these are."""
        return self.recorder.experiment

    @cached_property
    def _every_question(self) -> Questions:
        return Questions.of(self.experiment)

    @cached_property
    def _maker(self) -> Maker[Any]:
        return maker_of(self.experiment.study)

    @cached_property
    def _claims(self) -> Claims:
        return Claims(self.recorder.client, self.recorder.experiment_id)

    def do(self, tasks: Sequence[tuple[Job, Step]], progress: Progress) -> Iterator[tuple[Job, Exception | None]]:
        """Do what jobs of one base have left and record it; yield each with the reason where it could not be done.

        Jobs that another runner holds are left alone, with :class:`TakenElsewhere` as the reason. Several adapters
        are made at once.
        """
        progress("claim", 0.0)
        with self._claims.taken(_claim_key(job) for job, _ in tasks) as self._claimed:
            ours = [task for task in tasks if _claim_key(task[0]) in self._claimed]
            yield from [(task[0], _taken_elsewhere(task[0])) for task in tasks if task not in ours]
            for job, error in self._do_claimed(ours, progress):
                self._claimed[_claim_key(job)].release()
                yield job, error

    def _do_claimed(
        self, tasks: Sequence[tuple[Job, Step]], progress: Progress
    ) -> Iterator[tuple[Job, Exception | None]]:
        """Do jobs that this process holds; what was finished in the moment before it did is seen here."""
        left = {job: self._left(job, step) for job, step in tasks}
        yield from [(job, None) for job, step in left.items() if step is None]
        to_do = {job: step for job, step in left.items() if step is not None}
        if not to_do:
            return
        progress("load", 0.0)
        held = self._load(tasks[0][0].model)
        fresh = [job for job, step in to_do.items() if step.trains]
        trained = self._train_together(held, fresh, progress) if len(fresh) > 1 else {}
        for job, step in to_do.items():
            try:
                self._do(held, job, step, trained.get(job), progress)
            except Exception as error:
                yield job, error
            else:
                yield job, None

    @contextmanager
    def _opened(
        self, kind: Kind, job: Job, *, seconds_ago: float = 0.0, tags: Mapping[str, object] | None = None
    ) -> Iterator[Recording]:
        """Open the run of one half of a job; it ends as FINISHED only if this process still holds the job."""
        with self.recorder.opened(kind, job, seconds_ago=seconds_ago, tags=tags) as recording:
            yield recording
            if claim := self._claimed.get(_claim_key(job)):
                claim.confirm()

    def _do(self, held: Held, job: Job, left: Step, trained: Training | Exception | None, progress: Progress) -> None:
        if left is Step.BASELINE:
            with self._opened(Kind.BASELINE, job) as recording:
                self.recorder.baseline(recording, job, self._score(held, held.model, recording, progress))
        elif left is Step.EVALUATE:
            registered, run = self.recorder.registered(job)
            with tempfile.TemporaryDirectory() as name:
                adapter = self._maker.read(
                    held, download_adapter(self.recorder.client, registered, Path(name), run=run)
                )
            self._evaluate(held, job, adapter, registered, run.info.run_id, progress)
        else:
            adapter, registered, run_id = self._finetune(held, job, trained, progress)
            if left.scores:
                self._evaluate(held, job, adapter, registered, run_id, progress)

    def _left(self, job: Job, step: Step) -> Step | None:
        """Return what is left of a step now: since the plan was made, another process may have done some of it."""
        if step is Step.BASELINE:
            return None if self.recorder.finished(Kind.BASELINE, job.evaluate) else step
        trained = step is Step.EVALUATE or self.recorder.finished(Kind.FINETUNE, job.finetune)
        if not trained:  # and so not evaluated
            return step
        if step is Step.TRAIN or self.recorder.finished(Kind.EVALUATE, job.evaluate):
            return None
        return Step.EVALUATE

    def _load(self, name: str) -> Held:
        if self._held is not None and self._held.base.name == name:
            return self._held
        self._held = self._questions = None
        gc.collect()  # the former base goes before the next is loaded, whatever in it refers to itself
        base, device = self.experiment.bases[name], self.recorder.device
        self._held = Held(base, loaded(self.experiment.study, base, device=device), load_tokenizer(base), device)
        return self._held

    def _scoring_set(self, held: Held) -> ScoringSet:
        """Return every target's questions as the base model in memory reads them; what only trains never asks."""
        if self._questions is None:
            every = self._every_question
            self._questions = questions_of(self.experiment, held.base, held.tokenizer, every, device=held.device)
        return self._questions

    def _train_together(self, held: Held, jobs: Sequence[Job], progress: Progress) -> dict[Job, Training | Exception]:
        """Train several adapters at once, before their runs are opened: each is recorded with its share of the time."""
        try:
            found = self._train(held, jobs, progress)
        except Exception as error:
            return dict.fromkeys(jobs, error)
        return dict(zip(jobs, found, strict=True))

    def _train(self, held: Held, jobs: Sequence[Job], progress: Progress) -> Sequence[Training | FloatingPointError]:
        orders = [Order(self._examples(held, job), job.adapter_seed, checkpoint(str(job.finetune))) for job in jobs]
        reset_peak_memory(held.device)
        return self._maker.make(held, orders, lambda share: progress("train", share))

    def _finetune(
        self, held: Held, job: Job, trained: Training | Exception | None, progress: Progress
    ) -> tuple[Any, RegisteredAdapter, str]:
        before = trained.seconds + trained.validation_seconds if isinstance(trained, Training) else 0.0
        with self._opened(Kind.FINETUNE, job, seconds_ago=before) as recording:
            self.recorder.training_set(recording, job.source_cell)
            result = trained if trained is not None else self._train(held, [job], progress)[0]
            if isinstance(result, Exception):
                raise result
            progress("register", 1.0)
            self.recorder.training(recording, job, result, self._maker.usages(held, result))
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                self._maker.save(held, result.adapter, folder)
                registered = self.recorder.adapter(recording, job, folder, result)
        checkpoint(str(job.finetune)).unlink(missing_ok=True)
        return result.adapter, registered, recording.run_id

    def _examples(self, held: Held, job: Job) -> list[Example]:
        return examples_of(self.experiment, held.base, held.tokenizer, job.source_cell)

    def _evaluate(
        self,
        held: Held,
        job: Job,
        adapter: Any,
        registered: RegisteredAdapter,
        finetune_run: str,
        progress: Progress,
    ) -> None:
        scored = self.recorder.scored(registered, finetune_run)
        with self._opened(Kind.EVALUATE, job, tags=scored) as recording:
            with self._maker.put_on(held.model, adapter) as whole:
                outcomes = self._score(held, whole, recording, progress)
            self._await_needs(job, progress)
            self.recorder.evaluation(recording, job, outcomes, registered, finetune_run)

    def _await_needs(self, job: Job, progress: Progress) -> None:
        """Wait while another process scores the baseline that an adapter is measured against."""
        for need in [need.fingerprint for need in job.needs if not need.for_making]:
            while not self.recorder.finished(Kind.BASELINE, need):
                taken = self._claims.is_taken(need)
                if not taken and not self.recorder.finished(Kind.BASELINE, need):  # it may have ended between the two
                    raise Unmeasured(f"the baseline of {job.model} is not there, and no one scores it")
                progress("wait for the baseline", 1.0)
                time.sleep(_POLL_SECONDS)

    def _score(self, held: Held, model: PreTrainedModel, recording: Recording, progress: Progress) -> Outcomes:
        questions = self._scoring_set(held)
        reset_peak_memory(self.recorder.device)
        values = loglikelihoods(model, questions, progress=lambda share: progress("score", share))
        seconds, tokens = questions.seconds, questions.tokens
        flop = scoring_flop(Size.of(model), tokens=tokens, predictions=questions.predictions)
        self.recorder.usage(recording, "score", Usage(seconds, tokens, flop, peak_memory_gb(self.recorder.device)))
        progress("record", 1.0)
        return Outcomes(self._every_question, values, cut=questions.cut, indistinct=questions.indistinct)


def _claim_key(job: Job) -> str:
    """Return what is claimed for a job: an adapter is trained and evaluated under one claim."""
    return job.finetune or job.evaluate


def _taken_elsewhere(job: Job) -> TakenElsewhere:
    return TakenElsewhere(f"another runner does {job}")
