"""A verdict as text for a terminal, and as Markdown for MLflow's UI."""

from __future__ import annotations

import math
from collections.abc import Sequence

from registry.cells import Cell
from registry.deploy.policy import Measured, Verdict

__all__ = ["as_markdown", "as_text"]

_HEAD = ("target", "regime", "baseline", "chance", "score", "delta", "95 %", "p", "q", "shrunken")


def as_text(verdict: Verdict) -> str:
    """Write the checks, one to a line, and the targets they rest on."""
    width = max(len(check.name) for check in verdict.checks)
    lines = [f"  {'yes' if check.passed else 'NO '} {check.name:<{width}}  {check.found}" for check in verdict.checks]
    rows = [_HEAD, *(_row(cell, found) for cell, found in _asked(verdict))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    table = [
        "  " + "  ".join(f"{text:<{size}}" for text, size in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([*lines, "", *table, f"  Errors of deltas: {verdict.evidence.noise}."])


def as_markdown(verdict: Verdict) -> str:
    """Write the verdict with every number it rests on."""
    policy = verdict.terms.policy
    checks = [(check.name, "yes" if check.passed else "**no**", check.found) for check in verdict.checks]
    asked = f"at least {policy.min_gain:+g} pp by {policy.gain_by}, no harm with q < {policy.harm_q:g}"
    rows = [_row(cell, found, "wanted" * (cell in verdict.terms.want)) for cell, found in _asked(verdict)]
    return "\n\n".join(
        [
            f"Policy: {asked}. Evaluation run `{verdict.evidence.run_id}`.",
            _table(("check", "passed", "found"), checks),
            _table((*_HEAD, ""), rows),
            f"Deltas in pp, q over the {len(verdict.terms.protect)} protected targets (Benjamini–Hochberg). Errors: "
            f"{verdict.evidence.noise}.",
        ]
    )


def _asked(verdict: Verdict) -> list[tuple[Cell, Measured]]:
    """Return the targets that the policy names and that were measured, the wanted first."""
    targets = verdict.evidence.targets
    return [(cell, targets[cell]) for cell in (*verdict.terms.want, *verdict.terms.protect) if cell in targets]


def _row(cell: Cell, found: Measured, *more: str) -> tuple[str, ...]:
    shares = (_share(value) for value in (found.baseline, found.chance, found.score))
    interval = _DASH if math.isnan(found.low) else f"{found.low:+.2f} to {found.high:+.2f}"
    shrunken = _DASH if math.isnan(found.shrunken) else f"{found.shrunken:+.2f} (SD {found.shrunken_sd:.2f})"
    tests = (_DASH if math.isnan(value) else f"{value:.2g}" for value in (found.p, found.q))
    return (str(cell), str(found.regime), *shares, f"{found.delta:+.2f}", interval, *tests, shrunken, *more)


_DASH = "–"


def _share(value: float) -> str:
    return _DASH if math.isnan(value) else f"{100 * value:.1f} %"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)
