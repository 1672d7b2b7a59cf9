"""What a search is made of: its sources, its settings, and the name that both decide."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry.config.files import spec_of
from registry.config.study import Study
from registry.config.tuning import TuneSpec
from registry.errors import Refused
from registry.tuning.preparation import prepare_search


def test_by_default_each_task_is_searched_in_one_language(study) -> None:
    def cells(**given: str) -> list[str]:
        return [str(cell) for cell in prepare_search(study, spec_of(study), **given).experiment.sources]

    assert cells() == ["kind/en", "pair/en"]
    assert cells(language="tr") == ["kind/tr", "pair/tr"]
    assert cells(task="pair") == ["pair/en"]
    with pytest.raises(Refused, match="no task 'pai'; nearest: pair"):
        cells(task="pai")


def test_transfer_needs_another_language(study) -> None:
    with pytest.raises(Refused, match="has only en; name more languages"):
        prepare_search(replace(study, languages=("en",)), spec_of(study, objective="transfer"))


def test_what_decides_the_value_decides_the_name(study) -> None:
    def named(study: Study = study, **given: object) -> str:
        return prepare_search(study, spec_of(study, **given)).name

    assert named() == named(trials=99, timeout=5.0)
    others = {
        named(objective="transfer"),
        named(objective="transfer", harm_weight=2.0),
        named(replace(study, seeds=(3,))),
        named(validation=0.5),
    }
    assert len(others | {named()}) == 5


def test_what_is_given_takes_the_place_of_the_file(study) -> None:
    assert spec_of(study, trials=9, objective=None).trials == 9
    assert spec_of(replace(study, tune=None)) == TuneSpec()
    with pytest.raises(Refused, match="no objective 'transfr'; nearest: transfer"):
        spec_of(study, objective="transfr")
    with pytest.raises(Refused, match=r"^tune.harm_weight: input should be .* equal to 0 \(got -1.0\)$"):
        spec_of(study, harm_weight=-1.0)
