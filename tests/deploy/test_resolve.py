"""Which version is meant: every way to say it, and every way to be told that there is none."""

from __future__ import annotations

import pandas as pd
import pytest
from mlflow import MlflowClient

from registry.cells import Cell
from registry.errors import Refused
from registry.tracking.names import Kind, Tag
from registry.tracking.runs import recorded
from registry.tracking.store import experiment_id

NAME = "tiny--pair--tr"


@pytest.fixture
def two(register) -> None:
    register(17)
    register(42)


WAYS: list[tuple[dict[str, object], str]] = [
    ({"name": NAME, "version": "1"}, "1"),
    ({"name": f"models:/{NAME}/1"}, "1"),
    ({"name": f"models:/{NAME}/latest"}, "2"),
    ({"name": NAME, "version": "champion"}, "1"),
    ({"name": f"models:/{NAME}@champion"}, "1"),
    ({"name": NAME}, "2"),
    ({"name": NAME, "seed": 17}, "1"),
    ({"model": "tiny", "task": "pair", "language": "tr"}, "2"),
    ({"model": "tiny", "task": "pair", "language": "tr", "seed": 17}, "1"),
    ({"model": "tiny", "task": "pair", "language": "tr", "version": "champion"}, "1"),
]


def test_a_version_is_found_by_each_way_to_say_it(client: MlflowClient, two, chosen) -> None:
    client.set_registered_model_alias(NAME, "champion", "1")
    for asked, version in WAYS:
        found = chosen(**asked).adapter
        assert (asked, found.uri) == (asked, f"models:/{NAME}/{version}")
        assert found.model_id == client.get_model_version(NAME, version).source.removeprefix("models:/")


def test_where_several_fit_the_others_are_told(two, chosen) -> None:
    said = " ".join(chosen(name=NAME).notes)
    assert "2 versions fit; the newest is taken: 2 (seed 42, study small)" in said
    assert "1 (seed 17, study small)" in said
    assert not chosen(name=NAME, seed=17).notes


def test_a_logged_models_own_address_leads_to_its_version(register, chosen) -> None:
    adapter = register()
    assert chosen(name=f"models:/{adapter.model_id}").adapter == adapter


REFUSED: list[tuple[dict[str, object], str]] = [
    ({}, "name an adapter"),
    ({"name": "tiny--pair--t"}, "no registered adapter 'tiny--pair--t'; there is only: tiny--pair--tr"),
    ({"name": NAME, "version": "7"}, r"no version 7 \(any more\); there are: 2 \(seed 42"),
    ({"name": NAME, "version": "best"}, "no alias 'best', nor any other"),
    ({"name": NAME, "seed": 3}, "no version of seed 3; there are: 2"),
    ({"name": NAME, "version": "1", "seed": 42}, "not of the seed"),
    ({"name": NAME, "study": "other"}, "no version of study other"),
    ({"name": NAME, "model": "tiny"}, "leave out model"),
    ({"name": f"models:/{NAME}/1", "version": "2"}, "names a version already"),
    ({"name": "models:/m-0123"}, "no logged model m-0123"),
    ({"name": "../x"}, "no registered name"),
    ({"name": "/etc/passwd"}, "no registered name"),
    ({"name": "models:/../../x/1"}, "no"),
    ({"name": "a\0b"}, "no registered name"),
    ({"name": ".."}, "no registered name"),
    ({"name": 'it\'s "both"'}, "no registered adapter"),
    ({"model": "tiny"}, "needs task, language too"),
    ({"model": "tiny", "task": "../x", "language": "tr"}, "no cell"),
    ({"model": "tiny", "task": "pair", "language": "en"}, "or train it first: -e finetune"),
    ({"best_for": "pair/tr", "name": NAME}, "leave|give at most model and study"),
    ({"best_for": "pair"}, "no cell"),
    ({"best_for": "pair/tr"}, "no finished evaluation of an adapter"),
    ({"best_for": "pair/tr", "study": "smal"}, "no study 'smal'; nearest: small"),
]


