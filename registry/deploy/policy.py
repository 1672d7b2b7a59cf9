"""Whether a version may carry an alias: what its study's policy asks, against what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from registry.cells import Cell, Regime, chosen_targets
from registry.config.promotion import BEST, PromotionPolicy
from registry.errors import Refused, unknown
from registry.tracking.chance import CHANCE_Q, chance_q

__all__ = ["Check", "Evidence", "TargetEffect", "Terms", "Verdict", "best_alias", "judge", "terms_of"]


@dataclass(frozen=True)
class Terms:
    """A policy with its targets spelled out.

    Attributes
    ----------
    every
        All targets of the study, on which the version must have been evaluated.
    """

    alias: str
    policy: PromotionPolicy
    want: tuple[Cell, ...]
    protect: tuple[Cell, ...]
    every: tuple[Cell, ...]

    @property
    def shared(self) -> bool:
        """Whether one adapter alone of a base may carry the alias, whatever its source."""
        return len(self.want) == 1 and self.alias == best_alias(self.want[0])


@dataclass(frozen=True)
class TargetEffect:
    """A version on one target; NaN for what is not known.

    Attributes
    ----------
    score, baseline, chance
        Proportions: of the version, of the untouched base, of guessing.
    chance_p
        Exact one-sided p-value of the baseline's score by guessing.
    delta, se, low, high
        In pp, with a 95 % interval over the questions.
    p, q
        Of no change; adjusted over the protected targets, NaN for others.
    shrunken, shrunken_sd
        Estimate, in pp, of what the version's source truly gives.
    """

    regime: Regime
    score: float
    baseline: float
    chance: float
    delta: float
    se: float
    low: float
    high: float
    p: float
    q: float
    shrunken: float = math.nan
    shrunken_sd: float = math.nan
    chance_p: float = math.nan


@dataclass(frozen=True)
class Evidence:
    """What is known of a version.

    Attributes
    ----------
    run_id
        Its evaluation.
    noise
        How the errors are known.
    digest
        SHA-256 of its weights, as recorded.
    weights
        What is wrong with the weights; empty for nothing.
    """

    run_id: str
    targets: Mapping[Cell, TargetEffect]
    noise: str
    digest: str
    weights: str


@dataclass(frozen=True)
class Check:
    """One thing a policy asks, and what was found: ``found`` is written for readers, with its numbers."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True)
