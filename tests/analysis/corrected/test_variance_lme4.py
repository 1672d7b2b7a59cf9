"""The seven components against R's lme4: committed fits always, lme4 itself where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.corrected.variance.model import decompose
from analysis.corrected.variance.terms import crossing, identify
from tests.analysis.corrected.lme4.fit import FITS, INSTALL, fit, has_lme4
from tests.analysis.corrected.lme4.frames import FRAMES, frame

_FITS: dict[str, Any] = json.loads(FITS.read_text(encoding="utf-8"))


def _compare(name: str, theirs: dict[str, Any]) -> None:
    rows = crossing(frame(FRAMES[name]))
    ours = decompose(rows, identify(rows), constrained=True)
    assert ours.notes == ()
    assert ours.criterion == pytest.approx(theirs["criterion"], abs=1e-3)
    components = dict(zip(ours.names, ours.variances, strict=True))
    assert components == {key: pytest.approx(v, rel=5e-4, abs=1e-4) for key, v in theirs["components"].items()}
    assert (ours.mean, ours.mean_se) == pytest.approx((theirs["mean"], theirs["mean_se"]), rel=5e-4)


@pytest.mark.parametrize("name", FRAMES)
def test_fit_is_lme4s(name: str) -> None:
    _compare(name, _FITS[name])


def test_closed_form_is_lme4s() -> None:
    rows = crossing(frame(FRAMES["medium-complete"]))
    ours, theirs = decompose(rows, identify(rows)), _FITS["medium-complete"]
    assert ours.criterion == pytest.approx(theirs["criterion"], abs=1e-3)
    expected = [theirs["components"][name] for name in ours.names]
    np.testing.assert_allclose(ours.variances, expected, rtol=5e-4)
    assert ours.mean_se == pytest.approx(theirs["mean_se"], rel=5e-4)


def test_some_frames_have_components_at_zero() -> None:
    """Else the comparison would not reach the boundary."""
    at_zero = [name for name in FRAMES if min(_FITS[name]["components"].values()) < 1e-6]
    assert len(at_zero) >= 2


def test_lme4_itself(tmp_path: Path) -> None:
    if not has_lme4():
        pytest.skip(INSTALL)
    for name, theirs in fit(tmp_path).items():
        if name != "versions":
            _compare(name, theirs)
