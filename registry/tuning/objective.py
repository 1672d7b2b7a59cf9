"""How good a recipe is, measured on held-out items of the training side.

``validation_loss``: the loss on the held-out share of each source's training items, in nats per supervised token, of
the epoch that the study would keep; the mean over the sources. Lower is better.

``transfer``: an adapter is trained on each source without the held-out items, and scored on those of every target.
With Δ the delta over the untouched base on them, in percentage points,

    value = mean of Δ over MT-CL targets  −  weight × mean of max(0, −Δ) over off-task targets,

the mean over the sources. Harm is thus how far a target falls below its baseline, and 0 where it does not fall; what
off-task targets gain is worth nothing. Regimes are those of arXiv 2511.13368. Higher is better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from statistics import fmean

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from registry.cells import Cell, Regime, regime_of
from registry.config.study import Recipe
from registry.config.tuning import TuneSpec
from registry.errors import Refused
from registry.evaluation.outcomes import Outcomes, Questions
from registry.lora.adapter import Adapter, fresh_adapter
from registry.lora.bank import merged
from registry.lora.encoding import Example
from registry.lora.score import ScoringSet, loglikelihoods
from registry.lora.train import Assignment, Training, train_adapters
from registry.models.loading import load_tokenizer
from registry.models.projections import matched_modules
from registry.planning.experiment import Experiment
from registry.runner.engine_inputs import examples_of, loaded, questions_of, tokens_per_batch
from registry.tracking import metric_names

__all__ = ["Progress", "Report", "TrialOutcome", "Workbench", "transfer_value"]

#: Called with what a trial is doing and the share of it done, in [0, 1].
Progress = Callable[[str, float], None]

#: Given a step and the objective as it stands there; raises to stop the trial.
Report = Callable[[int, float], None]


@dataclass(frozen=True)
class TrialOutcome:
    """The objective's value and the numbers behind it, as metrics."""

    value: float
    metrics: Mapping[str, float]


def transfer_value(
    source: Cell, scores: Mapping[Cell, float], baseline: Mapping[Cell, float], *, weight: float
) -> tuple[float, float, float]:
    """Return value, gain and harm of one adapter, in percentage points; see the module's text.

    Parameters
    ----------
    scores, baseline : mapping of target to score
        Proportions in [0, 1].
    """
    deltas = {target: round(100 * (score - baseline[target]), 9) for target, score in scores.items()}
    gain = fmean(delta for target, delta in deltas.items() if regime_of(source, target) is Regime.MT_CL)
    off_task = [max(0.0, -delta) for target, delta in deltas.items() if regime_of(source, target).off_task]
    harm = fmean(off_task) if off_task else 0.0
    return gain - weight * harm, gain, harm