def test_what_cannot_be_meant_is_refused(two, chosen) -> None:
    for asked, told in REFUSED:
        with pytest.raises(Refused, match=told):
            pytest.fail(f"{asked} is taken for {chosen(**asked)}")


def test_an_alias_that_is_not_there_is_told_with_those_that_are(client: MlflowClient, two, chosen) -> None:
    client.set_registered_model_alias(NAME, "champion", "1")
    with pytest.raises(Refused, match="no alias 'champoin'; there is only: champion"):
        chosen(name=NAME, version="champoin")


def test_a_deleted_version_is_told(client: MlflowClient, two, chosen) -> None:
    client.delete_model_version(NAME, "1")
    with pytest.raises(Refused, match=r"no version 1 \(any more\); there are: 2 \(seed 42, study small\)$"):
        chosen(name=NAME, version="1")
    client.delete_model_version(NAME, "2")
    with pytest.raises(Refused, match="none: all were deleted"):
        chosen(name=NAME)


def test_a_full_fine_tune_is_no_adapter(client: MlflowClient, chosen) -> None:
    logged = client.create_logged_model(
        experiment_id(client, "small"), name="tiny--kind--en", model_type="full-fine-tune"
    )
    tags = {Tag.BASE_MODEL: "tiny", Tag.SOURCE_TASK: "kind", Tag.SOURCE_LANGUAGE: "en", Tag.MODEL_ID: logged.model_id}
    with recorded(client, experiment_id(client, "small"), kind=Kind.FINETUNE, name="x", tags=tags):
        pass
    for asked in ({"model": "tiny", "task": "kind", "language": "en"}, {"name": f"models:/{logged.model_id}"}):
        with pytest.raises(Refused, match=f"full fine-tune.*download -u models:/{logged.model_id}"):
            chosen(**asked)


def test_the_best_for_a_target_has_the_highest_delta_there(register, evaluate, chosen) -> None:
    pairs = [register(seed) for seed in (17, 42)]
    kind = register(17, source=Cell("kind", "tr"))
    evaluate(pairs[0], {"pair/tr": 9.0, "kind/tr": 1.0})
    evaluate(pairs[1], {"pair/tr": 8.0, "kind/tr": 3.0})
    evaluate(kind, {"pair/tr": 0.0, "kind/tr": -2.0})
    evaluate(kind, {"pair/tr": 0.0, "kind/tr": 2.5})  # the newest of an adapter's evaluations counts
    found = chosen(best_for="kind/tr", model="tiny")
    assert found.adapter == pairs[1]
    assert found.notes == (
        "delta on kind/tr: +3.00 pp (CT-ML, source pair/tr, seed 42), rank 1 of 3 evaluated adapters of this base",
        "chosen as the highest of 3 noisy measurements, so the true effect is likely smaller; mean over this source's "
        "2 evaluated adapters +2.00 pp",
    )
    assert chosen(best_for="pair/tr").adapter == pairs[0]


def test_a_tie_is_told(register, evaluate, chosen) -> None:
    first, second = register(17), register(42)
    for adapter in (second, first):
        evaluate(adapter, {"kind/tr": 3.0})
    found = chosen(best_for="kind/tr")
    assert found.adapter == first
    assert found.notes[2] == "1 of the others measured the same; the first by name is taken"


def test_a_better_adapter_that_was_deleted_is_passed_over_and_told(client, register, evaluate, chosen) -> None:
    first, second = register(17), register(42)
    evaluate(first, {"kind/tr": 3.0})
    evaluate(second, {"kind/tr": 1.0})
    client.delete_model_version(first.name, first.version)
    found = chosen(best_for="kind/tr")
    assert found.adapter == second
    assert "rank 2 of 2" in found.notes[0]
    assert found.notes[2] == "1 with a higher delta left out: deleted from the registry"


