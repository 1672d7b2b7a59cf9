"""Every published analysis of a table of cells, in the order of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.measures.levels import LeftOut
from analysis.measures.statistics import correlate
from analysis.measures.transfer import by_regime, language_matrix, long_form, task_matrix, uplift
from analysis.published.consistency import consistency, summarise
from analysis.published.harm import construction, harm, on_off_task, pareto
from analysis.published.linguistic import LanguageVectors, linguistic
from analysis.published.roles import donors_by_construction, donors_correlation, language_families, roles
from analysis.published.variance import COLUMNS, variance
from registry.tracking.columns import CELL_KEY

__all__ = ["ABLATION_COLUMNS", "Published", "PublishedOptions", "ablation", "matched_cells", "publish"]


@dataclass(frozen=True)
class PublishedOptions:
    """What decides which published analyses are made.

    Attributes
    ----------
    mixed_models
        Whether the variance decomposition is fitted: half a minute on the paper's grid.
    vectors
        Typological vectors of the user's; by default URIEL's, where they are installed.
    against
        Tables of cells to compare with, by name.
    name
        What the study is called beside them.
    """

    mixed_models: bool = True
    vectors: LanguageVectors | None = None
    against: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    name: str = "this study"


@dataclass(frozen=True)
class Published:
    """The published analyses.

    Attributes
    ----------
    tables
        By name, which is the stem of the file under ``published/``; a table that the grid does not allow is empty.
    task_matrix, language_matrix
        The two matrices as such; ``tables["matrices"]`` has both in long form.
    left_out
        What there is no number for, with reasons.
    """

    tables: dict[str, pd.DataFrame]
    task_matrix: pd.DataFrame
    language_matrix: pd.DataFrame
    left_out: tuple[LeftOut, ...]


def publish(cells: pd.DataFrame, options: PublishedOptions | None = None) -> Published:
    """Compute every published analysis that a grid allows.

    Parameters
    ----------
    cells
        One row per (model, source, target), as `analysis.reading.observations.cells` returns it.
    """
    options = options or PublishedOptions()
    by_construction, no_construction = construction(cells)
    donors = donors_by_construction(cells)
    correlation, no_correlation = donors_correlation(donors)
    decomposition, no_decomposition = variance(cells) if options.mixed_models else _no_mixed_models()
    agreement = consistency(cells)
    index, no_index = summarise(agreement)
    distances, pairs, no_distances = linguistic(cells, options.vectors)
    scores = roles(cells)
    matrices = {"task": task_matrix(cells), "language": language_matrix(cells)}
    comparison, no_comparison = _comparisons(cells, options)
    tables = {
        "uplift": uplift(cells),
        "harm": harm(cells),
        "construction": by_construction,
        "pareto": pareto(cells),
        "on_off_task": on_off_task(cells),
        "roles": scores,
        "language_families": language_families(scores),
        "donors_by_construction": donors,
        "correlation": correlation,
        "matrices": long_form(matrices),
        "variance": decomposition,
        "consistency": index,
        "consistency_by_source": agreement,
        "linguistic": distances,
        "language_pairs": pairs,
        "ablation": comparison,
    }
    left_out = (
        *no_construction, *no_correlation, *no_decomposition, *no_index, *no_distances, *no_comparison,
    )  # fmt: skip
    return Published(tables, matrices["task"], matrices["language"], left_out)


def _no_mixed_models() -> tuple[pd.DataFrame, list[LeftOut]]:
    reason = "the mixed models were switched off with mixed_models=false."
    return pd.DataFrame(columns=COLUMNS), [LeftOut("Variance decomposition", reason)]


def _comparisons(cells: pd.DataFrame, options: PublishedOptions) -> tuple[pd.DataFrame, list[LeftOut]]:
    """Compare with every other table of cells, one below the other."""
    found, left_out = [], []
    for other, table in options.against.items():
        rows = ablation(cells, table, names=(options.name, other))
        if rows.empty:
            reason = "the two have no cell (base model, source, target) in common."
            left_out.append(LeftOut(f"Comparison with {other}", reason))
        else:
            found.append(rows)
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=ABLATION_COLUMNS), left_out


# --- two variants of a study cell by cell, as in the published ablations of LoRA's rank and of full fine-tuning


ABLATION_COLUMNS = [
    "variant", "against", "regime", "n", "pearson", "pearson_p", "spearman", "sign_agreement_pct", "mean_difference",
]  # fmt: skip


def matched_cells(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Return the cells (model, source, target) that two tables of cells share.

    Returns
    -------
    DataFrame
        The key, ``regime``, ``delta`` of the one, ``delta_against`` of the other, ``difference`` (pp).
    """
    columns = [*CELL_KEY, "regime", "delta"]
    both = one[columns].merge(other[[*CELL_KEY, "delta"]], on=CELL_KEY, suffixes=("", "_against"))
    both = both.dropna(subset=["delta", "delta_against"])
    return both.assign(difference=both["delta"] - both["delta_against"])


def ablation(one: pd.DataFrame, other: pd.DataFrame, *, names: tuple[str, str]) -> pd.DataFrame:
    """Compare two tables of cells by regime, over the cells that both have.

    Parameters
    ----------
    names
        What the two are called.

    Returns
    -------
    DataFrame
        `ABLATION_COLUMNS`, one row per regime with shared cells, then ``transfer``: correlations of delta;
        ``sign_agreement_pct``, the share of cells in which both are positive, both negative or both zero;
        ``mean_difference``, the one's delta minus the other's (pp).
    """
    rows = []
    for regime, cells in by_regime(matched_cells(one, other)):
        if cells.empty:
            continue
        left, right = cells["delta"], cells["delta_against"]
        pearson, spearman = correlate(left, right, ranks=False), correlate(left, right, ranks=True)
        agreement = float((np.sign(left) == np.sign(right)).mean() * 100)
        rows.append(
            (*names, regime, len(cells), *pearson, spearman.value, agreement, float(cells["difference"].mean()))
        )
    return pd.DataFrame(rows, columns=ABLATION_COLUMNS)
