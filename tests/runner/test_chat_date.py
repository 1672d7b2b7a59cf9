"""Of a base whose chat template writes the date, a study's date decides the scores, and scores know which it was."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis.reading.frame import MixedPromptsError, load
from registry.config.files import load_study
from registry.config.study import CHAT_DATE, Study
from registry.errors import Refused
from registry.lora.encoding import encode_queries
from registry.lora.score import ScoringSet, loglikelihoods
from registry.planning.base_facts import PLAIN
from registry.planning.design_files import write_study
from registry.planning.experiment import prepare
from registry.planning.fingerprints import fingerprint
from registry.runner.single import evaluate_one, finetune_one, narrowed
from registry.serving import AdapterModel
from registry.serving.metadata import read_metadata
from registry.tracking.names import Kind, Tag

TURNS = "{% for turn in messages %}{{ turn['content'] }}\n{% endfor %}assistant:\n"
DATED = "Today's Date: {{ strftime_now('%B %d, %Y') }}.\n" + TURNS


@pytest.fixture(scope="module")
def study_of(small_study, base, make_llama, tokenizer, tmp_path_factory) -> Callable[..., Study]:
    """The small study, of one source and seed, on a base with a chat template."""
    folders: dict[str, Path] = {}

    def make(template: str, *more: str) -> Study:
        if template not in folders:
            folders[template] = tmp_path_factory.mktemp("chat-base")
            make_llama(0).save_pretrained(folders[template])
            tokenizer.save_pretrained(folders[template])
            (folders[template] / "chat_template.jinja").write_text(template, encoding="utf-8")
        lines = "\n".join(["seeds: [17]", "sources: [kind/en]", *more])
        return small_study((str(base), str(folders[template])), ("seeds: [17, 42]", lines))

    return make


def fingerprints(study: Study) -> set[str]:
    return {job.evaluate for job in prepare(study).jobs()}


def test_the_date_decides_a_score_where_it_shows_and_nowhere_else(study_of) -> None:
    chat, other = "chat_template: true", "chat_template_date: 2025-01-31"
    plain_day = f"chat_template_date: {CHAT_DATE}"
    assert fingerprints(study_of(DATED, chat)) == fingerprints(study_of(DATED, chat, plain_day))
    assert not fingerprints(study_of(DATED, chat)) & fingerprints(study_of(DATED, chat, other))
    assert fingerprints(study_of(TURNS, chat)) == fingerprints(study_of(TURNS, chat, other))
    assert fingerprints(study_of(DATED)) == fingerprints(study_of(DATED, other))
    trained = {job.finetune for job in prepare(study_of(DATED, chat)).jobs()}
    assert trained == {job.finetune for job in prepare(study_of(DATED, chat, other)).jobs()}


def test_a_template_without_a_date_keeps_the_fingerprints_that_are_recorded(study_of) -> None:
    """They were made before there was a date."""
    experiment = prepare(study_of(TURNS, "chat_template: true"))
    expected = fingerprint(
        "evaluate",
        base=experiment.bases["tiny"].revision,
        subject="baseline",
        test=experiment.items.test_digest(experiment.grid),
        precision="fp32",
        quantization=None,
        chat_template=True,
    )
    assert experiment.baseline("tiny").evaluate == expected


def test_a_study_file_says_the_date_and_its_resolved_form_reads_back(study_of, tmp_path: Path) -> None:
    study = study_of(DATED, "chat_template: true", "chat_template_date: 2025-01-31")
    assert study.chat_template_date == date(2025, 1, 31)
    written = load_study(str(write_study(study, tmp_path) / "study.yaml"))
    assert written.chat_template_date == study.chat_template_date
    with pytest.raises(Refused, match="chat_template_date"):
        study_of(DATED, "chat_template_date: yesterday")


def test_a_template_that_draws_lots_is_refused_before_any_work(study_of) -> None:
    study = study_of("{{ ['a', 'b', 'c'] | random }}" + TURNS, "chat_template: true")
    with pytest.raises(Refused, match="draws lots"):
        prepare(study)


@pytest.fixture
def recorded(uri, study_of, tmp_path: Path):
    """A base and an adapter scored on the 31st of January, with the adapter's folder."""
    study = narrowed(study_of(DATED, "chat_template: true", "chat_template_date: 2025-01-31"))
    folder = finetune_one(study).download(str(tmp_path))
    return study, evaluate_one(study), folder


