"""Notes in Markdown that runs and versions carry once their numbers are known, and that link them to one another.

MLflow's UI shows them as descriptions. Links are of its own kind, ``#/experiments/…``, and so hold on any server.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from registry.cells import Cell, Regime
from registry.evaluation.metrics import TargetScore
from registry.planning.copies import copies_note
from registry.planning.experiment import Experiment, Job
from registry.planning.plan import Plan
from registry.recipes.maker import maker_of
from registry.tracking import metric_names, names
from registry.tracking.adapters import RecordedModel, RegisteredAdapter
from registry.tracking.names import Kind, Tag
from registry.tracking.recording import Recording
from registry.tracking.runs import runs_of_kind

if TYPE_CHECKING:  # these bring torch, which planning has no need of
    from registry.lora.train import Training

__all__ = [
    "Lineage",
    "adapter",
    "annotate_baseline",
    "annotate_evaluation",
    "annotate_finetune",
    "log",
    "run",
    "scoring_tags",
    "study",
    "warn_below_chance",
    "warn_cut_questions",
    "warn_cut_texts",
    "warn_indistinct",
]


@dataclass(frozen=True, slots=True)
class Lineage:
    """What an evaluation came from: the runs that trained the adapter and scored its base, and the adapter."""

    experiment_id: str
    finetune: str
    baseline: str
    adapter: RegisteredAdapter

    def run(self, label: str, run_id: str) -> str:
        """Link to a run."""
        return f"[{label}](#/experiments/{self.experiment_id}/runs/{run_id})"

    @property
    def model(self) -> str:
        """Link to the registered version, or to the model of a full fine-tune."""
        return _model(self.experiment_id, self.adapter)


def annotate_finetune(recording: Recording, experiment: Experiment, job: Job, adapter: RegisteredAdapter) -> None:
    """Say in a fine-tune's run how it was trained and where the adapter is."""
    lines = [
        run(Kind.FINETUNE, experiment, job),
        _recipe(experiment),
        f"Made {_model(recording.experiment_id, adapter)}; not evaluated yet.",
    ]
    recording.tags({MLFLOW_RUN_NOTE: "\n\n".join(lines)})


def annotate_baseline(
    recording: Recording, experiment: Experiment, job: Job, scores: Mapping[Cell, TargetScore]
) -> None:
    """Say in a baseline's run how the untouched base does on each task."""
    rows = []
    for task in experiment.grid.tasks:
        own = [score for cell, score in scores.items() if cell.task == task]
        score, chance = fmean(one.score for one in own), fmean(one.chance for one in own)
        rows.append(f"| {task} | {own[0].headline} | {score:.3f} | {chance:.3f} |")
    table = "\n".join([_header("task", "score", "mean over languages", "chance"), *rows])
    described = run(Kind.BASELINE, experiment, job)
    recording.tags({MLFLOW_RUN_NOTE: f"{described}\n\n{table}\n\n{_reports(recording.experiment_id)}"})


def annotate_evaluation(
    recording: Recording, experiment: Experiment, job: Job, deltas: Mapping[str, float], lineage: Lineage
) -> None:
    """Say what an evaluation found in its own run, in that of the fine-tune and with the adapter's version.

    Parameters
    ----------
    deltas
        Metrics, as :func:`registry.evaluation.metrics.delta_metrics` makes them.
    """
    table = f"{_table(deltas)}\n\n{_extremes(deltas)}"
    baseline = lineage.run("baseline", lineage.baseline)
    finetune, evaluation = lineage.run("fine-tune", lineage.finetune), lineage.run("evaluation", recording.run_id)
    recipe, reports = _recipe(experiment), _reports(lineage.experiment_id)
    described = run(Kind.EVALUATE, experiment, job)
    come_from = f"Its {finetune} made {lineage.model}; Δ is measured against the {baseline} of its base. {reports}"
    # The UI folds away what is below a run's first lines.
    note = "\n\n".join([_headline(job, deltas), described, come_from, table, recipe])
    recording.tags({MLFLOW_RUN_NOTE: note})
    trained = run(Kind.FINETUNE, experiment, job)
    made = f"Made {lineage.model}; scored by its {evaluation} against the {baseline} of its base. {reports}"
    note = "\n\n".join([trained, recipe, table, made])
    recording.client.set_tag(lineage.finetune, MLFLOW_RUN_NOTE, note)
    of_model = "\n\n".join(
        [_headline(job, deltas), trained, recipe, table, f"Runs: {finetune}, {evaluation}, {baseline}."]
    )
    _annotate_model(recording, experiment, lineage.adapter, of_model)