class Verdict:
    """All checks of a version, and what they rest on."""

    terms: Terms
    evidence: Evidence
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What was found where a check failed."""
        return tuple(f"{check.name}: {check.found}" for check in self.checks if not check.passed)

    def plain(self) -> dict[str, Any]:
        """Return the verdict as plain data, NaN as None."""
        return {
            "alias": self.terms.alias,
            "passed": self.passed,
            "policy": asdict(self.terms.policy),
            "checks": [asdict(check) for check in self.checks],
            "evaluation_run": self.evidence.run_id,
            "noise": self.evidence.noise,
            "adapter_sha256": self.evidence.digest,
            "want": list(map(str, self.terms.want)),
            "protect": list(map(str, self.terms.protect)),
            "targets": {str(cell): _plain(found) for cell, found in sorted(self.evidence.targets.items())},
        }


def best_alias(target: Cell) -> str:
    """Return the alias of the best adapter for a target, such as ``best-kind-tr``."""
    return f"{BEST}-{target.task}-{target.language}".replace(".", "-")  # MLflow allows no dot in an alias


def terms_of(policies: Mapping[str, PromotionPolicy], alias: str, every: Sequence[Cell], *, study: str) -> Terms:
    """Return what a study asks of a version that is to carry an alias.

    Raises
    ------
    Refused
        If it has no policy for the alias, or the policy names targets that the study does not have.
    """
    where = f"study {study}, promotion"
    if alias in policies and alias != BEST:
        policy = policies[alias]
        want = chosen_targets(policy.want, every, where=f"{where}.{alias}.want")
    else:
        want = (_named(policies, alias, every, where),)
        policy = policies[BEST]
    protect = chosen_targets(policy.protect, every, where=f"{where}.{alias}.protect")
    return Terms(alias, policy, want, tuple(cell for cell in protect if cell not in want), tuple(every))


def _named(policies: Mapping[str, PromotionPolicy], alias: str, every: Sequence[Cell], where: str) -> Cell:
    """Return the target that an alias ``best-…`` names."""
    if not policies:
        raise Refused(
            f"{where}: there is none, so no version can be promoted; add one to the study file, such as "
            f"promotion: {{{alias}: {{want: [{every[0]}], protect: ['*/*'], min_gain: 1.0}}}}"
        )
    offered = [name for name in policies if name != BEST]
    of_targets = {best_alias(cell): cell for cell in every} if BEST in policies else {}
    if alias not in of_targets:
        raise unknown("policy for alias", alias, [*offered, *of_targets], where=where)
    return of_targets[alias]


def judge(terms: Terms, evidence: Evidence) -> Verdict:
    """Hold what was measured of a version against what its study asks."""
    checks = [_complete(terms, evidence), _intact(evidence)]
    if terms.want or terms.protect:
        checks.append(_sane(terms, evidence))
    if terms.want:
        checks.append(_gain(terms, evidence))
    if terms.protect:
        checks.append(_harm(terms, evidence))
    return Verdict(terms, evidence, tuple(checks))


def _complete(terms: Terms, evidence: Evidence) -> Check:
    lacking = [str(cell) for cell in terms.every if cell not in evidence.targets]
    there = len(terms.every) - len(lacking)
    found = f"{there} of {len(terms.every)} targets in run {evidence.run_id}"
    return Check("evaluation complete", not lacking, found + (f"; lacking {_listed(lacking)}" if lacking else ""))


def _intact(evidence: Evidence) -> Check:
    return Check("weights intact", not evidence.weights, evidence.weights or f"SHA-256 {evidence.digest}, as recorded")


def _sane(terms: Terms, evidence: Evidence) -> Check:
    """Check that no baseline is significantly below chance; or below it at all, if recorded without a p-value."""
    cells = list(dict.fromkeys((*terms.want, *terms.protect)))
    q = chance_q([evidence.targets[cell].chance_p if cell in evidence.targets else math.nan for cell in cells])
    wrong, margins = [], []
    for cell, value in zip(cells, q, strict=True):
        found = evidence.targets.get(cell)
        if found is None or math.isnan(found.baseline) or math.isnan(found.chance):
            wrong.append(f"{cell} has no baseline with its chance")
            continue
        margin = 100 * (found.baseline - found.chance)
        if value <= CHANCE_Q or (math.isnan(value) and margin < 0):
            tested = "not tested" if math.isnan(value) else f"q = {value:.2g}"
            shares = f"{100 * found.baseline:.1f} % against {100 * found.chance:.1f} %"
            wrong.append(f"{cell} {shares} by guessing ({tested})")
        margins.append(margin)
    least = f"; the least margin is {min(margins):.1f} pp" if margins else ""
    fine = f"none of the base's is below chance (exact one-sided tests, q ≤ {CHANCE_Q:g}){least}"
    return Check("baseline sane", not wrong, f"below chance or not known: {_listed(wrong)}" if wrong else fine)


def _gain(terms: Terms, evidence: Evidence) -> Check:
    by, least = terms.policy.gain_by, terms.policy.min_gain
    values = {cell: getattr(evidence.targets[cell], by) for cell in terms.want if cell in evidence.targets}
    # Written as "not at least" so that NaN fails too; deltas are rounded to 1e-9 where they are recorded.
    short = [cell for cell in terms.want if not values.get(cell, math.nan) >= least]
    text = _listed([f"{cell} {_pp(values.get(cell, math.nan))}" for cell in short or terms.want])
    word = {"delta": "delta", "low": "lower limit of delta", "shrunken": "shrunken estimate"}[by]
    return Check("gain on wanted targets", not short, f"{word} {text}; asked {_pp(least)} pp")


def _harm(terms: Terms, evidence: Evidence) -> Check:
    limit = terms.policy.harm_q
    found = {cell: evidence.targets[cell] for cell in terms.protect if cell in evidence.targets}
    unsure = [cell for cell in terms.protect if cell not in found or math.isnan(found[cell].q)]
    harmed = [cell for cell, one in found.items() if one.delta < 0 and one.q < limit]
    if harmed:
        text = _listed([f"{cell} {_pp(found[cell].delta)} pp (q {found[cell].q:.2g})" for cell in harmed])
        return Check("no significant harm", False, text)
    if unsure:
        return Check("no significant harm", False, f"cannot be tested: {_listed(list(map(str, unsure)))}")
    worst = min(found, key=lambda cell: found[cell].delta)
    text = f"none of {len(found)} with q < {limit:g}; worst {worst} {_pp(found[worst].delta)} pp"
    return Check("no significant harm", True, f"{text} (q {found[worst].q:.2g}, 95 % from {_pp(found[worst].low)})")


def _listed(texts: Sequence[str], most: int = 8) -> str:
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def _pp(value: float) -> str:
    return "not known" if math.isnan(value) else f"{value:+.2f}"


def _plain(found: TargetEffect) -> dict[str, Any]:
    fields = asdict(found) | {"regime": str(found.regime)}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in fields.items()}
