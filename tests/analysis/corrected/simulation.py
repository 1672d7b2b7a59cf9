"""Studies with planted effects: what every adapter answers, question by question, and what is true of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.measures.answers import RunKey, StudyOutcomes, TargetOutcomes
from registry.cells import Grid, regime_of
from registry.tracking.columns import CELL_KEY

#: Variances in pp² as in a study with sizeable effects of everything.
EFFECTS = {
    "model": 0.5,
    "source": 0.3,
    "target": 0.5,
    "model:source": 0.3,
    "model:target": 0.6,
    "source:target": 0.4,
    "residual": 0.5,
}
NONE = dict.fromkeys(EFFECTS, 0.0)


@dataclass(frozen=True)
class Simulated:
    """Cells sorted by their key with their ``truth`` in pp, and the outcomes if they were drawn."""

    cells: pd.DataFrame
    outcomes: StudyOutcomes


def planted_cells(
    random: np.random.Generator,
    effects: Mapping[str, float],
    *,
    models: int,
    grid: Grid,
    mean: float = 0.5,
    by_regime: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Draw the true effect of every cell."""
    names = [f"lab/{number}" for number in range(models)]
    rows = [
        (model, source.task, source.language, target.task, target.language, str(regime_of(source, target)))
        for model in names
        for source in grid
        for target in grid
    ]
    cells = pd.DataFrame(rows, columns=[*CELL_KEY, "regime"])
    shape = {"model": models, "source": len(grid), "target": len(grid)}
    truth = np.full(tuple(shape.values()), mean)
    for name, variance in effects.items():
        parts = list(shape) if name == "residual" else name.split(":")
        truth = truth + random.normal(
            0, np.sqrt(variance), [size if factor in parts else 1 for factor, size in shape.items()]
        )
    cells["truth"] = truth.ravel() + cells["regime"].map(by_regime or {}).fillna(0.0).to_numpy(dtype=float)
    return cells.sort_values(CELL_KEY).reset_index(drop=True)


def simulate(
    seed: int,
    effects: Mapping[str, float] = EFFECTS,
    *,
    models: int = 3,
    tasks: int = 3,
    languages: int = 4,
    questions: int = 400,
    seeds: int = 3,
    mean: float = 0.5,
    own: float = 0.01,
    own_seed: float = 0.005,
    seed_sd: float = 0.0,
) -> Simulated:
    """Draw a study: true effects, then what runs answer.

    A run answers a question correctly if its latent ability on it is below the quantile of the run's true score. The
    latent ability is the model's, but for the shares ``own`` of the run's source and ``own_seed`` of the run alone;
    with 400 questions and 3 seeds the defaults make a noise of about 1 pp. ``seed_sd`` (pp) is how much the true
    effects of seeds differ.
    """
    random = np.random.default_rng(seed)
    grid = Grid(tuple(f"t{number}" for number in range(tasks)), tuple(f"l{number}" for number in range(languages)))
    cells = planted_cells(random, effects, models=models, grid=grid, mean=mean)
    index = pd.Index([str(number) for number in range(questions)])
    truth = cells.set_index(["model", "target_task", "target_language", "source_task", "source_language"])["truth"]
    blocks = []
    for model in cells["model"].unique():
        for target in grid:
            base = random.uniform(0.3, 0.7)
            shared = random.normal(size=questions)
            baseline = _latent(random, shared, (1, 1, questions), own, own_seed)[0, 0] < stats.norm.ppf(base)
            latent = _latent(random, shared, (len(grid), seeds, questions), own, own_seed)
            delta = np.array([truth[model, target.task, target.language, s.task, s.language] for s in grid])
            score = base + (delta[:, None] + random.normal(0, seed_sd, (len(grid), seeds))) / 100
            correct = latent < stats.norm.ppf(score)[:, :, None]
            adapters = {
                RunKey(model, source, number): correct[place, number]
                for place, source in enumerate(grid)
                for number in range(seeds)
            }
            blocks.append(TargetOutcomes(model, target, index, adapters, {None: baseline}))
    return Simulated(cells, StudyOutcomes(tuple(blocks)))


def _latent(
    random: np.random.Generator, shared: np.ndarray, shape: tuple[int, int, int], own: float, own_seed: float
) -> np.ndarray:
    of_source = random.normal(size=(shape[0], 1, shape[2]))
    return (
        np.sqrt(1 - own - own_seed) * shared + np.sqrt(own) * of_source + np.sqrt(own_seed) * random.normal(size=shape)
    )


def moments(cells: pd.DataFrame, v: float, c: float) -> dict[str, float]:
    """Components of a complete frame by equating mean squares with their expectations, the noise taken off each."""
    sizes = (
        cells["model"].nunique(),
        *[len(cells[[f"{end}_task", f"{end}_language"]].drop_duplicates()) for end in ("source", "target")],
    )
    cube = cells.sort_values(CELL_KEY)["delta"].to_numpy().reshape(sizes)
    means = {axes: cube.mean(axis=axes, keepdims=True) for axes in [(1, 2), (0, 2), (0, 1), (2,), (1,), (0,)]}
    m, s, t, ms, mt, st = means.values()
    all_ = cube.mean()
    a, b, d = sizes
    square = {
        "model": b * d * ((m - all_) ** 2).sum() / (a - 1),
        "source": a * d * ((s - all_) ** 2).sum() / (b - 1),
        "target": a * b * ((t - all_) ** 2).sum() / (d - 1),
        "model:source": d * ((ms - m - s + all_) ** 2).sum() / ((a - 1) * (b - 1)),
        "model:target": b * ((mt - m - t + all_) ** 2).sum() / ((a - 1) * (d - 1)),
        "source:target": a * ((st - s - t + all_) ** 2).sum() / ((b - 1) * (d - 1)),
        "residual": ((cube - ms - mt - st + m + s + t - all_) ** 2).sum() / ((a - 1) * (b - 1) * (d - 1)),
    }
    for name in square:
        square[name] -= v + (b - 1) * c if name in ("model", "target", "model:target") else v - c
    rest = square["residual"]
    found = {
        "model:source": (square["model:source"] - rest) / d,
        "model:target": (square["model:target"] - rest) / b,
        "source:target": (square["source:target"] - rest) / a,
        "residual": rest,
    }
    found["model"] = (square["model"] - square["model:source"] - square["model:target"] + rest) / (b * d)
    found["source"] = (square["source"] - square["model:source"] - square["source:target"] + rest) / (a * d)
    found["target"] = (square["target"] - square["model:target"] - square["source:target"] + rest) / (a * b)
    return {name: float(value) for name, value in found.items()}