def _annotate_model(recording: Recording, experiment: Experiment, adapter: RegisteredAdapter, note: str) -> None:
    """Say it with a version; with the model itself where that is all there is, for a version's model links to it."""
    client = recording.client
    if isinstance(adapter, RecordedModel):
        client.set_logged_model_tags(adapter.model_id, {MLFLOW_RUN_NOTE: note})
    else:
        former = client.update_model_version(adapter.name, adapter.version, description=note).tags
        for tag, value in scoring_tags(experiment).items():
            if former.get(tag) != value:
                client.set_model_version_tag(adapter.name, adapter.version, tag, value)


def scoring_tags(experiment: Experiment) -> dict[str, str]:
    """Tags of a version that say how its questions are put and which accuracy is the score."""
    study, prompts = experiment.study, experiment.items.prompts
    headlines = names.headlines_tag({task: prompts[task].headline for task in experiment.grid.tasks})
    tags = {Tag.CHAT_TEMPLATE: str(study.chat_template), Tag.HEADLINES: headlines}
    return tags | ({Tag.CHAT_DATE: study.chat_template_date.isoformat()} if study.chat_template else {})


def _model(experiment_id: str, adapter: RegisteredAdapter) -> str:
    if isinstance(adapter, RecordedModel):
        return f"[the model](#/experiments/{experiment_id}/models/{adapter.model_id})"
    return f"[version {adapter.version} of {adapter.name}](#/models/{adapter.name}/versions/{adapter.version})"


def _headline(job: Job, deltas: Mapping[str, float]) -> str:
    """What distinguishes a version in its first words: the registry's table shows no more of it."""
    means = (
        f"{regime} {value:+.1f}"
        for regime in Regime
        if (value := deltas.get(metric_names.delta_mean(regime))) is not None
    )
    return f"Seed {job.seed}: {', '.join(means)} pp."


def _table(deltas: Mapping[str, float]) -> str:
    lines = [_header("regime", "targets", "mean Δ pp", "positive %", "harmed %")]
    regimes = [found[0] for key in deltas if (found := metric_names.parse_delta(key)) is not None]
    for regime in Regime:
        if regime in regimes:
            mean, positive, harmed = (
                deltas[quantity(regime)]
                for quantity in (metric_names.delta_mean, metric_names.positive_rate, metric_names.harm_rate)
            )
            lines.append(f"| {regime} | {regimes.count(regime)} | {mean:+.2f} | {positive:.0f} | {harmed:.0f} |")
    return "\n".join(lines)


def _header(*columns: str) -> str:
    """Return a table's first lines; MLflow draws columns without any space between them."""
    return f"| {' | '.join(f'{column}&emsp;' for column in columns)} |\n|{':--|' * len(columns)}"


def _extremes(deltas: Mapping[str, float]) -> str:
    """Name the targets that gained and lost most, in percentage points."""
    found = {cell[1]: value for key, value in deltas.items() if (cell := metric_names.parse_delta(key)) is not None}
    best, worst = max(found, key=lambda cell: found[cell]), min(found, key=lambda cell: found[cell])
    return f"Highest on **{best}** ({found[best]:+.1f} pp), lowest on **{worst}** ({found[worst]:+.1f} pp)."


def _recipe(experiment: Experiment) -> str:
    """Say the recipe in a line."""
    study, recipe = experiment.study, experiment.study.recipe
    size = maker_of(study).summary()
    held = f"{study.quantization} base, {recipe.precision}" if study.quantization else recipe.precision
    asked = ", scored in the chat template" if study.chat_template else ""
    return (
        f"Study `{study.name}`: {size}, learning rate {recipe.learning_rate:g}, {recipe.epochs} epochs of batches of "
        f"{recipe.batch_size}, {held}{asked}."
    )


