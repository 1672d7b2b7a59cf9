"""How runs and adapters read in MLflow's UI: parameters, descriptions in Markdown, warnings in the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from registry.config.study import Study
from registry.planning.experiment import Experiment
from registry.recipes.maker import maker_of

if TYPE_CHECKING:  # these bring torch, which planning has no need of
    pass

__all__ = ["parameters", "study_yaml", "write_design", "write_study"]


def parameters(design: Study) -> dict[str, object]:
    """Return the recipe and the way of scoring as MLflow parameters, nested names joined by dots."""
    recipe = maker_of(design).parameters(asdict(design.recipe))
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
