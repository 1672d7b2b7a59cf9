"""A study made ready to run: its bases found, its items aligned, every name checked, nothing yet trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from registry.benchmarks.aligned import AlignedItems, align
from registry.benchmarks.kinds import load_benchmark
from registry.benchmarks.prompts import TrainingText
from registry.cells import Cell, Grid
from registry.config.study import Recipe, Study
from registry.errors import Refused, unknown
from registry.evaluation.asking import ALL_QUESTIONS, Asking
from registry.models.base import Base, resolve_bases
from registry.models.loading import require_quantization
from registry.planning.base_facts import BaseFacts, base_facts
from registry.planning.copies import check_copies, require_different_bases
from registry.planning.fingerprints import changed_dropout, fingerprint
from registry.recipes.maker import maker_of
from registry.sources import Source

__all__ = ["Experiment", "Job", "Need", "prepare", "source_cell"]


@dataclass(frozen=True, slots=True)
class Need:
    """A run that a job waits for, by its fingerprint.

    ``for_making`` says when: before its adapter is made, as a parent is needed; otherwise before its scores are
    recorded, as the baseline is needed to measure them against.
    """

    fingerprint: str
    for_making: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One unit of work: a base model's baseline (no source), or one adapter, made and evaluated.

    Attributes
    ----------
    finetune, evaluate
        Fingerprints of its runs; a baseline has no ``finetune``.
    needs
        Runs of other jobs that it waits for.
    """

    model: str
    source: Source | None
    seed: int | None
    finetune: str | None
    evaluate: str
    needs: tuple[Need, ...] = ()

    @property
    def made_from(self) -> Source:
        """What its adapter is made from; a baseline has none."""
        if self.source is None:
            raise ValueError(f"{self} has no source: only adapters are made")
        return self.source

    @property
    def source_cell(self) -> Cell:
        """The single cell that its adapter is trained on."""
        return self.made_from.cell

    @property
    def adapter_seed(self) -> int:
        """The seed an adapter is trained with; a baseline has none."""
        if self.seed is None:
            raise ValueError(f"{self} has no seed: only adapters are trained")
        return self.seed

    def __str__(self) -> str:
        return f"{self.model} baseline" if self.source is None else f"{self.model} {self.source} seed {self.seed}"


