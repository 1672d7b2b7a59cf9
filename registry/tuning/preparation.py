"""A search for a recipe made ready: base, sources and items found, every name checked, no test item read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from registry.benchmarks.kinds import load_benchmark
from registry.cells import Cell, Grid
from registry.config.study import Study
from registry.config.tuning import TuneSpec
from registry.errors import Refused, unknown
from registry.models.base import resolve_base
from registry.models.loading import require_quantization
from registry.planning.base_facts import base_facts
from registry.planning.experiment import Experiment, source_cell
from registry.planning.fingerprints import fingerprint
from registry.runner.single import narrowed
from registry.tuning.items import held_out, training_side

__all__ = ["Search", "prepare_search"]


@dataclass(frozen=True)
class Search:
    """What is searched for, and on what.

    Attributes
    ----------
    study : Study
        The study whose recipe is searched for, as its file has it.
    experiment : Experiment
        One base, the sources trained on and the targets judged on; its items are of the training side alone.
    seed : int
        Of every adapter, and of what Optuna draws.
    """

    study: Study
    spec: TuneSpec
    experiment: Experiment
    seed: int

    @property
    def model(self) -> str:
        """Name of the base."""
        return next(iter(self.experiment.bases))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what decides the value of a recipe, and the space it is looked for in."""
        base, items, spec, study = self.experiment.bases[self.model], self.experiment.items, self.spec, self.study
        transfer, facts = spec.objective == "transfer", self.experiment.facts_of(self.model)
        return fingerprint(
            "tune",
            base=base.revision,
            train={str(source): items.digest(source, "train") for source in self.experiment.sources},
            judged=items.test_digest(self.experiment.grid) if transfer else spec.validation,
            objective=spec.objective,
            harm_weight=spec.harm_weight if transfer else None,
            space=spec.space,
            recipe=study.recipe,
            quantization=study.quantization,
            chat_template=study.chat_template if transfer else None,
            seed=self.seed,
            **({"headlines": dict(items.headlines)} if transfer and items.headlines else {}),
            **(facts.deciding_scores if transfer else facts.deciding_training),
        )

    @property
    def name(self) -> str:
        """Name of the search in Optuna's storage: the study's, and what decides a recipe's value."""
        return f"{self.study.name} {self.fingerprint[:16]}"


def prepare_search(
    study: Study, spec: TuneSpec, *, model: str = "", task: str = "", language: str = "", seed: int | None = None
) -> Search:
    """Resolve a search; every mistake in it shows here, before any work.

    Parameters
    ----------
    model, seed
        Base and seed; what is not given is the study's first.
    task, language
        Narrow the sources: one cell of each task, of this task or in this language.

    Raises
    ------
    Refused
        If a name does not exist, the items do not suffice, or the objective has nothing to judge.
    """
    if study.recipe.method != "lora":
        raise Refused(f"tune searches recipes of LoRA; the study trains by method: {study.recipe.method}")
    require_quantization(study.quantization)
    single = narrowed(study, model=model, seed=seed)
    benchmark = load_benchmark(study.benchmark)
    grid = benchmark.select(study.tasks, study.languages)
    sources = _sources(study, spec, grid, task, language)
    if spec.objective == "transfer" and len(grid.languages) < 2:
        remedy = "name more languages, or take objective=validation_loss"
        raise Refused(f"transfer is judged in other languages, and the study has only {grid.languages[0]}; {remedy}")
    base = resolve_base(single.models[0], trust_remote_code=study.trust_remote_code)
    if spec.objective == "transfer":
        items = held_out(benchmark, grid, study.split, share=spec.validation)
    else:
        items = training_side(benchmark, grid, study.split)
    experiment = Experiment(single, {base.name: base}, grid, sources, items, {base.name: base_facts(single, base)})
    return Search(study, spec, experiment, single.seeds[0])


def _sources(study: Study, spec: TuneSpec, grid: Grid, task: str, language: str) -> tuple[Cell, ...]:
    for kind, name, offered in (("task", task, grid.tasks), ("language", language, grid.languages)):
        if name and name not in offered:
            raise unknown(kind, name, offered, where=f"study {study.name}")
    if task or language:
        return _first_of_each_task(c for c in grid if task in ("", c.task) and language in ("", c.language))
    if spec.sources:
        return tuple(dict.fromkeys(source_cell(name, grid) for name in spec.sources))
    return _first_of_each_task([source_cell(name, grid) for name in study.sources] or grid.cells)


def _first_of_each_task(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(cell.task, cell)
    return tuple(first.values())
