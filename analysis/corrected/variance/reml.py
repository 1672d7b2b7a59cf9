"""Variance components by restricted maximum likelihood, for cells that are no complete cube.

Fisher scoring: each step solves information × change = score. On balanced cells one step is the closed form, on nearly
balanced ones a few suffice. Components may come out negative, as in the closed form, as long as the covariance stays
positive definite; `constrained` keeps them at or above 0, as lme4 does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.corrected.variance.estimate import ComponentEstimate, component_names, expected_mean_squares
from analysis.corrected.variance.likelihood import EffectsBlock, Likelihood, likelihood
from analysis.corrected.variance.terms import Codes, Crossing, IdentifiedTerms

__all__ = ["fit_reml"]

Array = NDArray[np.float64]

_STEPS = 100
_HALVINGS = 30
# Expected gain in -2 log likelihood below which the fit has arrived: the estimates are then 1e-5 standard errors off.
_ARRIVED = 1e-10


@dataclass(frozen=True)
class _MappedBlock:
    """A block, and the matrix that takes the components (residual first) to the variances of its terms."""

    block: EffectsBlock
    mapping: Array


def fit_reml(rows: Crossing, identified: IdentifiedTerms, *, constrained: bool = False) -> ComponentEstimate:
    """Fit every identified term and the residual.

    Parameters
    ----------
    rows
        Deltas in pp and their factors' levels; any cells may be missing.
    identified
        Terms of these rows.
    constrained
        Whether components must not be negative.

    Notes
    -----
    Time goes with the cube of the number of levels without those of the largest interaction: 889 for 9 models, 44
    sources and 44 targets. If all models have the same cells, their contrasts and their mean are independent and 89
    levels remain.
    """
    parts = _parts(rows, identified)
    start = np.full(len(identified.terms) + 1, rows.delta.var() / (len(identified.terms) + 1))
    found = _maximise(parts, start, constrained=constrained)
    return _estimate(rows, identified, found)


# --- blocks


def _parts(rows: Crossing, identified: IdentifiedTerms) -> list[_MappedBlock]:
    pairs = rows.factors["source"] * (int(rows.factors["target"].max()) + 1) + rows.factors["target"]
    models = int(rows.factors["model"].max()) + 1
    if len(np.unique(pairs)) * models == len(rows) and not rows.diagonal:
        return _alike_parts(rows, identified, models)
    terms = list(identified.terms)
    crossed = [term for term in terms if len(term.factors) > 1]
    last = max(crossed, key=lambda term: term.levels, default=None)
    first = [term for term in terms if term is not last]
    block = EffectsBlock(rows.delta[:, None], [term.codes for term in first], last.codes if last else None)
    order = [0, *(1 + terms.index(term) for term in (*first, *([last] if last else [])))]
    return [_MappedBlock(block, np.eye(len(terms) + 1)[order])]


def _alike_parts(rows: Crossing, identified: IdentifiedTerms, models: int) -> list[_MappedBlock]:
    """Return the blocks of models that all have the same cells: their mean, and the contrasts between them."""
    order = np.lexsort((rows.factors["target"], rows.factors["source"], rows.factors["model"]))
    values = rows.delta[order].reshape(models, -1).T
    first = order[: len(values)]
    groups = {name: rows.factors[name][first] for name in ("source", "target")}
    groups["model"] = np.zeros(len(first), dtype=np.int64)
    mean, root = values.mean(axis=1, keepdims=True), math.sqrt(models)
    mapping = _mapping(identified, models)
    parts = [_alike_part(mean * root, groups, mapping, copies=1, mean_weight=root)]
    if models > 1:
        parts.append(_alike_part(values - mean, groups, _mapping(identified, 0), copies=models - 1, mean_weight=0.0))
    return parts


def _mapping(identified: IdentifiedTerms, models: int) -> dict[str, Array]:
    """Return what each grouping of one model's cells varies by: coefficients of the components, the residual first.

    A term without the model counts ``models`` times in the models' mean, and not at all in their contrasts.
    """
    groups = {name: np.zeros(len(identified.terms) + 1) for name in ("residual", "source", "target", "model")}
    groups["residual"][0] = 1.0
    for column, term in enumerate(identified.terms, start=1):
        own = term.factors - {"model"}
        group = "model" if not own else "residual" if len(own) > 1 else next(iter(own))
        groups[group][column] = 1.0 if "model" in term.factors else float(models)
    return groups


def _alike_part(
    values: Array, groups: dict[str, Codes], mapping: dict[str, Array], *, copies: int, mean_weight: float
) -> _MappedBlock:
    used = [name for name in groups if mapping[name].any()]
    block = EffectsBlock(values, [groups[name] for name in used], copies=copies, mean_weight=mean_weight)
    return _MappedBlock(block, np.array([mapping["residual"], *(mapping[name] for name in used)]))


# --- maximising


@dataclass(frozen=True)
class _Maximum:
    variances: Array
    at: Likelihood
    arrived: bool


def _evaluate(parts: list[_MappedBlock], variances: Array) -> Likelihood | None:
    """Add the blocks' likelihoods up, as functions of the components; None where one does not exist."""
    criterion, score, information = 0.0, np.zeros_like(variances), np.zeros((len(variances), len(variances)))
    mean = mean_variance = math.nan
    for part in parts:
        at = likelihood(part.block, part.mapping @ variances)
        if at is None:
            return None
        criterion += at.criterion
        score += part.mapping.T @ at.score
        information += part.mapping.T @ at.information @ part.mapping
        if part.block.mean_weight:
            mean, mean_variance = at.mean, at.mean_variance
    return Likelihood(criterion, score, information, mean, mean_variance)


