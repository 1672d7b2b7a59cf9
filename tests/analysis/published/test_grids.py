"""Every published analysis on any shape of grid: numbers or a reason, never a crash."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.published import PublishedOptions, publish
from analysis.published.linguistic import LanguageVectors
from analysis.report.published import parts
from tests.analysis.synthetic import synthetic_frame

SHAPES = {
    "n_models": st.integers(1, 4),
    "tasks": st.integers(1, 4),
    "languages": st.integers(1, 4),
    "seed": st.integers(0, 10_000),
    "missing": st.sampled_from([0.0, 0.3, 0.8]),
    "items": st.sampled_from([0, 2, 400]),
}
# Of two of four languages, so that some pairs have a distance and some have none.
VECTORS = LanguageVectors({"syntax": pd.DataFrame([[1.0, 0.0], [1.0, 1.0]], index=["ar", "de"])}, "two")
NAMES = {
    "uplift", "harm", "construction", "pareto", "on_off_task", "roles", "language_families", "donors_by_construction",
    "correlation", "matrices", "variance", "consistency", "consistency_by_source", "linguistic", "language_pairs",
    "ablation",
}  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(sizes=st.booleans(), **SHAPES)
def test_any_grid_is_analysed(sizes: bool, **shape: object) -> None:
    cells = synthetic_frame(**shape)
    if cells.empty:
        return
    if not sizes:
        cells = cells.assign(model_size_b=np.nan, model_family="")
    found = publish(cells, PublishedOptions(mixed_models=False, vectors=VECTORS, against={"itself": cells}))
    assert set(found.tables) == NAMES
    assert found.tables["uplift"].set_index("regime").loc["transfer", "n"] == (cells["regime"] != "MT-ML").sum()
    for name, part in (("variance", "Variance"), ("linguistic", "Linguistic")):
        assert len(found.tables[name]) or any(one.part.startswith(part) for one in found.left_out)
    assert found.tables["ablation"]["mean_difference"].tolist() == [0.0] * len(found.tables["ablation"])
    for part in parts(found):
        for table in part.tables:
            assert all(len(row) == len(table.headings) for row in table.rows)


@settings(max_examples=6, deadline=None)
@given(**SHAPES)
def test_any_grid_is_decomposed_or_left_out(**shape: object) -> None:
    cells = synthetic_frame(**shape)
    if cells.empty:
        return
    found = publish(cells, PublishedOptions(vectors=VECTORS))
    decomposed = set(found.tables["variance"]["cells"])
    left_out = " ".join(one.part for one in found.left_out)
    if "Variance decomposition" not in {one.part for one in found.left_out}:
        assert all(label in decomposed or label in left_out for label in ("transfer", "MT-ML", "MT-CL"))


@pytest.mark.parametrize("value", [0.0, -1.0, 2.5])
def test_a_delta_that_never_varies_is_no_error(value: float) -> None:
    cells = synthetic_frame(3, 2, 4).assign(delta=value)
    found = publish(cells, PublishedOptions(vectors=VECTORS))
    assert found.tables["variance"].empty
    assert found.tables["consistency"].empty
    assert found.tables["uplift"]["harm_pct"].tolist() == [100.0 * (value <= -1)] * 5