@dataclass(frozen=True)
class Experiment:
    """A study with everything it names resolved.

    Attributes
    ----------
    bases : mapping of model name to Base
    grid : Grid
        The target cells.
    sources : tuple of Cell
        The cells trained on.
    facts : mapping of model name to BaseFacts
        What each base makes of the study.
    asking : Asking
        Which questions evaluations ask.
    """

    study: Study
    bases: Mapping[str, Base]
    grid: Grid
    sources: tuple[Cell, ...]
    items: AlignedItems
    facts: Mapping[str, BaseFacts] = field(default_factory=dict)
    asking: Asking = ALL_QUESTIONS

    @property
    def protocol(self) -> str:
        """Name of the recipe and evaluation that the study follows."""
        return self.study.protocol or self.study.name

    def facts_of(self, model: str) -> BaseFacts:
        """Return what a base makes of the study; what nearly every base does where nobody looked."""
        return self.facts.get(model) or BaseFacts()

    def baseline(self, model: str) -> Job:
        """The job that scores an untouched base."""
        return Job(model, None, None, None, self._evaluation_fingerprint(model, "baseline"))

    def job(self, model: str, source: Cell, seed: int) -> Job:
        """The job of one adapter, measured against its base model's baseline."""
        base, masked = self.bases[model], self.items.prompts[source.task].supervised == "target"
        finetune = fingerprint(
            "finetune",
            base=base.revision,
            train=self.items.digest(source, "train"),
            recipe=maker_of(self.study).parameters(self.study.recipe.deciding(source.task, masked=masked)),
            quantization=self.study.quantization,
            seed=seed,
            **self._cell_of_copy(source),
            **changed_dropout(self.study.recipe),
            **self.facts_of(model).deciding_training,
        )
        needs = (Need(self.baseline(model).evaluate),)
        return Job(model, Source.of_cell(source), seed, finetune, self._evaluation_fingerprint(model, finetune), needs)

    def _cell_of_copy(self, source: Cell) -> dict[str, str]:
        """What distinguishes the adapters of copied cells; elsewhere, a cell decides nothing that its items do not."""
        return {"cell": str(source)} if self.study.split.copies == "allow" and self.items.twins(source) else {}

    def training_texts(self, source: Cell) -> list[TrainingText]:
        """The texts of a source cell, the loss where the recipe puts it."""
        prompt = self.items.prompts[source.task]
        if self.study.recipe.loss == "whole_text":
            prompt = replace(prompt, supervised="text")
        return [prompt.training(item) for item in self.items.train(source)]

    def jobs(self) -> list[Job]:
        """Every job of the study, model by model, the baseline first."""
        return [
            job
            for model in self.bases
            for job in (
                self.baseline(model),
                *(self.job(model, source, seed) for seed in self.study.seeds for source in self.sources),
            )
        ]

    def _evaluation_fingerprint(self, model: str, subject: str) -> str:
        """Return the fingerprint of a scoring.

        Its scores and deltas are those of the headline accuracies; where these are the prompt styles' own they stay
        out, so that a result recorded before there was the choice is found again.
        """
        headlines = {"headlines": dict(self.items.headlines)} if self.items.headlines else {}
        return fingerprint(
            "evaluate",
            base=self.bases[model].revision,
            subject=subject,
            test=self.items.test_digest(self.grid),
            precision=self.study.recipe.precision,
            quantization=self.study.quantization,
            chat_template=self.study.chat_template,
            **headlines,
            **self.asking.deciding,
            **self.facts_of(model).deciding_scores,
        )


def prepare(study: Study) -> Experiment:
    """Resolve a study; every mistake in it shows here, before any work.

    Raises
    ------
    Refused
        If a model, task, language or source does not exist, a source's task has no length, the items cannot be aligned,
        a base lacks the chat template that the study asks for or the layers that it adapts, the library is missing
        that loads quantised bases, or every weight of such a base is to be trained; or if two bases, or the training
        items of two sources, are the same.
    """
    require_quantization(study.quantization)
    maker_of(study).check()
    benchmark = load_benchmark(study.benchmark)
    grid = benchmark.select(study.tasks, study.languages)
    sources = tuple(source_cell(name, grid) for name in study.sources) or grid.cells
    _require_lengths(study.recipe, sources, benchmark.grid.tasks)
    bases = resolve_bases(study.models, trust_remote_code=study.trust_remote_code)
    require_different_bases(bases.values())
    facts = {name: base_facts(study, base) for name, base in bases.items()}
    items = align(benchmark, grid, study.split)
    check_copies(items, sources, allowed=study.split.copies == "allow")
    return Experiment(study, bases, grid, sources, items, facts)


def _require_lengths(recipe: Recipe, sources: Iterable[Cell], tasks: Iterable[str]) -> None:
    """Refuse lengths for tasks that do not exist, and sources without one."""
    if isinstance(recipe.max_length, int):
        return
    for task in recipe.max_length:
        if task not in tasks:
            raise unknown("task", task, tasks, where="recipe.max_length")
    lacking = sorted({source.task for source in sources} - set(recipe.max_length))
    if lacking:
        raise Refused(
            f"recipe.max_length has no length for {', '.join(lacking)}, which the study trains on; add it, or give one "
            "length for every task"
        )


def source_cell(name: str, grid: Grid) -> Cell:
    """Read a source cell that a study names, and refuse one that its grid does not have."""
    try:
        cell = Cell.parse(name)
    except ValueError as error:
        raise Refused(f"sources: {error}") from None
    if cell.task not in grid.tasks:
        raise unknown("task", cell.task, grid.tasks, where="sources")
    if cell.language not in grid.languages:
        raise unknown("language", cell.language, grid.languages, where="sources")
    return cell
