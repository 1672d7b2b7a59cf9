"""One adapter fine-tuned, or one model scored: the same code as a study, with a plan of one."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run

from registry.benchmarks.kinds import load_benchmark
from registry.cells import Cell, Regime
from registry.config.study import BaseSpec, Study
from registry.errors import Refused, unknown
from registry.files.outputs import staged
from registry.models.base import known_models
from registry.planning.experiment import Experiment, Job, source_cell
from registry.planning.plan import Step
from registry.runner.session import Prospect, carry_out, prospect
from registry.tracking import metric_names
from registry.tracking.adapters import RecordedModel, RegisteredAdapter, download_adapter
from registry.tracking.names import Kind
from registry.tracking.outcomes import recorded_scores
from registry.tracking.runs import finished_by_fingerprint
from registry.tracking.store import shown_uri

__all__ = ["AdapterResult", "EvaluationResult", "evaluate_one", "finetune_one", "narrowed"]

_COLUMNS = ("task", "language", "regime", "score", "delta_pp")


@dataclass(frozen=True)
class _Result:
    """A finished run, the job it did, and whether it was there already."""

    client: MlflowClient
    job: Job
    run: Run
    reused: bool

    @property
    def store(self) -> str:
        """Address of the store, without any password."""
        return shown_uri(self.client.tracking_uri)


@dataclass(frozen=True)
class AdapterResult(_Result):
    """A registered adapter, or the record of a full fine-tune."""

    @property
    def full(self) -> bool:
        """Whether every weight was trained: a whole model is recorded, and registered under no name."""
        return isinstance(RegisteredAdapter.of(self.run), RecordedModel)

    @property
    def uri(self) -> str:
        """Address that MLflow's loaders take."""
        return RegisteredAdapter.of(self.run).uri

    @property
    def parameters(self) -> str:
        """What names this adapter to ``mlflow run``, beside its study."""
        job, source = self.job, self.job.source_cell
        return f"-P model={job.model} -P task={source.task} -P language={source.language} -P seed={job.seed}"

    def download(self, output: str) -> Path:
        """Copy the adapter's PEFT folder, or the whole model's, to ``<output>/<name>/<version>``, checked by digest."""
        adapter = RegisteredAdapter.of(self.run)
        folder = Path(output) / adapter.name / adapter.version
        with staged(folder, "finetune", is_former=_is_former_adapter) as staging:
            download_adapter(self.client, adapter, staging.folder)
        return folder


