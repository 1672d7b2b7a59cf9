"""A made-up table in the published study's columns: its grid, its three seeds, its 400 questions, no result of it."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

MODELS = {
    "Llama-3.2-1B-Instruct": 1.0,
    "Llama-3.2-3B-Instruct": 3.0,
    "Llama-3.1-8B-Instruct": 8.0,
    "Qwen2.5-0.5B-Instruct": 0.5,
    "Qwen2.5-1.5B-Instruct": 1.5,
    "Qwen2.5-3B-Instruct": 3.0,
    "Qwen2.5-7B-Instruct": 7.0,
    "gemma-3-1b-it": 1.0,
    "gemma-3-4b-it": 4.0,
}
TASKS = ("arc_challenge", "global_mmlu", "hellaswag", "truthfulqa")
LANGUAGES = ("ar", "bn", "de", "en", "es", "fr", "hi", "id", "it", "pt", "zh")
NORMED = ("arc_challenge", "hellaswag")
QUESTIONS, SEEDS = 400, 3


def published_table(
    models=tuple(MODELS), tasks=TASKS, languages=LANGUAGES, *, filled: bool = True, effects: bool = False
) -> pd.DataFrame:
    """Make the table.

    ``filled`` repeats acc in the columns of acc_norm where a task has none, else they are empty. ``effects`` gives
    sources and targets effects of their own, on all models and on each, as real adapters have them.
    """
    random = np.random.default_rng(2511)
    cells = list(itertools.product(tasks, languages))
    sources, targets = zip(*itertools.product(cells, cells), strict=True)
    shift = _effects(len(models), len(cells)) if effects else np.zeros((len(models), len(cells), len(cells)))
    parts = [_of_model(model, sources, targets, cells, random, own) for model, own in zip(models, shift, strict=True)]
    table = pd.concat(parts, ignore_index=True)
    if not filled:
        bare = ~table["eval_dataset"].isin(NORMED)
        # The headline's delta stays: it is that of acc.
        table.loc[bare, [column for column in table if column.startswith("score_norm_")]] = np.nan
    return table


def _effects(models: int, cells: int) -> np.ndarray:
    """Return questions gained, (models, sources, targets): standard deviations of 2 to 3 questions, 0.5 to 0.75 pp."""
    random = np.random.default_rng(13368)
    source, target = random.normal(0, 2, (cells, 1)), random.normal(0, 3, (1, cells))
    own_source, own_target = random.normal(0, 2, (models, cells, 1)), random.normal(0, 3, (models, 1, cells))
    return source + target + own_source + own_target + random.normal(0, 2, (cells, cells))


def _of_model(model, sources, targets, cells, random, shift) -> pd.DataFrame:
    number = len(sources)
    place = {cell: index for index, cell in enumerate(cells)}
    at = [place[target] for target in targets]
    normed = np.array([task in NORMED for task, _ in targets])
    matched = np.array([source[0] == target[0] for source, target in zip(sources, targets, strict=True)])
    table = pd.DataFrame(
        {
            "model_name": model,
            "model_size": MODELS[model],
            "fine_tuned_dataset": [task for task, _ in sources],
            "fine_tuned_language": [language for _, language in sources],
            "eval_dataset": [task for task, _ in targets],
            "eval_language": [language for _, language in targets],
            "regime": [regime(source, target) for source, target in zip(sources, targets, strict=True)],
        }
    )
    found = {}
    for name in ("", "norm_"):
        base = random.integers(80, 260, size=(1, len(cells))).repeat(SEEDS, axis=0)[:, at]
        change = np.rint(random.normal(1.0 + 3.0 * matched + shift.ravel(), 6.0, size=(SEEDS, number))).astype(int)
        found[name] = (base + change) / QUESTIONS, base / QUESTIONS
    found["norm_"] = tuple(np.where(normed, mine, plain) for mine, plain in zip(found["norm_"], found[""], strict=True))
    for name, (score, base) in found.items():
        # As anybody would: a delta per seed, with all its rounding of binary fractions, then the mean of the three.
        for column, values in ((f"score_{name}", score), (f"score_{name}base_", base)):
            table[f"{column}mean"], table[f"{column}std"] = values.mean(axis=0), values.std(axis=0, ddof=1)
        delta = 100 * (score - base)
        table[f"delta_score_{name}mean"] = delta.mean(axis=0)
        table[f"delta_score_{name}std"] = delta.std(axis=0, ddof=1)
    table["n_seeds"] = SEEDS
    for column in [column for column in table if column.endswith("_std")]:
        table[column.replace("_std", "_se")] = table[column] / SEEDS**0.5
    return table


def regime(source: tuple[str, str], target: tuple[str, str]) -> str:
    return f"{'MT' if source[0] == target[0] else 'CT'}-{'ML' if source[1] == target[1] else 'CL'}"