class Workbench:
    """One base in memory, the texts of the sources, and for ``transfer`` the baseline of every target.

    Parameters
    ----------
    experiment : Experiment
        One base; its items are of the training side alone, ``test`` being those to judge on.
    seed : int
        Of every adapter.
    """

    def __init__(self, experiment: Experiment, spec: TuneSpec, *, seed: int, device: str) -> None:
        (self._base,) = experiment.bases.values()
        self._experiment, self._spec, self._seed, self._device = experiment, spec, seed, device
        tokenizer = load_tokenizer(self._base)
        self._examples = {source: self._encoded(tokenizer, source) for source in experiment.sources}
        self._questions: ScoringSet | None = None
        if spec.objective == "transfer":
            self._questions = questions_of(experiment, self._base, tokenizer, self._asked, device=device)
        self._model = loaded(experiment.study, self._base, device=device)
        self._check_targets()
        self._baseline = self._scores(self._model) if self._questions is not None else {}

    def measure(self, recipe: Recipe, report: Report, progress: Progress) -> TrialOutcome:
        """Train on every source and judge.

        Raises
        ------
        FloatingPointError
            If a loss is not finite.
        """
        if self._spec.objective == "transfer":
            return self._transfer(recipe, report, progress)
        return self._validation_loss(recipe, report, progress)

    def _validation_loss(self, recipe: Recipe, report: Report, progress: Progress) -> TrialOutcome:
        """Train all sources together, so that an epoch's loss is reported for all of them at once."""
        curves: dict[Cell, list[float]] = {source: [] for source in self._examples}
        keeps_best = recipe.validation > 0

        def standing(epochs: int) -> float:
            kept = (min(curve[:epochs]) if keeps_best else curve[epochs - 1] for curve in curves.values())
            return fmean(kept)

        def reporter(source: Cell) -> Callable[[int, float], None]:
            def validated(epoch: int, loss: float) -> None:
                curves[source].append(loss)
                if all(len(curve) >= epoch for curve in curves.values()):
                    report(epoch, standing(epoch))

            return validated

        judged = replace(recipe, validation=self._spec.validation)
        self._train(judged, {source: reporter(source) for source in curves}, partial(progress, "train"))
        metrics = {
            metric_names.tuned("validation_loss", source): min(curve) if keeps_best else curve[-1]
            for source, curve in curves.items()
        }
        return TrialOutcome(standing(recipe.epochs), metrics)

    def _transfer(self, recipe: Recipe, report: Report, progress: Progress) -> TrialOutcome:
        values: list[float] = []
        metrics: dict[str, float] = {}
        for step, source in enumerate(self._examples, 1):
            where = f"source {step} of {len(self._examples)}:"
            (training,) = self._train(recipe, {source: None}, partial(progress, f"{where} train"))
            assert isinstance(training.adapter, Adapter)
            with merged(self._model, training.adapter) as whole:
                scores = self._scores(whole, partial(progress, f"{where} score"))
            value, gain, harm = transfer_value(source, scores, self._baseline, weight=self._spec.harm_weight)
            values.append(value)
            metrics |= {metric_names.tuned("gain", source): gain, metric_names.tuned("harm", source): harm}
            report(step, fmean(values))
        return TrialOutcome(fmean(values), metrics)

    def _train(
        self,
        recipe: Recipe,
        reporters: Mapping[Cell, Callable[[int, float], None] | None],
        progress: Callable[[float], None],
    ) -> list[Training]:
        study = self._experiment.study
        assignments = [
            Assignment(
                fresh_adapter(self._model, recipe.lora, seed=self._seed),
                self._examples[source],
                self._seed,
                validated=validated,
            )
            for source, validated in reporters.items()
        ]
        results = train_adapters(
            self._model,
            assignments,
            recipe,
            tokens_per_batch=tokens_per_batch(study, self._device),
            gradient_checkpointing=study.gradient_checkpointing,
            progress=progress,
        )
        trained: list[Training] = []
        for result in results:
            if isinstance(result, FloatingPointError):
                raise result
            trained.append(result)
        return trained

    def _encoded(self, tokenizer: PreTrainedTokenizerBase, source: Cell) -> Sequence[Example]:
        examples = examples_of(self._experiment, self._base, tokenizer, source)
        if self._spec.objective == "validation_loss" and int(len(examples) * self._spec.validation) < 1:
            message = f"{source}: {len(examples)} training items leave none to judge on at tune.validation"
            raise Refused(f"{message} {self._spec.validation:g}; raise that share, or give more by split.train")
        return examples

    def _check_targets(self) -> None:
        for targets in self._spec.space.targets.choices:
            matched = matched_modules(self._model, targets)
            if matched.absent:
                raise Refused(
                    f"tune.space.targets: base {self._base.name!r} has no {', '.join(matched.absent)} among its linear "
                    f"layers; it has {', '.join(matched.offered)}"
                )

    @cached_property
    def _asked(self) -> Questions:
        return Questions.of(self._experiment)

    def _scores(self, model: PreTrainedModel, progress: Callable[[float], None] | None = None) -> dict[Cell, float]:
        assert self._questions is not None
        outcomes = Outcomes(self._asked, loglikelihoods(model, self._questions, progress=progress))
        return {cell: found.score for cell, found in outcomes.scores().items()}
