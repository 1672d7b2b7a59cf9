"""How often transfer is positive and how often it harms: as observed, by chance alone, and corrected for noise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse, stats
from tqdm import tqdm

from analysis.corrected.effects import Posterior
from analysis.measures.levels import TAILS
from analysis.reading.observations import cell_names
from registry.cells import HARM_PP, Regime

__all__ = ["no_transfer", "no_transfer_normal", "rates"]

Array = NDArray[np.float64]

POSITIVE, HARM = "positive", "harm"

#: Rows over all transfer cells.
OVERALL = "overall"

_CELLS_AT_ONCE = 2_000
_DRAWS_AT_ONCE = 100


def no_transfer(counts: NDArray[np.int64], answers: NDArray[np.int64]) -> tuple[Array, Array]:
    """Probability that chance alone makes a cell's delta positive, and that it makes it harm.

    Parameters
    ----------
    counts : (cells, seeds)
        Questions whose outcome changed, for better or worse, in 1, 2, … seeds net.
    answers : (cells,)
        Questions × seeds: deltas are multiples of 100 / answers pp.

    Returns
    -------
    positive, harm : (cells,)

    Notes
    -----
    Without transfer every question that changed might as well have changed the other way. The sum of the changes under
    all such reversals has the characteristic function ∏ cos(jθ)^count_j, whose inverse transform is its exact
    distribution. A normal one without correction for the steps would be off twice: a delta of exactly 0 is not
    positive, and −1 pp is one of the values that a delta takes.
    """
    positive, harm = np.empty(len(counts)), np.empty(len(counts))
    steps = np.arange(1, counts.shape[1] + 1)
    most = counts @ steps
    least_harm = _least_harm(answers)
    # In the order of what they can reach at most, so that few changes are not transformed at the length of many.
    order = np.argsort(most, kind="stable")
    for start in range(0, len(order), _CELLS_AT_ONCE):
        part = order[start : start + _CELLS_AT_ONCE]
        above = _tails(counts[part], steps, int(most[part].max()))
        positive[part] = above[:, 1]
        reach = np.minimum(least_harm[part], above.shape[1] - 1)
        harm[part] = above[np.arange(len(part)), reach]
    return positive, harm


def _tails(counts: NDArray[np.int64], steps: NDArray[np.int64], most: int) -> Array:
    """Return P(sum of reversed changes >= k) for k = 0 … most + 1, (cells, most + 2)."""
    length = 1 << (2 * most + 2).bit_length()
    angle = 2 * np.pi * np.arange(length // 2 + 1) / length
    transform = np.ones((len(counts), len(angle)))
    for step, changed in zip(steps, counts.T, strict=True):
        transform *= np.cos(step * angle) ** changed[:, None]
    # The distribution is even, so its transform is real. Rounding leaves ±1e-17 where there is no probability.
    mass = np.maximum(np.fft.irfft(transform, n=length, axis=1)[:, : most + 2], 0.0)
    tails: Array = np.minimum(np.cumsum(mass[:, ::-1], axis=1)[:, ::-1], 1.0)
    return tails


def _least_harm(answers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the fewest answers lost that make a delta at or below the limit of harm."""
    # The subtraction keeps 400 × 1 / 100 from becoming 5 through rounding.
    return np.ceil(-HARM_PP * answers / 100 - 1e-9).astype(np.int64)


def no_transfer_normal(se: Array, answers: NDArray[np.int64]) -> tuple[Array, Array]:
    """Approximate :func:`no_transfer` from standard errors (pp), where no question's outcome is known.

    Half a step is taken off each limit, as deltas are multiples of 100 / answers pp: a positive one is at least a step.
    """
    step = 100 / answers
    limits = step / 2, (_least_harm(answers) - 0.5) * step
    positive, harm = (_sf(limit, se) for limit in limits)
    return positive, harm


