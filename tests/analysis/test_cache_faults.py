"""Killed at any write of what is kept, or out of disk: the study reads as without it, then and afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from analysis.reading.cache import cache_folder
from analysis.reading.frame import load
from analysis.reading.outcomes import stored_outcomes
from analysis.recommend.components import stored_noise
from registry.tracking.store import open_store
from tests.analysis.test_stored_outcomes import study
from tests.kill_at_write import Fault, kills, run_with_fault

if TYPE_CHECKING:
    from tests.analysis.conftest import Recorder

pytestmark = pytest.mark.slow


def read(uri: str, name: str, cache: Path | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read a study as an analysis does, with everything that is kept of it."""
    client = open_store(uri)
    frame = load(client, name, cache=cache)
    folder = None if cache is None else cache_folder(cache, uri, client.get_experiment_by_name(name).experiment_id)
    noise = stored_noise(stored_outcomes(client, frame, cache=cache), cache=folder)
    assert noise is not None
    return frame.observations, noise.table


def same(recorder: Recorder, cache: Path) -> None:
    uri = recorder.client.tracking_uri
    for found, expected in zip(read(uri, recorder.study, cache), read(uri, recorder.study, None), strict=True):
        pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_killed_at_every_write(recorder: Recorder, tmp_path: Path) -> None:
    study(recorder, tmp_path)
    cache, uri = tmp_path / "cache", recorder.client.tracking_uri
    struck = list(kills(read, uri, recorder.study, cache, under=cache, log=tmp_path / "log"))
    assert len(struck) > 5
    same(recorder, cache)
    same(recorder, cache)


def test_a_full_disk_at_every_write(recorder: Recorder, tmp_path: Path) -> None:
    study(recorder, tmp_path)
    cache, uri = tmp_path / "cache", recorder.client.tracking_uri
    for number in (1, 2, 3, 5, 8):
        fault = Fault("full", number, cache)
        ending = run_with_fault(read, uri, recorder.study, cache, fault=fault, log=tmp_path / "log")
        assert ending.code == 0, ending.printed
        assert "nothing is kept in" in ending.printed
    same(recorder, cache)
