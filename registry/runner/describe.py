"""How runs and adapters read in MLflow's UI: parameters, descriptions in Markdown, warnings in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from registry.cells import Cell
from registry.runner.copies import copies_note
from registry.runner.experiment import Experiment, Job
from registry.runner.plan import Plan, Step
from registry.study import Study
from registry.tracking.evaluations import TargetScore
from registry.tracking.names import Kind

if TYPE_CHECKING:  # these bring torch, which planning has no need of
    from registry.lora.train import Training
    from registry.runner.cost import Estimate

__all__ = [
    "adapter",
    "cost",
    "grid",
    "parameters",
    "plan",
    "run",
    "study",
    "study_yaml",
    "to_do",
    "warn_below_chance",
    "warn_cut_questions",
    "warn_cut_texts",
    "warn_indistinct",
    "write_design",
    "write_study",
]

log = logging.getLogger(__name__)


def parameters(design: Study) -> dict[str, object]:
    """Return the recipe and the way of scoring as MLflow parameters, nested names joined by dots."""
    recipe = asdict(design.recipe)
    if design.recipe.method == "full":
        del recipe["lora"]
    others: dict[str, object] = {
        "chat_template": design.chat_template,
        "quantization": design.quantization,
        "placement": design.placement,
        "gradient_checkpointing": design.gradient_checkpointing,
    }
    if design.chat_template:
        others["chat_template_date"] = design.chat_template_date
    return dict(_flat("", recipe)) | others


def study_yaml(design: Study) -> str:
    """Return the study with every default filled in, as a study file that loads back."""
    text: str = yaml.safe_dump(_plain(design.resolved()), sort_keys=False, allow_unicode=True)
    return text


def run(kind: Kind, experiment: Experiment, job: Job) -> str:
    """Description of a run."""
    cells = experiment.grid
    targets = f"{len(cells)} targets ({len(cells.tasks)} tasks x {len(cells.languages)} languages)"
    if job.source is None:
        told = f"The untouched base **{job.model}** scored on {targets}: what every delta is measured against."
        return f"{told}{copies_note(experiment.items)}"
    if kind is Kind.FINETUNE:
        items = len(experiment.items.train(job.source))
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


def grid(design: Study, *, sources: int, targets: int) -> str:
    """Say in one line what a study is."""
    bases, seeds = len(design.models), len(design.seeds)
    return (
        f"study {design.name!r}: {bases} bases x {sources} sources x {seeds} seeds "
        f"= {bases * sources * seeds} fine-tunes, scored on {targets} targets"
    )


def plan(found: Plan, *, workers: int, reaped: int) -> list[str]:
    """Say what is there and what is left, a line each."""
    reused = ", ".join(f"{count} {kind}" for kind, count in found.reused.items())
    lines = [
        f"  there already {reused}",
        to_do(found.fine_tunes, found.evaluations, sum(step is Step.BASELINE for _, step in found.todo)),
    ]
    if found.todo:
        lines.append(f"  workers       {min(workers, len(found.todo)) or 'as many as fit the Ray cluster'}")
    if reaped:
        lines.append(f"  reaped        {reaped} runs of processes that are gone, now KILLED")
    return lines


def to_do(fine_tunes: int, evaluations: int, baselines: int) -> str:
    """Say in one line what is left."""
    bases = "1 untouched base" if baselines == 1 else f"{baselines} untouched bases"
    of = f" ({evaluations - baselines} of fine-tuned models, {bases})" if baselines else ""
    return f"  to do         {fine_tunes} fine-tunes, {evaluations} evaluations{of}"


def cost(expected: Estimate) -> str:
    """Say what a plan is expected to take, and what that rests on."""
    minutes, seconds = divmod(round(expected.seconds), 60)
    hours, minutes = divmod(minutes, 60)
    took = f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
    if expected.gpus:
        took += f", {expected.gpus * expected.seconds / 3600:.1f} GPU hours"
    basis = expected.basis.replace("; ", "\n                ")
    lines = [
        f"  expected      {took}",
        f"  from          {basis}",
        f"  disk          {_size(expected.adapters)} of fine-tuned weights and {_size(expected.outcomes)} of outcomes",
    ]
    if expected.downloads:
        lines.append(f"                {_size(expected.downloads)} of models to download into the hub's cache")
    return "\n".join(lines)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count > 1e9 else f"{count / 1e6:.0f} MB"


def write_study(design: Study, folder: Path) -> Path:
    """Write the resolved study into a folder, and return that."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(study_yaml(design), encoding="utf-8")
    return folder


def write_design(experiment: Experiment, folder: Path, tasks: Iterable[str]) -> None:
    """Write what fixes a run's items and recipe: the resolved study, and the manifests of the tasks it used."""
    (folder / "manifest").mkdir(exist_ok=True)
    for task in tasks:
        (folder / "manifest" / f"{task}.csv").write_text(experiment.items.manifest(task).to_csv(), encoding="utf-8")
    write_study(experiment.study, folder)


def adapter(experiment: Experiment, job: Job, training: Training) -> str:
    """Description of a model version, or of a full fine-tune's model."""
    recipe = experiment.study.recipe
    size = "every weight" if recipe.method == "full" else f"rank {recipe.lora.rank}"
    return (
        f"{_fine_tune(experiment, job)}, seed {job.seed}, "
        f"study `{experiment.study.name}`: {size}, learning rate {recipe.learning_rate:g}, "
        f"epoch {training.kept_epoch} of {recipe.epochs}, final training loss {training.losses[-1]:.3f}."
    )


def _fine_tune(experiment: Experiment, job: Job) -> str:
    """What a fine-tune is, of which base and on which cell."""
    if experiment.study.recipe.method == "full":
        return f"Full fine-tune of **{job.model}** on **{job.source}**"
    return f"LoRA adapter of **{job.model}** fine-tuned on **{job.source}**"


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


def _flat(prefix: str, values: Mapping[str, Any]) -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = []
    for key, value in values.items():
        pairs += _flat(f"{prefix}{key}.", value) if isinstance(value, dict) else [(f"{prefix}{key}", _short(value))]
    return pairs


def _short(value: object) -> object:
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def _plain(value: Any) -> Any:
    """Return plain YAML data: tuples as lists, what is empty or None left out, since a study file may not name it."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items() if part not in (None, (), {}, "")}
    return [_plain(part) for part in value] if isinstance(value, tuple) else value
