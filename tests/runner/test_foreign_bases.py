"""Bases of other architectures go through a whole study, or are refused before any work, in words."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from analysis.reading.frame import load
from analysis.reading.observations import cut_cautions
from registry.cells import parse_cells
from registry.config.study import BaseSpec, Study
from registry.errors import Refused
from registry.runner.session import prospect, rehearse, run_study
from registry.tracking.metric_names import CUT_TEXTS
from registry.tracking.names import Kind, Tag
from registry.tracking.store import all_runs
from tests.architectures.tiny import tiny_config, tiny_model

SMALL = {"vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}


@pytest.fixture
def with_bases(small_study) -> Callable[..., Study]:
    """The small study on other bases, with one source and one seed."""

    def change(**folders: Path) -> Study:
        specs = tuple(BaseSpec(name=name, path=str(folder)) for name, folder in folders.items())
        return dataclasses.replace(small_study(), models=specs, sources=("kind/en",), seeds=(17,))

    return change


@pytest.fixture
def saved(tmp_path, tokenizer) -> Callable[..., Path]:
    def save(kind: str, **fields: object) -> Path:
        folder = tmp_path / kind
        tiny_model(tiny_config(kind, **fields)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


def runs_of(client, study: Study, kind: Kind) -> list:
    identity = client.get_experiment_by_name(study.name).experiment_id
    return [run for run in all_runs(client, [identity], "") if run.data.tags[Tag.KIND] == kind]


@pytest.mark.parametrize(("kind", "targets"), [("bloom", ("query_key_value",)), ("gpt2", ("c_attn",))])
def test_a_study_runs_on_a_base_whose_attention_is_its_own(
    client, with_bases, saved, kind: str, targets: tuple[str, ...]
) -> None:
    study = with_bases(tiny=saved(kind))
    recipe = dataclasses.replace(study.recipe, lora=dataclasses.replace(study.recipe.lora, targets=targets))
    study = dataclasses.replace(study, recipe=recipe)
    assert run_study(prospect(study, workers=1)) == []
    (evaluation,) = runs_of(client, study, Kind.EVALUATE)
    assert evaluation.info.status == "FINISHED"
    assert any(value for key, value in evaluation.data.metrics.items() if key.startswith("delta/"))


def test_texts_that_lose_their_left_side_are_counted_in_the_runs_and_said(client, with_bases, saved, caplog) -> None:
    """As GPT-BigCode's, whose longest input was taken for 2,048: it is in n_positions, 24 here."""
    study = with_bases(tiny=saved("gpt_bigcode", n_positions=24))
    recipe = dataclasses.replace(study.recipe, lora=dataclasses.replace(study.recipe.lora, targets=("c_attn",)))
    study = dataclasses.replace(study, recipe=recipe)
    with caplog.at_level(logging.WARNING):
        assert run_study(prospect(study, workers=1)) == []
    (training,) = runs_of(client, study, Kind.FINETUNE)
    assert 0 < training.data.metrics[CUT_TEXTS] <= 24
    runs = [*runs_of(client, study, Kind.BASELINE), *runs_of(client, study, Kind.EVALUATE)]
    for run in runs:
        cut = {key: value for key, value in run.data.metrics.items() if key.startswith("cut_questions/")}
        assert cut
        assert all(0 < value <= 16 for value in cut.values())
        tagged = {str(cell): count for cell, count in parse_cells(run.data.tags[Tag.CUT]).items()}
        assert tagged == {key.removeprefix("cut_questions/"): value for key, value in cut.items()}
    assert "training texts lose their left side" in caplog.text
    assert "scored without their left side" in caplog.text
    frame = load(client, study.name)
    (note,) = [note for note in frame.notes if note.startswith("Cut questions: ")]
    assert "questions longer than tiny reads were scored without their left side" in note
    assert cut_cautions(frame.notes)[0][0] == "Questions that were cut"


def test_a_study_whose_texts_fit_says_nothing_of_it(finished) -> None:
    for kind in (Kind.FINETUNE, Kind.BASELINE, Kind.EVALUATE):
        for run in finished.finished(kind).values():
            assert Tag.CUT not in run.data.tags
            assert not [key for key in run.data.metrics if key.startswith("cut_questions/") or key == CUT_TEXTS]


def test_a_dry_run_names_every_base_that_cannot_run(with_bases, tmp_path, uri) -> None:
    T5ForConditionalGeneration(
        T5Config(vocab_size=500, d_model=64, d_ff=64, num_layers=1, num_heads=2)
    ).save_pretrained(tmp_path / "t5")
    BertForMaskedLM(BertConfig(**SMALL, intermediate_size=64)).save_pretrained(tmp_path / "bert")
    study = with_bases(translator=tmp_path / "t5", masked=tmp_path / "bert")
    with pytest.raises(Refused) as refused:
        rehearse(study)
    told = str(refused.value)
    assert "2 base models cannot be used" in told
    assert "'translator' is an encoder-decoder (t5)" in told
    assert "'masked' is a BertForMaskedLM, not a causal language model" in told
