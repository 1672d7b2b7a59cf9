"""What the rows of the published table must satisfy: names, ranges, regimes, deltas, cells, baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from registry.cells import Cell, regime_of
from registry.imports.findings import Findings
from registry.imports.naming import NAME_RULE, is_model, is_name

__all__ = ["ROUNDING_PP", "check_rows"]

#: Largest difference, in pp, between a delta and score minus baseline that rounding may explain: both scores to four
#: decimals, the delta to two. One question of 400 in one of three seeds is 0.083.
ROUNDING_PP = 0.015

#: Largest difference between two roundings of one baseline.
_SAME_BASELINE = 1e-9

_NAMES = ("fine_tuned_dataset", "fine_tuned_language", "eval_dataset", "eval_language")
_KEY = ("model_name", *_NAMES)
_ACCURACIES = ("score", "score_norm")


def check_rows(texts: Mapping[str, Sequence[str]], numbers: pd.DataFrame, findings: Findings) -> None:
    """Note everything that is wrong with the rows.

    Parameters
    ----------
    texts, numbers
        The table's columns, as they stand there and as numbers, NaN for what is missing.
    """
    _check_names(texts, findings)
    _check_ranges(numbers, findings)
    for accuracy in _ACCURACIES:
        _check_accuracy(accuracy, numbers, findings)
    _check_headline(numbers, findings)
    _check_regimes(texts, findings)
    _check_cells(texts, findings)
    _check_baselines(texts, numbers, findings)


def _check_names(texts: Mapping[str, Sequence[str]], findings: Findings) -> None:
    for column in _KEY:
        usable = is_model if column == "model_name" else is_name
        values = texts[column]
        wrong = {value for value in set(values) if not usable(value)}
        rule = f"{NAME_RULE}{', with or without a hub owner before a slash' if column == 'model_name' else ''}"
        findings.add(
            [value in wrong for value in values] if wrong else [],
            f"{column} is not usable; names are {rule}",
            lambda row, values=values: repr(values[row]),  # type: ignore[misc]
        )


def _check_ranges(numbers: pd.DataFrame, findings: Findings) -> None:
    """Proportions lie in [0, 1], deltas in [-100, 100] pp, deviations are not negative, seeds are counted from 1."""
    for column in numbers.columns:
        values = numbers[column]
        if column == "n_seeds":
            wrong, what = values.isna() | (values < 1) | (values % 1 != 0), "is no number of seeds: 1, 2, 3, …"
        elif column.endswith(("_std", "_se")):
            wrong, what = values < 0, "is negative, which no deviation is"
        elif column.startswith("delta"):
            wrong, what = values.abs() > 100, "is beyond ±100 percentage points"
        else:
            wrong, what = (values < 0) | (values > 1), "is no proportion in [0, 1]"
        findings.add(wrong, f"{column} {what}", values.tolist().__getitem__)


def _check_accuracy(accuracy: str, numbers: pd.DataFrame, findings: Findings) -> None:
    """Scores, baselines and deltas of one accuracy are there and agree; only acc_norm may be absent, as a whole."""
    score, base, delta = (numbers[f"{name}_mean"] for name in (accuracy, f"{accuracy}_base", f"delta_{accuracy}"))
    optional = accuracy == "score_norm"
    needed = score.notna() if optional else pd.Series(True, index=score.index)
    if not optional:
        findings.add(score.isna(), f"{accuracy}_mean is missing")
    findings.add(needed & base.isna(), f"the baseline is missing: {accuracy}_base_mean holds no number")
    findings.add(needed & delta.isna(), f"delta_{accuracy}_mean is missing")
    if optional:
        findings.add(base.notna() & score.isna(), f"{accuracy}_base_mean is there, {accuracy}_mean is not")
    expected = 100 * (score - base)
    wrong = (delta - expected).abs() > ROUNDING_PP
    unit = _unit_remedy(delta[wrong], (score - base)[wrong])
    findings.add(
        wrong,
        f"delta_{accuracy}_mean is not 100 × (score − baseline), in percentage points{unit}",
        lambda row: f"{delta[row]:.6g}, not {expected[row]:.6g}",
    )


def _unit_remedy(deltas: pd.Series, differences: pd.Series) -> str:
    proportions = len(deltas) > 0 and bool(((deltas - differences).abs() < ROUNDING_PP / 100).all())
    return "; these are proportions: multiply them by 100" if proportions else ""


def _check_headline(numbers: pd.DataFrame, findings: Findings) -> None:
    """Where a row has no acc_norm, its headline delta is that of acc."""
    bare = numbers["score_norm_mean"].isna()
    apart = (numbers["delta_score_norm_mean"] - numbers["delta_score_mean"]).abs() > ROUNDING_PP
    findings.add(
        bare & apart, "delta_score_norm_mean is neither that of a score_norm_mean, which is missing, nor of acc"
    )


def _check_regimes(texts: Mapping[str, Sequence[str]], findings: Findings) -> None:
    columns = (*(texts[column] for column in _NAMES), texts["regime"])
    rows = list(zip(*columns, strict=True))
    expected = {row: _regime(*row[:4]) for row in set(rows)}
    findings.add(
        [expected[row] not in (None, row[4]) for row in rows],
        "regime contradicts the pair of source and target",
        lambda row: f"{rows[row][4]!r}, but the pair is {expected[rows[row]]}",
    )


def _regime(task: str, language: str, other_task: str, other_language: str) -> str | None:
    """Return the regime of a pair; None where a name is not usable, which is noted elsewhere."""
    try:
        return str(regime_of(Cell(task, language), Cell(other_task, other_language)))
    except ValueError:
        return None


def _check_cells(texts: Mapping[str, Sequence[str]], findings: Findings) -> None:
    first: dict[tuple[str, ...], int] = {}
    keys = list(zip(*(texts[column] for column in _KEY), strict=True))
    twice = [first.setdefault(key, row) != row for row, key in enumerate(keys)]
    findings.add(twice, "the cell stands there before", lambda row: f"as in line {findings.line(first[keys[row]])}")


def _check_baselines(texts: Mapping[str, Sequence[str]], numbers: pd.DataFrame, findings: Findings) -> None:
    """A model has one baseline on a target, whatever its adapters were trained on."""
    target = pd.Series(list(zip(*(texts[column] for column in (_KEY[0], *_KEY[3:])), strict=True)))
    groups = pd.Series(pd.factorize(target)[0])
    for accuracy in _ACCURACIES:
        base = numbers[f"{accuracy}_base_mean"]
        first = base.groupby(groups).transform("first")
        wrong = (base - first).abs() > _SAME_BASELINE
        findings.add(
            wrong,
            f"{accuracy}_base_mean differs within one model and target: a delta needs one baseline",
            lambda row, base=base, first=first: f"{base[row]:.6g}, first {first[row]:.6g}",  # type: ignore[misc]
        )
        partly = (
            np.asarray(base.isna() & first.notna()) if accuracy == "score_norm" else np.zeros(len(base), dtype=bool)
        )
        findings.add(partly, f"{accuracy}_base_mean is missing here, and there in other rows of its model and target")
