"""The small study with something to search, and a search that nothing disturbed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.config.files import load_study
from registry.config.study import Study
from registry.tuning.search import run_search
from registry.tuning.storage import Trials
from tests.tuning.trials import SPLIT, TUNE, trials_of


@pytest.fixture
def tuned_file(study_file) -> Path:
    return study_file((SPLIT, SPLIT + TUNE))


@pytest.fixture
def study(tuned_file) -> Study:
    return load_study(str(tuned_file))


@pytest.fixture(scope="module")
def undisturbed(study_file, new_store) -> Iterator[Trials]:
    """A search that was done in one go; nothing may write to it."""
    uri, study = new_store(), load_study(str(study_file((SPLIT, SPLIT + TUNE))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        trials = trials_of(study, uri)
        run_search(trials, str(Path(uri.removeprefix("sqlite:///")).parent / "tuned"))
        yield trials
