"""The terms of the decomposition, and which of them a set of cells identifies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.reading.observations import cell_names
from registry.errors import Refused

__all__ = ["CELL", "RESIDUAL", "TERMS", "Codes", "Crossing", "IdentifiedTerms", "Term", "crossing", "identify"]

RESIDUAL = "residual"

#: The trained cell itself, where source and target are one and the same factor (MT-ML).
CELL = "cell"

#: Random terms and the factors that they cross; the residual crosses all three.
TERMS: dict[str, tuple[str, ...]] = {
    "model": ("model",),
    "source": ("source",),
    "target": ("target",),
    "model:source": ("model", "source"),
    "model:target": ("model", "target"),
    "source:target": ("source", "target"),
}

_DIAGONAL_TERMS: dict[str, tuple[str, ...]] = {"model": ("model",), CELL: ("source",)}

# Relative size below which a term adds nothing to the others: far above rounding, far below any real design.
_DEPENDENT = 1e-9

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Crossing:
    """Deltas in pp, one per row, and the level of each factor (model, source, target) in every row."""

    delta: NDArray[np.float64]
    factors: dict[str, Codes]
    diagonal: bool

    def __len__(self) -> int:
        return len(self.delta)


@dataclass(frozen=True)
class Term:
    """A random term: its name, the factors crossed in it, and its level in every row, counted from 0."""

    name: str
    factors: frozenset[str]
    codes: Codes
    levels: int


@dataclass(frozen=True)
class IdentifiedTerms:
    """What a design identifies.

    Attributes
    ----------
    terms
        The terms that get a variance of their own, besides the residual.
    lost
        The other terms' names, with the reason.
    within
        For each lost term, the name of the term that holds its variance; None where nothing does.
    """

    terms: tuple[Term, ...]
    lost: dict[str, str]
    within: dict[str, str | None]

    def holder(self, name: str) -> str | None:
        """Return the term that holds the variance of ``name``: itself, unless it was lost."""
        return self.within.get(name, name)

    def also_holds(self, name: str) -> tuple[str, ...]:
        """Return the lost terms whose variance is part of that of ``name``."""
        return tuple(lost for lost, holder in self.within.items() if holder == name)


def crossing(cells: pd.DataFrame) -> Crossing:
    """Read a frame of cells, one row per (model, source, target), as `analysis.reading.observations.cells` gives it.

    Raises
    ------
    Refused
        If a delta is not a number, or a (model, source, target) has several rows.
    """
    delta = cells["delta"].to_numpy(dtype=np.float64)
    names = {"model": cells["model"].astype(str)}
    for end in ("source", "target"):
        names[end] = cell_names(cells, end)
    if bad := int((~np.isfinite(delta)).sum()):
        raise Refused(f"{bad} of {len(delta)} cells have no finite delta; leave these rows out")
    if twice := int(pd.DataFrame(names).duplicated().sum()):
        raise Refused(f"{twice} cells have more than one row per (model, source, target); average over seeds first")
    factors = {name: _numbered(values) for name, values in names.items()}
    return Crossing(delta, factors, diagonal=bool((names["source"] == names["target"]).all()))


def identify(rows: Crossing) -> IdentifiedTerms:
    """Find the terms whose variances the rows identify.

    A term is lost if it has one level, if each of its levels has one row (then it is part of the residual), if it
    groups the rows as another term does, or if its covariance is a combination of other terms'.
    """
    kept: list[Term] = []
    lost: dict[str, str] = {}
    within: dict[str, str | None] = {}
    for name, factors in (_DIAGONAL_TERMS if rows.diagonal else TERMS).items():
        term = _term(rows, name, factors)
        reason, holder = _confounded(term, kept, len(rows))
        if reason:
            lost[name], within[name] = f"not identified: {reason}", holder
        else:
            kept.append(term)
    if rows.diagonal:
        lost |= {name: f"not identified: {reason}" for name, reason in _diagonal_reasons().items()}
        within |= {"model:source": RESIDUAL, "model:target": RESIDUAL}
    if len(rows) and not _is_complete(rows, kept):
        _drop_dependent(rows, kept, lost, within)
    return IdentifiedTerms(tuple(kept), lost, within)


def _diagonal_reasons() -> dict[str, str]:
    """Return why terms are lost where source and target are one factor."""
    same = "source and target are the same cell"
    part = f"{same}, so this is part of the residual"
    return {"source": same, "target": same, "model:source": part, "model:target": part, "source:target": same}


def _term(rows: Crossing, name: str, factors: tuple[str, ...]) -> Term:
    codes = np.zeros(len(rows), dtype=np.int64)
    for factor in factors:
        codes = _joint(codes, rows.factors[factor])
    return Term(name, frozenset(factors), codes, int(codes.max(initial=-1)) + 1)


def _confounded(term: Term, kept: list[Term], n: int) -> tuple[str, str | None]:
    """Return why a term has no variance of its own, and which term holds it; an empty reason if it has one."""
    if term.levels <= 1:
        return f"only one {term.name}" if n else "no cells", None
    if term.levels == n:
        return "one row per level, so it is part of the residual", RESIDUAL
    for other in kept:
        if other.levels == term.levels == _levels(_joint(term.codes, other.codes)):
            return f"it groups these cells as {other.name} does, which holds its variance", other.name
    return "", None


def _is_complete(rows: Crossing, kept: list[Term]) -> bool:
    """Whether every cell of the cube is there, which tells all terms apart; checking that is the costlier part."""
    size = math.prod(term.levels for term in kept if len(term.factors) == 1)
    return len(kept) == len(TERMS) and size == len(rows)


def _drop_dependent(rows: Crossing, kept: list[Term], lost: dict[str, str], within: dict[str, str | None]) -> None:
    """Drop terms whose covariance, the mean projected out, is a combination of the others' and the residual's."""
    for term in reversed(list(kept)):
        others = [other for other in kept if other is not term]
        gram = _projected_products([*(other.codes for other in others), np.arange(len(rows)), term.codes])
        scale = np.sqrt(np.diag(gram))
        gram = gram / np.outer(scale, scale)
        left = gram[-1, -1] - gram[-1, :-1] @ np.linalg.lstsq(gram[:-1, :-1], gram[:-1, -1])[0]
        if left < _DEPENDENT:
            kept.remove(term)
            lost[term.name] = "not identified: its covariance is a combination of the other terms'"
            within[term.name] = None


def _projected_products(groupings: list[Codes]) -> NDArray[np.float64]:
    """Return tr(P V_k P V_l) for V_k = Z_k Z_k' and P the projection off the mean, from counts alone."""
    n = len(groupings[0])
    sizes = [np.bincount(codes)[codes].astype(float) for codes in groupings]
    gram = np.empty((len(groupings), len(groupings)))
    for k, left in enumerate(groupings):
        for other in range(k + 1):
            joint = np.bincount(_joint(left, groupings[other])).astype(float)
            shared = float(joint @ joint) - 2 * float(sizes[k] @ sizes[other]) / n
            gram[k, other] = gram[other, k] = shared + sizes[k].sum() * sizes[other].sum() / n**2
    return gram


def _joint(left: Codes, right: Codes) -> Codes:
    """Return codes of the pairs of two codings, dense and from 0."""
    return _numbered(left * (int(right.max(initial=0)) + 1) + right)


def _levels(codes: Codes) -> int:
    return int(codes.max(initial=-1)) + 1


def _numbered(values: pd.Series | Codes) -> Codes:
    """Number values from 0, without gaps, in the order they first appear."""
    return np.asarray(pd.factorize(values)[0], dtype=np.int64)
