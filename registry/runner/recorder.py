"""What one job leaves in the store: its run, its adapter's version, its scores and deltas."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from registry.cards.card import Facts, card
from registry.cells import Cell, Regime, cells_tag
from registry.deploy.folder import CARD
from registry.evaluation.metrics import (
    accuracy_metrics,
    below_chance,
    chance_metrics,
    delta_metrics,
    indistinct_cells,
    indistinct_metrics,
    record_inputs,
    score_metrics,
)
from registry.evaluation.outcomes import Outcomes
from registry.files.outputs import file_digest
from registry.lora.cost import Usage
from registry.lora.train import Training
from registry.models.base import BUILT_IN
from registry.planning import design_files
from registry.planning.copies import copies_tags
from registry.planning.experiment import Experiment, Job
from registry.recipes.maker import maker_of
from registry.runner import descriptions
from registry.runner.descriptions import Lineage, annotate_baseline, annotate_evaluation, annotate_finetune
from registry.tracking import metric_names, names
from registry.tracking.adapters import RegisteredAdapter, record_full_model, register_adapter, weights_digest
from registry.tracking.metric_names import usage_metrics
from registry.tracking.names import Artifact, Kind, Tag, registered_model, run_name
from registry.tracking.outcomes import recorded_scores
from registry.tracking.recording import Recording
from registry.tracking.runs import finished_by_fingerprint, recorded

__all__ = ["Recorder"]


@dataclass(frozen=True)
class Recorder:
    """An experiment's place in a store.

    Parameters
    ----------
    device : str
        Where the jobs run, a parameter of every run.
    """

    experiment: Experiment
    client: MlflowClient
    experiment_id: str
    device: str
    _baselines: dict[str, Run] = field(default_factory=dict, repr=False, compare=False)

    @contextmanager
    def opened(
        self, kind: Kind, job: Job, *, seconds_ago: float = 0.0, tags: Mapping[str, object] | None = None
    ) -> Iterator[Recording]:
        """Open the run of one half of a job, with its tags, parameters, description and fingerprint.

        Parameters
        ----------
        seconds_ago : float
            How long its work has been going on already.
        tags
            Further tags: of an evaluation, those of :meth:`scored`.
        """
        with recorded(
            self.client,
            self.experiment_id,
            kind=kind,
            name=run_name(kind, job.model, job.source, job.seed),
            tags={**self._run_tags(kind, job), **(tags or {})},
            params=self._parameters(job) | {"device": self.device},
            description=descriptions.run(kind, self.experiment, job),
            seconds_ago=seconds_ago,
            gathers=True,
        ) as recording:
            yield recording

    @staticmethod
    def scored(adapter: RegisteredAdapter, finetune_run: str) -> dict[str, object]:
        """Return the tags of an evaluation that say what it scores."""
        return {**adapter.tags, Tag.FINETUNE_RUN: finetune_run}

    def finished(self, kind: Kind, fingerprint: str | None) -> Run | None:
        """Return the finished run of a fingerprint, as the store has it now; a baseline as it was found first.

        A finished baseline does not change, and every evaluation of its base asks for its scores.
        """
        wanted = fingerprint or ""
        if wanted in self._baselines:
            return self._baselines[wanted]
        found = finished_by_fingerprint(self.client, self.experiment_id, kind, only=wanted).get(wanted)
        if kind is Kind.BASELINE and found is not None:
            self._baselines[wanted] = found
        return found

    def registered(self, job: Job) -> tuple[RegisteredAdapter, Run]:
        """Return a job's registered adapter or recorded full fine-tune, and the run that trained it."""
        run = self.finished(Kind.FINETUNE, job.finetune)
        if run is None:
            raise RuntimeError(f"the fine-tune of {job} is gone since the plan was made")
        return RegisteredAdapter.of(run), run

    def training_set(self, recording: Recording, source: Cell) -> None:
        """Record which items an adapter is trained on."""
        self._inputs(recording, {"training": [source]}, {source: self.experiment.items.digest(source, "train")})
        self._files(recording, [source.task])

    def usage(self, recording: Recording, phase: str, usage: Usage) -> None:
        """Record what a phase of a job took."""
        recording.metrics(
            usage_metrics(
                phase,
                seconds=usage.seconds,
                tokens=usage.tokens,
                flop=usage.flop,
                peak_memory_gb=usage.peak_memory_gb,
            )
        )

    def training(self, recording: Recording, job: Job, training: Training, usages: Mapping[str, Usage]) -> None:
        """Record the curves of a training, what came of it and what each of its phases took."""
        recording.curves(
            {metric_names.TRAIN_LOSS: training.losses, metric_names.LEARNING_RATE: training.learning_rates}
        )
        recording.curves({metric_names.VALIDATION_LOSS: training.validation_losses})
        if training.losses:
            recording.metrics(
                {metric_names.FINAL_LOSS: training.losses[-1], metric_names.KEPT_EPOCH: training.kept_epoch}
            )
        if training.cut_texts:
            recording.metrics({metric_names.CUT_TEXTS: training.cut_texts})
            descriptions.warn_cut_texts(job, training.cut_texts, len(self.experiment.items.train(job.source_cell)))
        if self.experiment.study.recipe.precision == "fp16":
            recording.metrics({metric_names.SKIPPED_STEPS: training.skipped})
        for phase, usage in usages.items():
            self.usage(recording, phase, usage)

    def adapter(self, recording: Recording, job: Job, folder: Path, training: Training) -> RegisteredAdapter:
        """Register a PEFT folder as the next version of its (base, source cell), or record a whole model's folder."""
        source = job.made_from
        full = not maker_of(self.experiment.study).registers
        if not full:
            (folder / CARD).write_text(card(self._facts(job, folder), None), encoding="utf-8")
        record = record_full_model if full else register_adapter
        adapter = record(
            recording,
            folder,
            name=registered_model(job.model, source),
            tags=self._tags(job, job.finetune)
            | ({} if full else self._base_path(job.model) | descriptions.scoring_tags(self.experiment)),
            metadata=self._serving(job.model, source.cell),
            description=descriptions.adapter(self.experiment, job, training),
        )
        recording.tags(adapter.tags)
        annotate_finetune(recording, self.experiment, job, adapter)
        recording.send()
        return adapter

    def baseline(self, recording: Recording, job: Job, outcomes: Outcomes) -> None:
        """Record the scores of an untouched base, and flag those below chance."""
        scores = outcomes.scores()
        self._inputs(recording, {"baseline": scores}, self._test_digests())
        recording.metrics(score_metrics(scores) | accuracy_metrics(scores))
        recording.metrics(chance_metrics(scores) | indistinct_metrics(scores))
        self._files(recording, self.experiment.grid.tasks, outcomes)
        low = below_chance(scores)
        if low:
            recording.tags({Tag.BELOW_CHANCE: " ".join(map(str, low))})
            descriptions.warn_below_chance(job, low, scores)
        if cut := self._cut(recording, outcomes):
            descriptions.warn_cut_questions(job, cut)
        if alike := indistinct_cells(scores):
            recording.tags({Tag.INDISTINCT: alike})
            descriptions.warn_indistinct(job, scores)
        annotate_baseline(recording, self.experiment, job, scores)
        recording.send()

    def evaluation(
        self, recording: Recording, job: Job, outcomes: Outcomes, adapter: RegisteredAdapter, finetune_run: str
    ) -> None:
        """Record an adapter's scores, and its deltas against its base's baseline."""
        source, scores, baseline = job.made_from, outcomes.scores(), self._baseline_run(job.model)
        regimes: dict[Regime, list[Cell]] = {}
        for target in scores:
            regimes.setdefault(source.regime(target), []).append(target)
        # Inputs before metrics: MLflow drops the inputs' tags when a metric named the dataset first.
        sets = {str(regime): regimes[regime] for regime in Regime if regime in regimes}
        self._inputs(recording, sets, self._test_digests(), adapter.model_id)
        self._require_same_prompts(job.model, baseline)
        headline = {cell: found.score for cell, found in scores.items()}
        deltas = delta_metrics(source, headline, recorded_scores(baseline))
        recording.metrics(score_metrics(scores))
        recording.metrics(deltas, model_id=adapter.model_id)
        self._cut(recording, outcomes)
        flags = (Tag.BELOW_CHANCE, Tag.INDISTINCT)
        flagged = {tag: value for tag, value in baseline.data.tags.items() if tag in flags}
        recording.tags({Tag.BASELINE_RUN: baseline.info.run_id} | flagged)
        self._files(recording, self.experiment.grid.tasks, outcomes)
        lineage = Lineage(self.experiment_id, finetune_run, baseline.info.run_id, adapter)
        annotate_evaluation(recording, self.experiment, job, deltas, lineage)
        recording.send()

    @staticmethod
    def _cut(recording: Recording, outcomes: Outcomes) -> dict[Cell, int]:
        """Record, and return, how many questions of which targets were scored without their left side."""
        cut = outcomes.cut()
        if cut:
            recording.metrics({metric_names.cut_questions(cell): count for cell, count in cut.items()})
            recording.tags({Tag.CUT: cells_tag(cut)})
        return cut

    def _require_same_prompts(self, model: str, baseline: Run) -> None:
        """Refuse a delta between questions that were put in different ways; older baselines do not say how theirs were.

        Raises
        ------
        RuntimeError
            With the baseline's run.
        """
        own = self.experiment.facts_of(model).chat_header
        theirs = baseline.data.tags.get(Tag.CHAT_HEADER, own)
        if theirs != own:
            raise RuntimeError(
                f"the questions of the baseline of {model} (run {baseline.info.run_id}) were put behind another chat "
                f"header ({theirs[:12]}) than those of its adapters ({own[:12]}): a delta would compare two prompts"
            )

    def _baseline_run(self, model: str) -> Run:
        run = self.finished(Kind.BASELINE, self.experiment.baseline(model).evaluate)
        if run is None:
            raise RuntimeError(f"there is no finished baseline of {model} to measure against")
        return run

    def _inputs(
        self,
        recording: Recording,
        sets: dict[str, Any],
        digests: dict[Cell, str],
        model_id: str | None = None,
    ) -> None:
        kind = self.experiment.study.benchmark.kind
        record_inputs(recording, sets, benchmark=kind, digests=digests, model_id=model_id)

    def _test_digests(self) -> dict[Cell, str]:
        return {cell: self.experiment.items.digest(cell, "test") for cell in self.experiment.grid}

    def _files(self, recording: Recording, tasks: Iterable[str], outcomes: Outcomes | None = None) -> None:
        """Store the manifests of the items used, the resolved study and, of a scoring, every question's outcome."""
        with recording.folder() as folder:
            wanted = {f"{task}.csv" for task in tasks}
            for file, content in self._design.items():
                if file.parent == Path() or file.name in wanted:
                    (folder / file).parent.mkdir(exist_ok=True)
                    (folder / file).write_bytes(content)
            if outcomes is not None:
                outcomes.write(folder / Artifact.SCORING)
                recording.tags({Tag.OUTCOMES_DIGEST: file_digest(folder / Artifact.SCORING)})

    @cached_property
    def _design(self) -> dict[Path, bytes]:
        """The resolved study and the manifest of every task, which are the same for every run."""
        with tempfile.TemporaryDirectory() as name:
            design_files.write_design(self.experiment, Path(name), self.experiment.grid.tasks)
            files = [file for file in Path(name).rglob("*") if file.is_file()]
            return {file.relative_to(name): file.read_bytes() for file in files}

    def _parameters(self, job: Job) -> dict[str, object]:
        """Recipe and way of scoring, and of an adapter's run the layers that it adapts."""
        adapted = {} if job.source is None else self.experiment.facts_of(job.model).parameters
        return design_files.parameters(self.experiment.study) | adapted

    def _run_tags(self, kind: Kind, job: Job) -> dict[str, object]:
        """Tags of a run: of one that scores also how its questions are put."""
        if kind is Kind.FINETUNE:
            return self._tags(job, job.finetune)
        return self._tags(job, job.evaluate) | {Tag.CHAT_HEADER: self.experiment.facts_of(job.model).chat_header}

    def _tags(self, job: Job, fingerprint: str | None) -> dict[str, object]:
        base, prompts = self.experiment.bases[job.model], self.experiment.items.prompts
        return {
            Tag.BASE_MODEL: base.name,
            **_source(job),  # the UI shows tags in this order
            Tag.STUDY: self.experiment.study.name,
            Tag.PROTOCOL: self.experiment.protocol,
            Tag.BASE_REVISION: base.revision,
            Tag.MODEL_FAMILY: base.family,
            Tag.MODEL_SIZE_B: f"{base.size_b:g}",
            Tag.FINGERPRINT: fingerprint,
            **copies_tags(self.experiment.items),
            Tag.HEADLINES: names.headlines_tag({task: prompts[task].headline for task in self.experiment.grid.tasks}),
        }

    def _facts(self, job: Job, folder: Path) -> Facts:
        """What an adapter's card says when it is registered."""
        study = self.experiment.study
        tags = self._tags(job, job.finetune) | {Tag.DIGEST: weights_digest(folder)}
        return Facts(
            tags={key: str(value) for key, value in tags.items()},
            parameters={key: str(value) for key, value in self._parameters(job).items()},
            serving=self._serving(job.model, job.source_cell),
            benchmark=study.benchmark.kind,
        )

    def _base_path(self, model: str) -> dict[str, str]:
        """Tag that says where a base in a folder of the user's is."""
        base = self.experiment.bases[model]
        if base.hub_revision or base.reference == BUILT_IN.get(model):
            return {}
        return {Tag.BASE_PATH: str(Path(base.location).absolute())}

    def _serving(self, model: str, source: Cell) -> dict[str, Any]:
        """What ``registry/serving/`` reads from the adapter's ``MLmodel``."""
        base = self.experiment.bases[model]
        return {
            "base": {
                "name": base.name,
                "reference": base.reference,
                "revision": base.revision,
                "auto_class": self.experiment.facts_of(model).loader,
            },
            "source": str(source),
            "prompt": asdict(self.experiment.items.prompts[source.task]),
            "chat_template": self.experiment.study.chat_template,
            "chat_template_date": self.experiment.study.chat_template_date.isoformat(),
            "precision": self.experiment.study.recipe.precision,
            "quantization": self.experiment.study.quantization,
        }


def _source(job: Job) -> dict[str, object]:
    """Tags of what an adapter was trained on; a baseline has none."""
    if job.source is None:
        return {}
    return {**job.source.tags, Tag.SEED: job.seed}