def _reports(experiment_id: str) -> str:
    return f"[Reports of the study]({runs_of_kind(experiment_id, Kind.ANALYZE)})."


log = logging.getLogger(__name__)


def run(kind: Kind, experiment: Experiment, job: Job) -> str:
    """Description of a run."""
    cells = experiment.grid
    targets = f"{len(cells)} targets ({len(cells.tasks)} tasks x {len(cells.languages)} languages)"
    if job.source is None:
        text = f"The untouched base **{job.model}** scored on {targets}: what every delta is measured against."
        return f"{text}{copies_note(experiment.items)}"
    if kind is Kind.FINETUNE:
        items = sum(len(experiment.items.train(cell)) for cell in job.source.cells)
        return f"{_fine_tune(experiment, job)} ({items} items), seed {job.seed}."
    return f"{_fine_tune(experiment, job)}, seed {job.seed}, scored on {targets}.{copies_note(experiment.items)}"


def study(experiment: Experiment, plan: Plan) -> str:
    """Description of a study's run."""
    return (
        f"{experiment.study.description}\n\n{len(experiment.bases)} base models x {len(experiment.sources)} sources x "
        f"{len(experiment.study.seeds)} seeds, scored on {len(experiment.grid)} targets; "
        f"{plan.fine_tunes} fine-tunes and {plan.evaluations} evaluations to do, "
        f"{sum(plan.reused.values())} runs reused.{copies_note(experiment.items)}"
    ).strip()


def adapter(experiment: Experiment, job: Job, training: Training) -> str:
    """Description of a model version, or of a full fine-tune's model."""
    recipe = experiment.study.recipe
    size = maker_of(experiment.study).summary()
    made = f"{_fine_tune(experiment, job)}, seed {job.seed}, study `{experiment.study.name}`: {size}"
    if not training.losses:
        return f"{made}, not trained."
    return (
        f"{made}, learning rate {recipe.learning_rate:g}, "
        f"epoch {training.kept_epoch} of {recipe.epochs}, final training loss {training.losses[-1]:.3f}."
    )


def _fine_tune(experiment: Experiment, job: Job) -> str:
    """What a fine-tune is, of which base and on which cell."""
    return maker_of(experiment.study).sentence.format(model=job.model, source=job.source)


def warn_below_chance(job: Job, low: Mapping[Cell, float], scores: Mapping[Cell, TargetScore]) -> None:
    """Say in the log which targets a base answers significantly worse than guessing would; ``low`` has their q."""
    for cell, q in low.items():
        log.warning(
            "%s: baseline of %s is below chance (%.3f, guessing %.3f; exact one-sided test over %d targets, q = %.2g): "
            "check this target's data before trusting its deltas",
            job.model,
            cell,
            scores[cell].score,
            scores[cell].chance,
            len(scores),
            q,
        )


def warn_cut_texts(job: Job, cut: int, texts: int) -> None:
    """Say in the log how many training texts lost their left side."""
    log.warning(
        "%s: %d of %d training texts lose their left side; raise recipe.max_length, or give shorter texts",
        job,
        cut,
        texts,
    )


def warn_cut_questions(job: Job, cut: Mapping[Cell, int]) -> None:
    """Say in the log of which targets questions were scored without their left side."""
    cells = ", ".join(f"{count} of {cell}" for cell, count in cut.items())
    log.warning("%s: questions longer than the model reads were scored without their left side: %s", job.model, cells)


def warn_indistinct(job: Job, scores: Mapping[Cell, TargetScore]) -> None:
    """Say in the log, task by task, in which languages a base's tokenizer makes different options the same tokens."""
    tasks: dict[str, list[str]] = {}
    for cell, result in scores.items():
        if result.indistinct:
            tasks.setdefault(cell.task, []).append(f"{cell.language} ({result.indistinct:.0%} of the questions)")
    for task, languages in tasks.items():
        log.warning(
            "%s: options of task %s are the same tokens, so no model can choose between them, in: %s; take a base that "
            "knows the script, or leave these cells out",
            job.model,
            task,
            ", ".join(languages),
        )
