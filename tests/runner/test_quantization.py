"""Quantisation decides results, so a quantised study shares no run with another; where a base lies decides none."""

from __future__ import annotations

import pytest

from registry.errors import Refused
from registry.planning.experiment import Experiment, prepare


def fingerprints(experiment: Experiment) -> set[str]:
    return {name for job in experiment.jobs() for name in (job.finetune, job.evaluate) if name is not None}


def test_every_quantisation_has_runs_of_its_own(small_study, monkeypatch) -> None:
    monkeypatch.setattr("registry.models.loading.find_spec", lambda name: object())  # fingerprints load nothing
    found = [
        fingerprints(prepare(small_study(("seeds:", f"quantization: {bits}\nseeds:"))))
        for bits in ("null", "8bit", "4bit")
    ]
    assert len(set.union(*found)) == sum(map(len, found))
    assert fingerprints(prepare(small_study())) == found[0]


def test_where_a_base_lies_makes_no_other_runs(small_study) -> None:
    spread = prepare(small_study(("seeds:", "placement: spread\nseeds:")))
    assert fingerprints(spread) == fingerprints(prepare(small_study()))


def test_a_missing_library_is_told_before_any_base_is_looked_for(small_study, monkeypatch) -> None:
    monkeypatch.setattr("registry.models.loading.find_spec", lambda name: None)
    monkeypatch.setattr("registry.planning.experiment.resolve_bases", lambda *_, **__: pytest.fail("looked for"))
    with pytest.raises(Refused, match="python -m pip install bitsandbytes=="):
        prepare(small_study(("seeds:", "quantization: 8bit\nseeds:")))