def _maximise(parts: list[_MappedBlock], start: Array, *, constrained: bool) -> _Maximum:
    """Score until a step is expected to gain nothing; halve steps that lose likelihood."""
    variances, at = start, _evaluate(parts, start)
    if at is None:
        raise ArithmeticError("equal positive components have no positive definite covariance")
    for _ in range(_STEPS):
        free = (variances > 0) | (at.score > 0) if constrained else np.ones(len(variances), dtype=bool)
        step = np.zeros_like(variances)
        try:
            step[free] = np.linalg.solve(at.information[np.ix_(free, free)], at.score[free])
        except np.linalg.LinAlgError:  # the likelihood says nothing of some component here
            return _Maximum(variances, at, arrived=False)
        if float(step @ at.score) < _ARRIVED:
            return _Maximum(variances, at, arrived=True)
        better = _searched(parts, variances, step, at.criterion, constrained=constrained)
        if better is None:
            return _Maximum(variances, at, arrived=float(step @ at.score) < math.sqrt(_ARRIVED))
        variances, at = better
    return _Maximum(variances, at, arrived=False)


def _searched(
    parts: list[_MappedBlock], variances: Array, step: Array, criterion: float, *, constrained: bool
) -> tuple[Array, Likelihood] | None:
    """Return the first of the step, its half, its quarter, … that does not lose likelihood."""
    for halving in range(_HALVINGS):
        tried = variances + step / 2**halving
        tried = np.maximum(tried, 0.0) if constrained else tried
        at = _evaluate(parts, tried)
        if at is not None and at.criterion <= criterion:
            return tried, at
    return None


# --- what it amounts to


def _estimate(rows: Crossing, identified: IdentifiedTerms, found: _Maximum) -> ComponentEstimate:
    """Express the fit in mean squares, whose degrees of freedom are matched to the information (Satterthwaite)."""
    expectations = expected_mean_squares(identified, len(rows))
    last = [*range(1, len(found.variances)), 0]
    variances, information = found.variances[last], found.at.information[np.ix_(last, last)]
    squares = expectations @ variances
    covariance = expectations @ np.linalg.pinv(information, hermitian=True) @ expectations.T
    known = np.diag(covariance) > 0
    spread = np.sqrt(np.where(known, np.diag(covariance), 1.0))
    notes = [] if found.arrived else ["the fit did not converge: take it as a rough value"]
    return ComponentEstimate(
        names=component_names(identified),
        variances=variances,
        expectations=expectations,
        degrees=np.where(known, 2 * (squares / spread) ** 2, 0.0),
        correlation=covariance / np.outer(spread, spread),
        criterion=found.at.criterion,
        mean=found.at.mean,
        mean_se=math.sqrt(found.at.mean_variance),
        notes=tuple(notes),
    )