def test_runs_say_which_prompt_it_was_and_a_served_adapter_is_asked_the_same(recorded, make_llama, tokenizer) -> None:
    study, result, folder = recorded
    (baseline,) = (result.client.get_run(result.run.data.tags[Tag.BASELINE_RUN]),)
    header = prepare(study).facts_of("tiny").chat_header
    assert header != PLAIN
    assert {run.data.tags[Tag.CHAT_HEADER] for run in (baseline, result.run)} == {header}
    assert baseline.data.params["chat_template_date"] == "2025-01-31"
    assert yaml.safe_load((folder / "MLmodel").read_text())["metadata"]["chat_template_date"] == "2025-01-31"
    metadata = read_metadata(folder)
    assert (metadata.chat, metadata.day) == (True, date(2025, 1, 31))
    name, _, number = result.run.data.tags[Tag.MODEL_VERSION].rpartition("/")
    version = result.client.get_model_version(name, number)
    assert metadata.evaluated(version.tags) == metadata
    assert metadata.evaluated({Tag.CHAT_DATE: "2024-02-29"}).day == date(2024, 2, 29)

    base = prepare(study).bases["tiny"]
    asks = type(tokenizer).from_pretrained(base.location)
    server = AdapterModel(make_llama(), asks, metadata.prompt, base, chat=metadata.chat, day=metadata.day)
    answer = server.predict(pd.DataFrame({"question": ["Is it so?"], "options": [["yes", "no"]]}))
    pair = ("Question: Is it so?\nAnswer:", (" yes", " no"))
    (encoded,) = encode_queries(asks, [pair], chat=True, day=date(2025, 1, 31))
    assert "January 31, 2025" in asks.decode(encoded.context)
    (values,) = loglikelihoods(make_llama(), ScoringSet([encoded], tokens_per_batch=256, max_length=256))
    np.testing.assert_allclose(answer.loglikelihoods[0], values, rtol=0, atol=1e-4)
    (other,) = encode_queries(asks, [pair], chat=True)
    (elsewhere,) = loglikelihoods(make_llama(), ScoringSet([other], tokens_per_batch=256, max_length=256))
    assert np.abs(values - elsewhere).max() > 1e-2, "the date decides"


def test_a_delta_against_a_baseline_with_another_prompt_is_neither_recorded_nor_analysed(recorded) -> None:
    study, result, _ = recorded
    assert len(load(result.client, study.name).observations) == 4
    baseline = result.run.data.tags[Tag.BASELINE_RUN]
    result.client.set_tag(baseline, Tag.CHAT_HEADER, "0" * 64)
    with pytest.raises(MixedPromptsError, match=rf"1 evaluation of study 'small'.*{result.run.info.run_id}"):
        load(result.client, study.name)

    fresh = narrowed(study, seed=42)
    finetune_one(fresh)
    with pytest.raises(RuntimeError, match=f"baseline of tiny .run {baseline}. were put behind another chat header"):
        evaluate_one(fresh)
    result.client.delete_tag(baseline, Tag.CHAT_HEADER)  # as an older version left it
    assert len(load(result.client, study.name).observations) == 4


def test_plain_questions_are_told_apart_from_those_in_a_template(finished) -> None:
    kinds = (Kind.BASELINE, Kind.EVALUATE)
    assert {run.data.tags[Tag.CHAT_HEADER] for kind in kinds for run in finished.runs(kind)} == {PLAIN}
