"""Synthetic studies with planted effects, as tables of cells; the same seed gives the same table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.reading.observations import DELTA_DECIMALS

MODELS = (
    ("lab/llama-1b", "Llama-3", 1.0), ("lab/llama-3b", "Llama-3", 3.0), ("lab/llama-8b", "Llama-3", 8.0),
    ("lab/qwen-0.5b", "Qwen2.5", 0.5), ("lab/qwen-1.5b", "Qwen2.5", 1.5), ("lab/qwen-3b", "Qwen2.5", 3.0),
    ("lab/qwen-7b", "Qwen2.5", 7.0), ("lab/gemma-1b", "Gemma-3", 1.0), ("lab/gemma-4b", "Gemma-3", 4.0),
)  # fmt: skip
TASKS = ("arc_challenge", "global_mmlu", "hellaswag", "truthfulqa")
LANGUAGES = ("ar", "bn", "de", "en", "es", "fr", "hi", "id", "it", "pt", "zh")

#: Planted means per regime and standard deviations per component, in pp.
REGIME_MEANS = {"MT-ML": 2.0, "MT-CL": 1.2, "CT-ML": 0.8, "CT-CL": 0.8}
EFFECTS = {"model": 0.5, "source": 0.8, "target": 0.7, "model_source": 0.4, "model_target": 0.6, "residual": 1.2}


def synthetic_frame(
    n_models: int = 9,
    tasks: int = 4,
    languages: int = 11,
    seed: int = 0,
    *,
    missing: float = 0.0,
    effects: Mapping[str, float] = EFFECTS,
    regime_means: Mapping[str, float] = REGIME_MEANS,
    n_seeds: int = 3,
    items: int = 0,
) -> pd.DataFrame:
    """Return cells with planted effects, in the columns and order of `analysis.reading.observations.cells`.

    Parameters
    ----------
    missing
        Share of the cells that are not there.
    effects
        Standard deviations in pp of the components named in `EFFECTS`; what is not named is 0.
    items
        Deltas are multiples of 100 / (items × n_seeds) pp, as counts of answers are; 0 leaves them as drawn.
    """
    random = np.random.default_rng(seed)
    grid = [(task, language) for task in _names(TASKS, tasks) for language in _names(LANGUAGES, languages)]
    models = [MODELS[i] if i < len(MODELS) else (f"lab/more-{i}", f"More-{i % 4}", 1.0 + i) for i in range(n_models)]
    m, s, t = (part.ravel() for part in np.indices((len(models), len(grid), len(grid))))
    names = pd.DataFrame(grid, columns=["task", "language"])
    about = pd.DataFrame(models, columns=["model", "model_family", "model_size_b"]).iloc[m].reset_index(drop=True)
    source = names.iloc[s].reset_index(drop=True).add_prefix("source_")
    target = names.iloc[t].reset_index(drop=True).add_prefix("target_")
    table = pd.concat([about[["model"]], source, target, about[["model_family", "model_size_b"]]], axis=1)
    same_task, same_language = (
        (table[f"source_{part}"] == table[f"target_{part}"]).to_numpy() for part in ("task", "language")
    )
    regime = np.where(same_task, "MT-", "CT-").astype(object) + np.where(same_language, "ML", "CL").astype(object)
    delta = np.array([regime_means[name] for name in regime])
    shapes = {
        "model": (len(models), 1, 1), "source": (1, len(grid), 1), "target": (1, 1, len(grid)),
        "model_source": (len(models), len(grid), 1), "model_target": (len(models), 1, len(grid)),
        "source_target": (1, len(grid), len(grid)), "residual": (len(models), len(grid), len(grid)),
    }  # fmt: skip
    for name, shape in shapes.items():
        drawn = random.normal(0.0, 1.0, shape)  # drawn even where the effect is 0, so that the others stay the same
        delta = delta + effects.get(name, 0.0) * np.broadcast_to(drawn, (len(models), len(grid), len(grid))).ravel()
    if items:
        step = 100 / (items * n_seeds)
        delta = np.round(delta / step) * step
    baseline = random.uniform(0.25, 0.6, (len(models), 1, len(grid)))
    base = np.broadcast_to(baseline, (len(models), len(grid), len(grid))).ravel()
    score = base + delta / 100
    table.insert(5, "regime", regime.astype(str))
    table = table.assign(
        score=score, acc=score, acc_norm=score, baseline=base, delta=delta.round(DELTA_DECIMALS),
        delta_sd=np.abs(random.normal(0.9, 0.2, len(table))), n_seeds=n_seeds,
    )  # fmt: skip
    kept = table[random.random(len(table)) >= missing] if missing else table
    keys = ["model", "source_task", "source_language", "target_task", "target_language"]
    return kept.sort_values(keys, kind="stable").reset_index(drop=True)


def _names(known: tuple[str, ...], n: int) -> list[str]:
    """Return the first n names, made up beyond the known ones."""
    return [known[i] if i < len(known) else f"x{i:02d}" for i in range(n)]
