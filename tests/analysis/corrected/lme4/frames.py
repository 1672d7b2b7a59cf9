"""Seeded frames on which the decomposition is compared with lme4."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from registry.cells import Grid, regime_of

#: Variances in pp² of model, source, target, model:source, model:target, source:target, residual.
SIZEABLE = (1.0, 0.5, 0.8, 0.3, 0.9, 0.4, 1.5)
#: Some of them nothing, so that estimates without a constraint would be negative.
NEAR_ZERO = (0.0, 0.0, 0.8, 0.0, 0.02, 0.4, 1.5)

_FACTORS = ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))


@dataclass(frozen=True)
class Planted:
    """How a frame was made."""

    models: int
    tasks: int
    languages: int
    variances: tuple[float, ...]
    missing: float = 0.0
    regime: str = ""
    seed: int = 1


FRAMES = {
    "small-complete": Planted(3, 2, 3, SIZEABLE),
    "small-missing": Planted(3, 2, 3, SIZEABLE, missing=0.1, seed=2),
    "small-near-zero": Planted(3, 2, 3, NEAR_ZERO, seed=3),
    "small-near-zero-missing": Planted(4, 2, 3, NEAR_ZERO, missing=0.1, seed=4),
    "medium-complete": Planted(5, 3, 4, SIZEABLE, seed=5),
    "medium-missing": Planted(5, 3, 4, SIZEABLE, missing=0.1, seed=6),
    "medium-near-zero-missing": Planted(5, 3, 4, NEAR_ZERO, missing=0.1, seed=7),
    "medium-MT-CL": Planted(5, 3, 4, SIZEABLE, regime="MT-CL", seed=8),
    "medium-CT-CL-missing": Planted(5, 3, 4, SIZEABLE, missing=0.1, regime="CT-CL", seed=9),
}


def draw(random: np.random.Generator, shape: tuple[int, int, int], variances: tuple[float, ...]) -> np.ndarray:
    """Draw deltas, (models, sources, targets), with mean 1 pp."""
    cube = np.ones(shape)
    for variance, axes in zip(variances, _FACTORS, strict=True):
        size = [length if axis in axes else 1 for axis, length in enumerate(shape)]
        cube = cube + np.sqrt(variance) * random.normal(size=size)
    return cube


def as_cells(cube: np.ndarray, grid: Grid) -> pd.DataFrame:
    """Lay a cube out as a frame of cells."""
    rows = [
        (f"lab/{model}", source.task, source.language, target.task, target.language, str(regime_of(source, target)))
        for model in range(len(cube))
        for source in grid
        for target in grid
    ]
    columns = ["model", "source_task", "source_language", "target_task", "target_language", "regime"]
    return pd.DataFrame(rows, columns=columns).assign(delta=cube.ravel().round(9))


def frame(planted: Planted) -> pd.DataFrame:
    """Draw a frame."""
    random = np.random.default_rng(planted.seed)
    grid = Grid(tuple(f"task{i}" for i in range(planted.tasks)), tuple(f"l{i}" for i in range(planted.languages)))
    cells = as_cells(draw(random, (planted.models, len(grid), len(grid)), planted.variances), grid)
    cells = cells[random.random(len(cells)) >= planted.missing]
    return cells[cells["regime"] == planted.regime] if planted.regime else cells