def test_a_query_that_nothing_was_measured_for_is_refused(register, evaluate, chosen) -> None:
    evaluate(register(), {"kind/tr": 3.0})
    with pytest.raises(Refused, match="no evaluated target 'kind/en'; there is only: kind/tr"):
        chosen(best_for="kind/en")
    with pytest.raises(Refused, match="no base with evaluated adapters 'tny'; there is only: tiny"):
        chosen(best_for="kind/tr", model="tny")
    evaluate(register(model="other"), {"kind/tr": 3.0})
    with pytest.raises(Refused, match=r"adapters of 2 bases .*add -P model=other or -P model=tiny$"):
        chosen(best_for="kind/tr")
    with pytest.raises(Refused, match="base other and tiny: there is no evaluated target 'kind/xx'"):
        chosen(best_for="kind/xx")


def test_the_shrunken_estimate_is_told_where_an_analysis_wrote_one(client, register, evaluate, chosen, tmp_path):
    evaluate(register(), {"kind/tr": 3.0})
    cells = pd.DataFrame(
        {
            "model": "tiny",
            "source_task": "pair",
            "source_language": "tr",
            "target_task": ["pair", "kind"],
            "target_language": "tr",
            "shrunken": [7.0, 1.25],
            "shrunken_sd": [1.0, 0.5],
        }
    )
    cells.to_parquet(tmp_path / "cells.parquet")
    with recorded(client, experiment_id(client, "small"), kind=Kind.ANALYZE, name="x", tags={}) as recording:
        recording.files(tmp_path)
    notes = chosen(best_for="kind/tr").notes
    assert notes[-1] == "shrunken estimate of this source's true effect on kind/tr: +1.25 pp (SD 0.50)"


# --- other people on the store


def test_evaluations_of_other_experiments_count_for_nothing(client, register, evaluate, chosen) -> None:
    first, second = register(17), register(42)
    evaluate(first, {"kind/tr": 3.0})
    evaluate(second, {"kind/tr": 1.0})
    told = {
        evaluate(second, {"kind/tr": 99.0}, study="theirs"): "in experiment 'theirs', its version is of study 'small'",
        evaluate(second, {"kind/tr": 98.0}, study="theirs", **{"protocol": "x"}): "in experiment 'theirs'",
    }
    found = chosen(best_for="kind/tr")
    assert found.adapter == first
    for run, words in told.items():
        assert any(run in note and words in note for note in found.notes)
    assert chosen(best_for="kind/tr", study="small").adapter == first
    assert chosen(best_for="kind/tr", study="theirs").adapter == second  # it was named


BROKEN: list[tuple[dict[str, str | None], str]] = [
    ({Tag.SOURCE_LANGUAGE: "en"}, "source_language 'en', its version's is 'tr'"),
    ({Tag.SOURCE_TASK: "kind"}, "source_task 'kind', its version's is 'pair'"),
    ({Tag.SEED: "1"}, "seed '1', its version's is '42'"),
    ({Tag.BASE_MODEL: "tin"}, "base_model 'tin', its version's is 'tiny'"),
    ({Tag.MODEL_ID: "m-0"}, "model_id 'm-0'"),
    ({Tag.SEED: None}, "no tag seed"),
    ({Tag.SOURCE_TASK: None, Tag.SOURCE_LANGUAGE: None}, "no tag source_task, source_language"),
    ({Tag.BASE_MODEL: None}, "no tag base_model"),
]


def test_runs_that_contradict_their_version_are_left_out_with_a_word(client, register, evaluate, chosen) -> None:
    first, second = register(17), register(42)
    evaluate(first, {"kind/tr": 3.0})
    for changed, words in BROKEN:
        run = evaluate(second, {"kind/tr": 99.0})
        for tag, value in changed.items():
            client.delete_tag(run, tag) if value is None else client.set_tag(run, tag, value)
        found = chosen(best_for="kind/tr")
        assert (words, found.adapter) == (words, first)
        assert any(run in note and words in note for note in found.notes), found.notes
        client.delete_run(run)