@dataclass(frozen=True)
class EvaluationResult(_Result):
    """Scores of an adapter, or of a base, on every target."""

    def table(self) -> str:
        """Return the deltas by regime, or a base's mean scores by task, as text."""
        metrics = self.run.data.metrics
        if self.job.source is None:
            scores = recorded_scores(self.run)
            tasks = {
                cell.task: [value for other, value in scores.items() if other.task == cell.task] for cell in scores
            }
            return "\n".join(
                f"  {task:<20} mean score {sum(row) / len(row):.3f} over {len(row)} languages"
                for task, row in tasks.items()
            )
        rows = [
            f"  {regime}  mean delta {metrics[metric_names.delta_mean(regime)]:+6.2f} pp, "
            f"positive {metrics[metric_names.positive_rate(regime)]:3.0f} %, "
            f"harmed {metrics[metric_names.harm_rate(regime)]:3.0f} %"
            for regime in Regime
            if metric_names.delta_mean(regime) in metrics
        ]
        return "\n".join(rows)

    def download(self, output: str) -> Path:
        """Write ``scores.csv`` and copy the run's files (``outcomes.parquet``, manifests) into a folder."""
        with staged(Path(output), "evaluate", is_former=_is_former_evaluation) as staging:
            mlflow.artifacts.download_artifacts(run_id=self.run.info.run_id, dst_path=str(staging.folder))
            self._write_scores(staging.folder / "scores.csv")
        return Path(output)

    def _write_scores(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(_COLUMNS)
            for cell, score in recorded_scores(self.run).items():
                regime = self.job.source.regime(cell) if self.job.source else None
                delta = self.run.data.metrics[metric_names.delta(regime, cell)] if regime else ""
                rows.writerow((cell.task, cell.language, regime or "", score, delta))


def _is_former_adapter(file: Path) -> bool:
    """Whether a file was written before a list of them was kept: an MLmodel is then beside it."""
    return (file.parent / "MLmodel").is_file()


def _is_former_evaluation(file: Path) -> bool:
    """The same of an evaluation's files."""
    for folder in file.parents[:2]:
        if (table := folder / "scores.csv").is_file():
            return table.read_text(encoding="utf-8", errors="replace").startswith(",".join(_COLUMNS))
    return False


def narrowed(study: Study, *, model: str = "", task: str = "", language: str = "", seed: int | None = None) -> Study:
    """Narrow a study to one base, one source cell and one seed; what is not given is the study's first.

    Raises
    ------
    Refused
        If the study's benchmark does not offer the task or language, or there is no such base.
    """
    grid = load_benchmark(study.benchmark).select(study.tasks, study.languages)
    first = source_cell(study.sources[0], grid) if study.sources else grid.cells[0]
    for kind, name, offered in (("task", task, grid.tasks), ("language", language, grid.languages)):
        if name and name not in offered:
            raise unknown(kind, name, offered, where=f"study {study.name}")
    source = Cell(task or first.task, language or first.language)
    seeds = (study.seeds[0] if seed is None else seed,)
    return replace(study, models=(_base(study, model),), sources=(str(source),), seeds=seeds)


def finetune_one(study: Study) -> AdapterResult:
    """Fine-tune and register the one adapter of a narrowed study, unless it is registered already."""
    ready, run, reused = _one(study, Kind.FINETUNE, lambda experiment: [_adapter(experiment)])
    return AdapterResult(ready.client, _adapter(ready.experiment), run, reused)


def evaluate_one(study: Study, *, base: bool = False) -> EvaluationResult:
    """Score the one registered adapter of a narrowed study on every target, its base first; or the base alone.

    Raises
    ------
    Refused
        If the adapter is not registered yet.
    """
    if base:
        ready, run, reused = _one(study, Kind.BASELINE, lambda experiment: [_baseline(experiment)])
        return EvaluationResult(ready.client, _baseline(ready.experiment), run, reused)
    ready, run, reused = _one(study, Kind.EVALUATE, lambda experiment: [_baseline(experiment), _adapter(experiment)])
    return EvaluationResult(ready.client, _adapter(ready.experiment), run, reused)


def _one(study: Study, kind: Kind, jobs: Callable[[Experiment], list[Job]]) -> tuple[Prospect, Run, bool]:
    """Do some jobs and return the last one's run of a kind, and whether it was there before."""
    ready = prospect(study, workers=1, jobs=jobs, train_only=kind is Kind.FINETUNE)
    untrained = [job for job, step in ready.plan.todo if step is Step.TRAIN_AND_EVALUATE]
    if untrained:
        missing = f"no adapter of {untrained[0]} is registered in study {study.name!r}"
        raise Refused(f"{missing}; train it first: the same parameters with -e finetune")
    for failure in carry_out(ready):
        raise RuntimeError(f"{failure.job}: {failure.reason}")
    job = jobs(ready.experiment)[-1]
    wanted = job.finetune if kind is Kind.FINETUNE else job.evaluate
    run = finished_by_fingerprint(ready.client, ready.experiment_id, kind)[wanted or ""]
    return ready, run, job not in [done for done, _ in ready.plan.todo]


def _base(study: Study, model: str) -> BaseSpec:
    """Return the study's base of a name; else a built-in name, a hub id, or the folder of a model."""
    if not model:
        return study.models[0]
    for spec in study.models:
        if spec.name == model:
            return spec
    folder = Path(model).expanduser().absolute()
    if folder.is_dir():
        return BaseSpec(name=folder.name, path=str(folder))
    if "/" not in model and model not in known_models():
        raise unknown("model", model, [*(spec.name for spec in study.models), *known_models()])
    return BaseSpec(name=model)


def _baseline(experiment: Experiment) -> Job:
    return experiment.baseline(next(iter(experiment.bases)))


def _adapter(experiment: Experiment) -> Job:
    return experiment.job(next(iter(experiment.bases)), experiment.sources[0], experiment.study.seeds[0])
