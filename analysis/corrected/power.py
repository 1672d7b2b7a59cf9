"""What a study of a given size can detect: the smallest effects of cells, roles and regimes found 4 times out of 5."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import nctdtr, ndtr, stdtrit

from analysis.corrected.noise import QuestionNoise, SamplingNoise, assumed_question_noise
from analysis.corrected.regimes import CONTRASTS
from analysis.corrected.variance.terms import RESIDUAL, TERMS
from analysis.measures.levels import SIGNIFICANT
from analysis.measures.numerals import fixed, quantity
from analysis.published.roles import DONOR, RECIPIENT
from registry.cells import Grid, Regime, regime_of
from registry.errors import Refused, unknown

__all__ = ["ASSUMED", "COLUMNS", "MODEL_REGIME", "StudyDesign", "detectable", "foreseen", "power", "power_without_data"]

COLUMNS = [
    "level", "test", "items", "seeds", "models", "tasks", "languages", "se", "df", "detectable_pp", "assumption",
]  # fmt: skip

POWER: Final = 0.8

#: Variance in pp² of what a regime adds on single models, which no other component holds.
MODEL_REGIME = "model:regime"

#: Variances in pp² that are assumed without data: an effect of everything, between 0.5 and 0.8 pp each.
ASSUMED: Final[dict[str, float]] = {
    "model": 0.5,
    "source": 0.3,
    "target": 0.5,
    "model:source": 0.3,
    "model:target": 0.6,
    "source:target": 0.4,
    RESIDUAL: 0.5,
    MODEL_REGIME: 0.09,
}

#: Noise of a cell with 400 items and 3 seeds, least and most, in pp.
_NOISE: Final = (0.6, 1.25)

# Beyond these degrees of freedom t is normal to all digits shown.
_MANY = 10_000.0


@dataclass(frozen=True)
class StudyDesign:
    """Size of a study: test items of a target, seeds of an adapter, base models; sources are tasks × languages.

    Targets are the same cells as sources.
    """

    items: int
    seeds: int
    models: int
    tasks: int
    languages: int

    def __post_init__(self) -> None:
        for name, size in vars(self).items():
            if size < 1:
                raise Refused(f"a study has at least one of its {name}, not {size}")


class _Test(NamedTuple):
    """One row: the standard error in pp (NaN where there is none), degrees of freedom, and the level of the test."""

    level: str
    name: str
    se: float
    df: float
    alpha: float = SIGNIFICANT
    note: str = ""


def power(
    design: StudyDesign, components: Mapping[str, float] | None, noise: QuestionNoise, *, differing: float = 0.1
) -> pd.DataFrame:
    """Compute the smallest effects that a study detects with 80% power at the level 0.05, two-sided.

    Parameters
    ----------
    components
        Variances in pp² of the terms and the residual, the sampling noise taken off, and of `MODEL_REGIME`, which is
        assumed if absent; one that is negative or NaN counts as 0. None: all are those of `ASSUMED`.
    noise
        Of a question.
    differing
        Share of cells that truly have the effect in question, for the test after Benjamini and Hochberg.

    Returns
    -------
    DataFrame
        `COLUMNS`, a row per test: ``level`` (cell, role, contrast), the design, ``se`` of the estimate (pp) with
        ``df``, ``detectable_pp``, and ``assumption``: what is measured, assumed, or in the way.

    Notes
    -----
    In simulations with 9 models, cells and roles with the effects given were found in about 80% of studies, contrasts
    in 88%: with so few models their clustered errors are about 13% smaller than the true ones that are planned with.

    Raises
    ------
    Refused
        If a component is missing or unknown, or ``differing`` is not between 0 and 1.
    """
    if not 0 < differing <= 1:
        raise Refused(f"the share of cells with an effect is above 0 and at most 1, not {differing}")
    variances, said = _variances(components)
    sampling = noise.sampling(design.items, design.seeds)
    rows = []
    for test in _tests(design, variances, sampling, differing):
        said_of_components = "" if test.level == "cell" else said
        assumption = "; ".join(filter(None, [noise.note, said_of_components, test.note]))
        row = {"level": test.level, "test": test.name, **vars(design), "se": test.se, "df": test.df}
        rows.append(row | {"detectable_pp": detectable(test.se, test.df, alpha=test.alpha), "assumption": assumption})
    return pd.DataFrame(rows, columns=COLUMNS)


def power_without_data(design: StudyDesign, *, differing: float = 0.1) -> pd.DataFrame:
    """Plan a study before there is any: :func:`power` with assumed components, for the least and the most noise."""
    return pd.concat(
        [power(design, None, assumed_question_noise(sd), differing=differing) for sd in _NOISE], ignore_index=True
    )


def detectable(se: float, df: float, *, alpha: float = SIGNIFICANT, power: float = POWER) -> float:
    """Return the effect, in the unit of ``se``, at which a two-sided t test rejects with the given probability.

    By the non-central t distribution. Rejections on the wrong side are not counted; at a power worth having they are
    fewer than one in 10,000. NaN where there is no error.
    """
    if not (np.isfinite(se) and df >= 1):
        return float("nan")
    critical = float(-stdtrit(df, alpha / 2))

    def missing(shift: float) -> float:
        rejected = ndtr(shift - critical) if df > _MANY else 1.0 - nctdtr(df, shift, critical)
        return float(rejected) - power

    return se * float(brentq(missing, 0.0, 2 * critical + 10.0))


def _variances(components: Mapping[str, float] | None) -> tuple[dict[str, float], str]:
    """Return every component, none negative, and what is assumed of them."""
    if components is None:
        return dict(ASSUMED), "ASSUMED components"
    for name in components:
        if name not in ASSUMED:
            raise unknown("variance component", name, ASSUMED)
    if lacking := [name for name in (*TERMS, RESIDUAL) if name not in components]:
        raise Refused(f"power needs the variance of {', '.join(lacking)}; give 0 for an effect that there is not")
    said = "components of the study"
    if MODEL_REGIME not in components:
        said += f", that of {MODEL_REGIME} ASSUMED {ASSUMED[MODEL_REGIME]:g} pp²"
    known = {**{MODEL_REGIME: ASSUMED[MODEL_REGIME]}, **components}
    return {name: max(float(value), 0.0) if value == value else 0.0 for name, value in known.items()}, said


def _tests(
    design: StudyDesign, variances: dict[str, float], sampling: SamplingNoise, differing: float
) -> Iterator[_Test]:
    """Yield all tests."""
    yield from _cell_tests(design, sampling, differing)
    for factor in ("language", "task"):
        for role in (DONOR, RECIPIENT):
            yield from _role_tests(factor, role, design, variances, sampling)
    yield from _contrast_tests(design, variances, sampling)


def _cell_tests(design: StudyDesign, sampling: SamplingNoise, differing: float) -> Iterator[_Test]:
    """Yield the test of one cell on its own, and as one of all."""
    se, df = float(np.sqrt(sampling.v)), design.items - 1.0
    note = "" if design.items > 1 else "one item: no error"
    se = se if design.items > 1 else float("nan")
    yield _Test("cell", "one cell against 0", se, df, note=note)
    # Benjamini and Hochberg's threshold is the p-value t at which t / (share rejected at t) = 0.05, the share being
    # differing × power + (1 − differing) × t (Genovese and Wasserman 2002).
    alpha = SIGNIFICANT * differing * POWER / (1 - SIGNIFICANT * (1 - differing))
    said = f"{differing:.0%} of all cells differ as much, Benjamini–Hochberg: p at or below {alpha:.2g}"
    yield _Test("cell", "one cell among all", se, df, alpha, "; ".join(filter(None, [said, note])))


def _role_tests(
    factor: str, role: str, design: StudyDesign, variances: dict[str, float], sampling: SamplingNoise
) -> Iterator[_Test]:
    """Yield the tests of one score and of differences of two, as `analysis.corrected.roles` makes them."""
    names, fixed = design.languages, design.tasks
    if factor == "task":
        names, fixed = fixed, names
    word = "language" if factor == "language" else "task"
    partners = names - 1
    if partners < 2:
        said = f"{names} {word}{'' if names == 1 else 's'}: too few partners for an interval"
        yield _Test("role", f"a {word} as {role} against 0", float("nan"), float("nan"), note=said)
        return
    score, difference = role_spreads(role, design.models, fixed, partners, variances, sampling)
    note = "holds for the one model" if design.models == 1 else ""
    pairs = names * (names - 1) // 2
    yield _Test("role", f"a {word} as {role} against 0", *error(score, design.models, partners), note=note)
    of_pair = error(difference, design.models, partners)
    yield _Test("role", f"two {word}s as {role}s", *of_pair, note=note)
    said = f"adjusted for {pairs} pairs after Bonferroni, which max-t betters a little"
    adjusted = SIGNIFICANT / pairs
    yield _Test("role", f"two {word}s as {role}s among all", *of_pair, adjusted, "; ".join(filter(None, [said, note])))


def _contrast_tests(design: StudyDesign, variances: dict[str, float], sampling: SamplingNoise) -> Iterator[_Test]:
    """Yield the tests of differences between regimes, as `analysis.corrected.regimes` makes them."""
    found = squared_weights(design.tasks, design.languages)
    for left, right in CONTRASTS:
        name, weights = f"{left} − {right}", found.get((left, right))
        if weights is None:
            said = f"{design.tasks} × {design.languages} cells do not tell these regimes apart"
            yield _Test("contrast", name, float("nan"), float("nan"), note=said)
            continue
        single = variances[RESIDUAL] + sampling.own
        variance = weights * (variances["source:target"] + single / design.models)
        df, note = (design.tasks * design.languages) ** 2 - 1.0, "holds for the one model"
        if design.models > 1:
            variance += 2 * variances[MODEL_REGIME] / design.models
            df, note = design.models - 1.0, ""
        yield _Test("contrast", name, float(np.sqrt(variance)), df, note=note)


# --- standard errors of scores and contrasts of a complete study, from its variance components


Array = NDArray[np.float64]


class ErrorSpread(NamedTuple):
    """Variance of an estimate that goes with models, with partners, and with single (model, partner)."""

    by_model: float
    by_partner: float
    single: float


def role_spreads(
    role: str, models: int, fixed: int, partners: int, variances: Mapping[str, float], sampling: SamplingNoise
) -> tuple[ErrorSpread, ErrorSpread]:
    """Return the spread of one score and of the difference of two.

    A score averages (models, fixed, partners) cells: ``fixed`` tasks of a language or languages of a task. Sources on
    one (model, target) share the noise c: donors' partners are targets, recipients' partners sources.
    """
    own, other = ("source", "target") if role == DONOR else ("target", "source")
    of_models, of_partners = models * fixed, fixed * partners
    cells = models * of_partners
    own_model, other_model = variances[f"model:{own}"], variances[f"model:{other}"]
    pair, residual = variances["source:target"], variances[RESIDUAL]
    if role == DONOR:
        other_model += sampling.c
    else:
        own_model += sampling.c
    score = ErrorSpread(
        by_model=variances["model"] / models + own_model / of_models,
        by_partner=(variances[other] + pair) / of_partners,
        single=(other_model + residual + sampling.own) / cells,
    )
    # Two names share their partners but for each other.
    unshared = (variances[other] + other_model / models) / (fixed * partners**2)
    difference = ErrorSpread(
        by_model=2 * own_model / of_models,
        by_partner=2 * pair / of_partners + 2 * unshared,
        single=2 * (residual + sampling.own) / cells,
    )
    return score, difference


def error(spread: ErrorSpread, models: int, partners: int) -> tuple[float, float]:
    """Return standard error and Satterthwaite's degrees of freedom; one model's own share is not error then."""
    of_partner = spread.by_partner + spread.single
    if models == 1:
        return float(np.sqrt(of_partner)), partners - 1.0
    of_model = spread.by_model + spread.single
    per_degree = of_model**2 / (models - 1) + of_partner**2 / (partners - 1)
    df = (of_model + of_partner) ** 2 / per_degree if per_degree > 0 else float(models - 1)
    return float(np.sqrt(spread.by_model + of_partner)), df


def squared_weights(tasks: int, languages: int) -> dict[tuple[Regime, Regime], float]:
    """Return for every contrast the sum of squares of the weights that least squares gives the pairs of cells.

    Effects of source and target are absorbed, so that weights sum to 0 over either: of the components, only that of the
    pairs and the residual remain. Contrasts that cannot be estimated are absent.
    """
    cells = list(Grid(tuple(f"t{i}" for i in range(tasks)), tuple(f"l{i}" for i in range(languages))))
    regimes = np.array([[str(regime_of(source, target)) for target in cells] for source in cells])
    present = [regime for regime in Regime if (regimes == str(regime)).any()]
    dummies = [(regimes == str(regime)).astype(np.float64) for regime in present]
    within = np.stack([_centred(dummy).ravel() for dummy in dummies], axis=1)
    gram = within.T @ within
    inverse = np.linalg.pinv(gram, rcond=1e-9, hermitian=True)
    found = {}
    for left, right in CONTRASTS:
        if left in present and right in present:
            weights = np.array([(regime == left) - (regime == right) for regime in present], dtype=np.float64)
            if np.allclose(gram @ inverse @ weights, weights, atol=1e-6):
                found[left, right] = float(weights @ inverse @ weights)
    return found


def _centred(square: Array) -> Array:
    """Take the means of rows and columns off a matrix."""
    return np.asarray(square - square.mean(axis=0) - square.mean(axis=1, keepdims=True) + square.mean())


# --- a planned study, in a sentence


def foreseen(design: StudyDesign) -> str:
    """Say in a sentence what a planned study can detect, under assumed components and noise.

    The two ends of each range are for the least and the most noise that cells of 400 items and 3 seeds were seen to
    have, scaled to the design.
    """
    table = power_without_data(design).groupby("test", sort=False)["detectable_pp"].agg(["min", "max"])
    said = [
        f"{words} {' to '.join(dict.fromkeys([fixed(row['min'], 1), fixed(row['max'], 1)]))} pp"
        for test, words in _FORESEEN.items()
        if test in table.index and not math.isnan((row := table.loc[test])["max"])
    ]
    sizes = f"{design.items} items, {quantity(design.seeds, 'seed')}, {quantity(design.models, 'model')}"
    if not said:
        return f"{sizes}: too small a study to detect anything by"
    return f"4 times out of 5, with {sizes}, under ASSUMED noise and variances: {'; '.join(said)}"


#: Tests that a plan is judged by, and how the sentence names them.
_FORESEEN = {
    "one cell among all": "a cell's change of",
    "two languages as donors": "two donor languages apart by",
    "two tasks as donors": "two donor tasks apart by",
    f"{Regime.MT_CL} − {Regime.CT_CL}": f"{Regime.MT_CL} above {Regime.CT_CL} by",
}
