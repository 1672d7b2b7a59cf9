"""A process with a base model and its tokenised items in memory, doing one job after another.

Here the engine (``lora``) and the records (``tracking``, by way of ``records.py``) meet.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from registry.evaluation.outcomes import Outcomes, Questions
from registry.lora.adapter import Adapter, fresh_adapter, read_adapter, save_adapter
from registry.lora.bank import merged
from registry.lora.cost import Size, Usage, peak_memory_gb, reset_peak_memory, scoring_flop, training_flop
from registry.lora.encoding import Example
from registry.lora.full import FullWeights, replaced, save_full
from registry.lora.score import ScoringSet, loglikelihoods
from registry.lora.train import Assignment, Training, train_adapters, train_full
from registry.models.base import Base
from registry.models.loading import dtype_of, load_base, load_tokenizer
from registry.models.memory import require_full_memory
from registry.paths import checkpoint
from registry.planning.experiment import Experiment, Job
from registry.planning.plan import Step
from registry.runner.laid_out import examples_of, loaded, questions_of, tokens_per_batch
from registry.runner.recorder import Records
from registry.tracking.adapters import RegisteredAdapter, download_adapter
from registry.tracking.claims import Claim, Claims, TakenElsewhere, Unmeasured
from registry.tracking.names import Kind
from registry.tracking.recording import Recording

__all__ = ["Progress", "Resident"]

_POLL_SECONDS = 1.0  # asking whether a baseline has come costs one query of the store

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
    _taken: Mapping[str, Claim] = field(default_factory=dict)

    @property
    def experiment(self) -> Experiment:
        """The experiment whose jobs these are."""
        return self.records.experiment

    @cached_property
    def _asked(self) -> Questions:
        return Questions.of(self.experiment)

    @cached_property
    def _claims(self) -> Claims:
        return Claims(self.records.client, self.records.experiment_id)

    def do(self, tasks: Sequence[tuple[Job, Step]], progress: Progress) -> Iterator[tuple[Job, Exception | None]]:
        """Do what jobs of one base have left and record it; yield each with the reason where it could not be done.

        Jobs that another runner holds are left alone, with :class:`TakenElsewhere` as the reason. Several adapters are
        trained at once; full fine-tunes are not, each of them taking a base's place.
        """
        progress("claim", 0.0)
        with self._claims.taken(_claimed(job) for job, _ in tasks) as self._taken:
            ours = [task for task in tasks if _claimed(task[0]) in self._taken]
            yield from [(task[0], _taken_elsewhere(task[0])) for task in tasks if task not in ours]
            for job, error in self._do_claimed(ours, progress):
                self._taken[_claimed(job)].release()
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
        together = len(fresh) > 1 and not self._full
        trained = self._train_together(held, fresh, progress) if together else {}
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
        with self.records.opened(kind, job, seconds_ago=seconds_ago, tags=tags) as recording:
            yield recording
            if claim := self._taken.get(_claimed(job)):
                claim.confirm()

    def _do(
        self, held: _Loaded, job: Job, left: Step, trained: Training | Exception | None, progress: Progress
    ) -> None:
        if left is Step.BASELINE:
            with self._opened(Kind.BASELINE, job) as recording:
                self.records.baseline(recording, job, self._score(held, held.model, recording, progress))
        elif left is Step.EVALUATE:
            registered, run = self.records.registered(job)
            with tempfile.TemporaryDirectory() as name:
                adapter = self._read(held, download_adapter(self.records.client, registered, Path(name), run=run))
            self._evaluate(held, job, adapter, registered, run.info.run_id, progress)
        else:
            adapter, registered, run_id = self._finetune(held, job, trained, progress)
            if left.scores:
                self._evaluate(held, job, adapter, registered, run_id, progress)

    def _left(self, job: Job, step: Step) -> Step | None:
        """Return what is left of a step now: since the plan was made, another process may have done some of it."""
        if step is Step.BASELINE:
            return None if self.records.finished(Kind.BASELINE, job.evaluate) else step
        trained = step is Step.EVALUATE or self.records.finished(Kind.FINETUNE, job.finetune)
        if not trained:  # and so not evaluated
            return step
        if step is Step.TRAIN or self.records.finished(Kind.EVALUATE, job.evaluate):
            return None
        return Step.EVALUATE

    def _load(self, name: str) -> _Loaded:
        if self._held is not None and self._held.base.name == name:
            return self._held
        self._held = None
        gc.collect()  # the former base goes before the next is loaded, whatever in it refers to itself
        base, device = self.experiment.bases[name], self.records.device
        tokenizer = load_tokenizer(base)
        questions = questions_of(self.experiment, base, tokenizer, self._asked, device=device)
        self._held = _Loaded(base, loaded(self.experiment.study, base, device=device), tokenizer, questions)
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
        if self._full:
            return [self._train_full(held, job, progress) for job in jobs]
        study = self.experiment.study
        assignments = [
            Assignment(
                fresh_adapter(held.model, study.recipe.lora, seed=job.adapter_seed),
                self._examples(held, job),
                job.adapter_seed,
                checkpoint(str(job.finetune)),
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

    def _train_full(self, held: _Loaded, job: Job, progress: Progress) -> Training:
        study = self.experiment.study
        require_full_memory(held.model, held.base.name, device=self.records.device, placement=study.placement)
        reset_peak_memory(self.records.device)
        return train_full(
            held.model,
            self._examples(held, job),
            study.recipe,
            seed=job.adapter_seed,
            tokens_per_batch=self._tokens_per_batch,
            gradient_checkpointing=study.gradient_checkpointing,
            progress=lambda share: progress("train", share),
        )

    def _finetune(
        self, held: _Loaded, job: Job, trained: Training | Exception | None, progress: Progress
    ) -> tuple[Adapter | FullWeights, RegisteredAdapter, str]:
        before = trained.seconds + trained.validation_seconds if isinstance(trained, Training) else 0.0
        with self._opened(Kind.FINETUNE, job, seconds_ago=before) as recording:
            self.records.training_set(recording, job.source_cell)
            result = trained if trained is not None else self._train(held, [job], progress)[0]
            if isinstance(result, Exception):
                raise result
            progress("register", 1.0)
            self.records.training(recording, job, result, self._training_usages(held, result))
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                self._save(held, result.adapter, folder)
                registered = self.records.adapter(recording, job, folder, result)
        checkpoint(str(job.finetune)).unlink(missing_ok=True)
        return result.adapter, registered, recording.run_id

    def _save(self, held: _Loaded, adapter: Adapter | FullWeights, folder: Path) -> None:
        if isinstance(adapter, FullWeights):
            save_full(held.model, adapter, folder, tokenizer=held.tokenizer)
        else:
            base = held.base
            save_adapter(adapter, folder, base_reference=base.reference, base_revision=base.hub_revision)

    def _read(self, held: _Loaded, folder: Path) -> Adapter | FullWeights:
        if not self._full:
            return read_adapter(folder)
        saved = replace(held.base, location=str(folder), revision="sha256:")
        dtype = dtype_of(self.experiment.study.recipe.precision)
        return FullWeights.of(load_base(saved, dtype=dtype, device="cpu"))

    def _training_usages(self, held: _Loaded, training: Training) -> dict[str, Usage]:
        """Return what the phases of a training took, ``train`` and, if there was one, ``validation``."""
        size, memory = Size.of(held.model), peak_memory_gb(self.records.device)
        nothing = {"tokens": 0, "predictions": 0, "validation_tokens": 0, "validation_predictions": 0}
        counted = {"tokens": training.tokens, "predictions": training.predictions}
        flop = training_flop(size, training.adapter, **nothing | counted)
        usages = {"train": Usage(training.seconds, training.tokens, flop, memory)}
        if training.validation_tokens:
            counted = {
                "validation_tokens": training.validation_tokens,
                "validation_predictions": training.validation_predictions,
            }
            flop = training_flop(size, training.adapter, **nothing | counted)
            usages["validation"] = Usage(training.validation_seconds, training.validation_tokens, flop, memory)
        return usages

    def _examples(self, held: _Loaded, job: Job) -> list[Example]:
        return examples_of(self.experiment, held.base, held.tokenizer, job.source_cell)

    def _evaluate(
        self,
        held: _Loaded,
        job: Job,
        adapter: Adapter | FullWeights,
        registered: RegisteredAdapter,
        finetune_run: str,
        progress: Progress,
    ) -> None:
        scored = self.records.scored(registered, finetune_run)
        with self._opened(Kind.EVALUATE, job, tags=scored) as recording:
            with _in_place(held.model, adapter) as whole:
                outcomes = self._score(held, whole, recording, progress)
            self._await_baseline(job, progress)
            self.records.evaluation(recording, job, outcomes, registered, finetune_run)

    def _await_baseline(self, job: Job, progress: Progress) -> None:
        """Wait while another process scores the baseline that an adapter is measured against."""
        baseline = self.experiment.baseline(job.model).evaluate
        while not self.records.finished(Kind.BASELINE, baseline):
            taken = self._claims.is_taken(baseline)
            if not taken and not self.records.finished(Kind.BASELINE, baseline):  # it may have ended between the two
                raise Unmeasured(f"the baseline of {job.model} is not there, and no one scores it")
            progress("wait for the baseline", 1.0)
            time.sleep(_POLL_SECONDS)

    def _score(self, held: _Loaded, model: PreTrainedModel, recording: Recording, progress: Progress) -> Outcomes:
        reset_peak_memory(self.records.device)
        values = loglikelihoods(model, held.questions, progress=lambda share: progress("score", share))
        seconds, tokens = held.questions.seconds, held.questions.tokens
        flop = scoring_flop(Size.of(model), tokens=tokens, predictions=held.questions.predictions)
        self.records.usage(recording, "score", Usage(seconds, tokens, flop, peak_memory_gb(self.records.device)))
        progress("record", 1.0)
        return Outcomes(self._asked, values, cut=held.questions.cut, indistinct=held.questions.indistinct)

    @property
    def _full(self) -> bool:
        return self.experiment.study.recipe.method == "full"

    @property
    def _tokens_per_batch(self) -> int:
        return tokens_per_batch(self.experiment.study, self.records.device)


def _in_place(model: PreTrainedModel, adapter: Adapter | FullWeights) -> AbstractContextManager[PreTrainedModel]:
    """Have a base be what its training made of it, for a while."""
    return replaced(model, adapter) if isinstance(adapter, FullWeights) else merged(model, adapter)


def _claimed(job: Job) -> str:
    """Return what is claimed for a job: an adapter is trained and evaluated under one claim."""
    return job.finetune or job.evaluate


def _taken_elsewhere(job: Job) -> TakenElsewhere:
    return TakenElsewhere(f"another runner does {job}")