def test_runs_without_a_number_are_left_out_with_a_word(client, register, evaluate, chosen) -> None:
    first, second = register(17), register(42)
    evaluate(first, {"kind/tr": 3.0})
    for value in (float("nan"), float("inf")):
        run = evaluate(second, {"kind/tr": value})
        found = chosen(best_for="kind/tr")
        assert found.adapter == first
        assert any(run in note and "delta/CT-ML/kind/tr" in note for note in found.notes)
        client.delete_run(run)
    run = evaluate(second, {})
    client.log_metric(run, "score/mean", 0.99)  # another tool's
    assert any(f"{run}: no score" in note for note in chosen(best_for="kind/tr").notes)


def test_two_evaluations_of_one_fingerprint_that_differ_are_refused(client, register, evaluate, chosen) -> None:
    adapter = register()
    genuine = evaluate(adapter, {"kind/tr": 3.0}, fingerprint="f")
    evaluate(adapter, {"kind/tr": 3.0}, fingerprint="f")  # the same again
    assert chosen(best_for="kind/tr").notes[0].startswith("delta on kind/tr: +3.00 pp")
    twin = evaluate(adapter, {"kind/tr": 99.0}, fingerprint="f")
    with pytest.raises(Refused, match=f"evaluate runs {genuine} and {twin} share a fingerprint and differ"):
        chosen(best_for="kind/tr")


def test_of_versions_of_one_fingerprint_the_first_counts(client, register, chosen, make_adapter, monkeypatch) -> None:
    first, again = register(17), register(17)
    found = chosen(name=NAME)
    assert found.adapter == first
    assert found.notes == ("version 2 repeats version 1, which counts",)
    assert chosen(name=NAME, version="2").adapter == again
    third = register(17, rank=2)  # other weights
    with pytest.raises(Refused, match=r"versions 1 and 3 share a fingerprint and have different weights") as refused:
        chosen(name=NAME)
    assert str(client.get_model_version(NAME, "3").run_id) in str(refused.value)
    assert chosen(name=NAME, version="3").adapter == third
    for version in ("1", "2"):  # a training that was deleted, and repeated
        client.delete_run(client.get_model_version(NAME, version).run_id)
    assert chosen(name=NAME).adapter == third


def test_versions_of_other_tools_are_no_adapters(client, register, chosen) -> None:
    adapter = register()
    logged = client.get_model_version(NAME, "1").source
    client.create_model_version(NAME, source=logged)
    found = chosen(name=NAME)
    assert found.adapter == adapter
    assert found.notes == ("1 versions left out: they do not say what they are adapters of",)
    with pytest.raises(Refused, match=f"models:/{NAME}/2 is no adapter that this project recorded"):
        chosen(name=NAME, version="2")


def test_bases_whose_registered_names_are_the_same_are_told_apart(client, register, chosen) -> None:
    """As a store may hold them that was filled before such names were refused."""
    register(model="own/er")
    name = "own-er--pair--tr"
    asked = {"model": "own-er", "task": "pair", "language": "tr"}
    with pytest.raises(Refused, match=r"holds adapters of own/er on pair/tr, not of own-er on pair/tr"):
        chosen(**asked)
    tags = dict(client.get_model_version(name, "1").tags) | {Tag.BASE_MODEL: "own-er", Tag.FINGERPRINT: "other"}
    client.create_model_version(name, source=client.get_model_version(name, "1").source, tags=tags)
    assert chosen(**asked).adapter.version == "2"
    assert chosen(**asked | {"model": "own/er"}).adapter.version == "1"
    with pytest.raises(Refused, match="not of own-er"):
        chosen(**asked, version="1")
    with pytest.raises(Refused, match=r"own-er on pair/tr and own/er on pair/tr.*say which is meant"):
        chosen(name=name)
    assert chosen(name=name, version="2").adapter.version == "2"
