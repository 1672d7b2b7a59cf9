"""A study given by name or path: one function says which is meant, and what cannot be one is answered alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.config.files import load_study
from registry.config.names import recorded_name
from registry.errors import Refused
from registry.tracking.names import Kind
from registry.tracking.runs import recorded
from registry.tracking.store import experiment_id


def test_a_study_file_stands_for_the_name_it_gives(tmp_path: Path, study_file) -> None:
    named, nameless = tmp_path / "first-try.yaml", tmp_path / "mine.yml"
    named.write_text(study_file().read_text(encoding="utf-8"), encoding="utf-8")
    nameless.write_text("extends: demo\n", encoding="utf-8")
    varied = tmp_path / "varied.yaml"
    varied.write_text("extends: demo\nname: own\nvariants: {a: {}, b: {seeds: [5]}}\n", encoding="utf-8")
    wanted = {str(named): "small", str(nameless): "mine", "demo": "demo", "on-record": "on-record"}
    wanted |= {f"{varied}:b": "own-b", "paper-rank:r64": "paper-rank-r64", "paper-rank-r64": "paper-rank-r64"}
    assert {given: recorded_name(given) for given in wanted} == wanted
    for given in wanted.keys() - {"on-record"}:
        assert load_study(given).name == wanted[given]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("gone/my.yaml", "there is no study file 'gone/my.yaml' (looked from "),
        ("demo:a", "study 'demo' has no variants, so there is no 'a'"),
        ("paper-rank:r65", "paper-rank: there is no variant 'r65'; nearest: r64"),
        ("paper-rnk:r64", "there is no study 'paper-rnk'; nearest: paper-rank"),
        ("varied.yaml", "study 'varied.yaml' is a comparison; name one of its variants: varied.yaml:a, varied.yaml:b"),
        ("notes.yaml", "notes.yaml is no study: a study is a mapping"),
        ("twin", "study: 'twin' is the name of "),
    ],
)
def test_a_name_or_path_that_means_no_one_study_is_answered_alike(
    tmp_path: Path, monkeypatch, uri, given, told
) -> None:
    (tmp_path / "varied.yaml").write_text("extends: demo\nvariants: {a: {}, b: {seeds: [5]}}\n", encoding="utf-8")
    (tmp_path / "notes.yaml").write_text("milk: 2\n", encoding="utf-8")
    (tmp_path / "twin.yaml").write_text("extends: demo\n", encoding="utf-8")
    (tmp_path / "other.yml").write_text("extends: demo\nname: twin\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for function in (recorded_name, load_study):
        if (function, given) in ((load_study, "notes.yaml"), (recorded_name, "twin")):
            continue  # the one is told with its keys; the other is one name, whichever file it is in
        with pytest.raises(Refused) as caught:
            function(given)
        assert told in str(caught.value)


def test_a_study_from_the_store_runs_no_models_code(client, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text("extends: demo\nname: theirs\ntrust_remote_code: true\n", encoding="utf-8")
    with recorded(client, experiment_id(client, "theirs"), kind=Kind.STUDY, name="study", tags={}) as recording:
        recording.files(tmp_path)
    (tmp_path / "study.yaml").unlink()
    with pytest.raises(Refused, match=r"give the path of its file"):
        load_study("theirs")
