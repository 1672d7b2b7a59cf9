"""A dry run scales what finished runs took by tokens: twice the questions take twice the time."""

from __future__ import annotations

import dataclasses

import pytest

from registry.evaluation.outcomes import Questions
from registry.lora.encoding import encode_examples, input_tokens
from registry.models.loading import load_tokenizer
from registry.planning import design_files
from registry.planning.estimate import estimate
from registry.planning.experiment import prepare
from registry.planning.plan import on_record, plan_beside
from registry.runner.engine_inputs import questions_of
from registry.runner.session import rehearse
from registry.tracking.metric_names import usage_metrics
from registry.tracking.names import Kind, Tag
from registry.tracking.runs import recorded
from registry.tracking.store import experiment_id

TRAIN, VALIDATE, SCORE = 0.02, 0.005, 0.01  # seconds a token
BESIDES = 3.0  # seconds of a run without any


@pytest.fixture
def planted(client, small_study):
    """Record finished runs of the small study's base, and return how to estimate another study on that record."""
    study = small_study()
    revision = prepare(study).bases["tiny"].revision
    identity = experiment_id(client, study.name)

    def plant(kind: Kind, params: dict[str, object], *, strange: int = 1, **tokens: int) -> None:
        speeds = {"train": TRAIN, "validation": VALIDATE, "score": SCORE}
        seconds = {phase: strange * speeds[phase] * count for phase, count in tokens.items()}
        tags = {Tag.BASE_REVISION: revision, Tag.BASE_MODEL: "tiny", Tag.FINGERPRINT: f"{kind} {strange}"}
        total = sum(seconds.values()) + BESIDES
        with recorded(client, identity, kind=kind, name="x", tags=tags, params=params, seconds_ago=total) as recording:
            for phase, count in tokens.items():
                took = {"tokens": count, "flop": 1e9, "peak_memory_gb": 1.0}
                recording.metrics(usage_metrics(phase, seconds=seconds[phase], **took))

    params = design_files.parameters(study)
    plant(Kind.FINETUNE, params, train=400, validation=100)
    plant(Kind.BASELINE, params, score=1000)
    other = dataclasses.replace(study, recipe=dataclasses.replace(study.recipe, precision="bf16"))
    for kind, tokens in ((Kind.FINETUNE, {"train": 400}), (Kind.EVALUATE, {"score": 1000})):
        plant(kind, design_files.parameters(other), strange=50, **tokens)

    def estimated(*replaced: tuple[str, str]):
        experiment, done = prepare(small_study(*replaced)), on_record(client, identity)
        return experiment, estimate(experiment, plan_beside(done, experiment.jobs()), done, workers=1)

    return estimated


def tokens_of(experiment) -> tuple[float, float, float]:
    """Tokens of all trainings, of all their validations, and of one scoring, as the runs will count them."""
    base, recipe = experiment.bases["tiny"], experiment.study.recipe
    tokenizer = load_tokenizer(base)
    scored = questions_of(experiment, base, tokenizer, Questions.of(experiment), device="cpu").tokens
    pairs = [(text.prompt, text.target) for source in experiment.sources for text in experiment.training_texts(source)]
    count = (
        recipe.epochs * len(experiment.study.seeds) * input_tokens(encode_examples(tokenizer, pairs, max_length=512))
    )
    return count * (1 - recipe.validation), count * recipe.validation, scored


@pytest.mark.parametrize(
    "replaced",
    [
        (),
        (("test: 16", "test: 48"),),
        (("train: 24", "train: 96"),),
        (("epochs: 1", "epochs: 4"),),
        (("validation: 0", "validation: 0.5"),),
        (("languages: [en, tr]", "languages: [en, tr, it]"),),
    ],
    ids=str,
)
def test_recorded_times_are_scaled_by_tokens(planted, replaced) -> None:
    experiment, cost = planted(*replaced)
    trained, validated, scored = tokens_of(experiment)
    trainings, scorings = len(experiment.jobs()) - 1, len(experiment.jobs())
    expected = trainings * BESIDES + TRAIN * trained + VALIDATE * validated + scorings * (BESIDES + SCORE * scored)
    assert cost.basis == "finished runs of the same bases, scaled by tokens"
    assert cost.seconds == pytest.approx(expected, rel=0.1)


def test_runs_that_were_held_or_trained_otherwise_tell_nothing(planted) -> None:
    _, cost = planted(("recipe:", "gradient_checkpointing: true\nrecipe:"))
    assert cost.basis == (
        "finished runs of the same bases, scaled by tokens; tokens, parameters and this machine's matrix-product rate"
    )
    _, cost = planted(("recipe:", "recipe:\n  precision: fp16"))
    assert cost.basis == "tokens, parameters and this machine's matrix-product rate"


def test_a_baseline_that_is_done_tells_how_many_tokens_a_scoring_has(client, small_study, rerun, records_of) -> None:
    records = records_of(small_study(("seeds: [17, 42]", "seeds: [17]\nsources: [kind/en]")))
    rerun(records)
    (baseline,) = records.finished(Kind.BASELINE).values()
    assert baseline.data.metrics["tokens/score"] == tokens_of(records.experiment)[2]
    text = rehearse(small_study())
    assert "finished runs of the same bases, scaled by tokens" in text