def rates(cells: pd.DataFrame, posterior: Posterior, *, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Count positive transfer and harm over all transfer cells, per regime and per source.

    Parameters
    ----------
    cells
        Cells with their chances, as :func:`analysis.corrected.cells.measured_cells` gives them.
    posterior
        What :func:`analysis.corrected.effects.shrink` made of these very rows.
    draws, seed
        Joint draws of all cells' true effects for the intervals, and the seed of their generator.

    Returns
    -------
    DataFrame
        ``group`` (overall, regime, source), ``name``, ``rate`` (positive: above 0; harm: at or below −1 pp), ``n``
        cells; in percent ``raw`` (observed), ``by_chance`` (expected without any transfer), ``posterior`` (mean
        probability that the true effect is in the range) with its 95% interval ``low``, ``high``; ``noise``.
        A source's cells are its transfer cells; a regime without cells has n 0 and NaN.

    Notes
    -----
    Cells that share a baseline or an effect err together, so the draws are of all cells jointly. They take the variance
    components and the noise as known.
    """
    groups = _groups(cells)
    labels, members = [label for label, _ in groups], [mask for _, mask in groups]
    averages = _averages(members)
    delta, noise = cells["delta"].to_numpy(dtype=np.float64), " ".join(cells["noise"].unique())
    tables = []
    lows_and_highs = _intervals(posterior, averages, draws, seed)
    for rate, (low, high) in zip((POSITIVE, HARM), lows_and_highs, strict=True):
        columns = {
            "raw": _within(rate, delta).astype(np.float64),
            "by_chance": cells[f"{rate}_by_chance"].to_numpy(dtype=np.float64),
            "posterior": _probability(rate, posterior),
        }
        table = pd.DataFrame(labels, columns=["group", "name"]).assign(rate=rate, n=[int(m.sum()) for m in members])
        means = {name: 100 * (averages @ values) for name, values in columns.items()}
        table = table.assign(**means, low=100 * low, high=100 * high, noise=noise)
        measured = [*means, "low", "high"]
        table[measured] = table[measured].where(table["n"] > 0)
        tables.append(table)
    # Both rates of a group stand together.
    return pd.concat(tables).sort_index(kind="stable").reset_index(drop=True)


def _groups(cells: pd.DataFrame) -> list[tuple[tuple[str, str], NDArray[np.bool_]]]:
    """Return labels and members of all groups."""
    regime = cells["regime"].astype(str).to_numpy(dtype=object)
    transfer = regime != str(Regime.MT_ML)
    source = cell_names(cells, "source").to_numpy(dtype=object)
    return [
        ((OVERALL, "transfer"), transfer),
        *((("regime", str(known)), regime == str(known)) for known in Regime),
        *((("source", str(name)), transfer & (source == name)) for name in sorted(set(source))),
    ]


def _averages(members: list[NDArray[np.bool_]]) -> sparse.csr_array:
    """Return the matrix that averages cells over groups, (groups, cells); an empty group's row is 0."""
    stacked = np.stack(members).astype(np.float64)
    return sparse.csr_array(stacked / np.maximum(stacked.sum(axis=1, keepdims=True), 1))


def _within(rate: str, effect: Array) -> NDArray[np.bool_]:
    """Return which effects count as positive, or as harm."""
    return effect > 0 if rate == POSITIVE else effect <= HARM_PP


def _probability(rate: str, posterior: Posterior) -> Array:
    """Return the posterior probability of every cell that its true effect counts."""
    distance = -posterior.mean if rate == POSITIVE else posterior.mean - HARM_PP
    # Without any noise the effect is known, and a harm of exactly the limit counts.
    certain = _within(rate, posterior.mean).astype(np.float64)
    return np.where(posterior.sd > 0, _sf(distance, posterior.sd), certain)


def _sf(distance: Array, sd: Array) -> Array:
    """Return the probability that a normal variable around 0 exceeds a distance; for an sd of 0, whether it does."""
    standard = np.divide(distance, sd, out=np.where(distance < 0, -np.inf, np.inf), where=sd > 0)
    return np.asarray(stats.norm.sf(standard), dtype=np.float64)


def _intervals(
    posterior: Posterior, averages: sparse.csr_array, draws: int, seed: int
) -> Iterator[tuple[Array, Array]]:
    """Return the limits of the groups' positive rates, then of their harm rates, as proportions."""
    random = np.random.default_rng(seed)
    drawn: dict[str, list[Array]] = {POSITIVE: [], HARM: []}
    parts = range(0, draws, _DRAWS_AT_ONCE)
    for start in tqdm(parts, desc="rates", unit=f"{_DRAWS_AT_ONCE} draws", delay=2, leave=False, disable=None):
        effects = posterior.draws(min(_DRAWS_AT_ONCE, draws - start), random)
        for rate, found in drawn.items():
            found.append(averages @ _within(rate, effects).astype(np.float64))
    for found in drawn.values():
        low, high = np.quantile(np.hstack(found), TAILS, axis=1)
        yield low, high
