"""A plan in lines for the terminal: what a study is, what is recorded, what is left, what that will cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.config.study import Study
from registry.planning.plan import Plan, Step

if TYPE_CHECKING:  # these bring torch, which planning has no need of
    from registry.planning.estimate import Estimate

__all__ = ["cost", "grid", "plan", "to_do"]


def grid(design: Study, *, sources: int, targets: int) -> str:
    """Say in one line what a study is."""
    bases, seeds = len(design.models), len(design.seeds)
    return (
        f"study {design.name!r}: {bases} bases x {sources} sources x {seeds} seeds "
        f"= {bases * sources * seeds} fine-tunes, scored on {targets} targets"
    )


def plan(found: Plan, *, workers: int, reaped: int) -> list[str]:
    """Say what is there and what is left, a line each."""
    reused = ", ".join(f"{count} {kind}" for kind, count in found.reused.items())
    lines = [
        f"  there already {reused}",
        to_do(found.fine_tunes, found.evaluations, sum(step is Step.BASELINE for _, step in found.todo)),
    ]
    if found.todo:
        lines.append(f"  workers       {min(workers, len(found.todo)) or 'as many as fit the Ray cluster'}")
    if reaped:
        lines.append(f"  reaped        {reaped} runs of processes that are gone, now KILLED")
    return lines


def to_do(fine_tunes: int, evaluations: int, baselines: int) -> str:
    """Say in one line what is left."""
    bases = "1 untouched base" if baselines == 1 else f"{baselines} untouched bases"
    of = f" ({evaluations - baselines} of fine-tuned models, {bases})" if baselines else ""
    return f"  to do         {fine_tunes} fine-tunes, {evaluations} evaluations{of}"


def cost(expected: Estimate) -> str:
    """Say what a plan is expected to take, and what that rests on."""
    minutes, seconds = divmod(round(expected.seconds), 60)
    hours, minutes = divmod(minutes, 60)
    took = f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
    if expected.gpus:
        took += f", {expected.gpus * expected.seconds / 3600:.1f} GPU hours"
    basis = expected.basis.replace("; ", "\n                ")
    lines = [
        f"  expected      {took}",
        f"  from          {basis}",
        f"  disk          {_size(expected.adapters)} of fine-tuned weights and {_size(expected.outcomes)} of outcomes",
    ]
    if expected.downloads:
        lines.append(f"                {_size(expected.downloads)} of models to download into the hub's cache")
    return "\n".join(lines)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count > 1e9 else f"{count / 1e6:.0f} MB"
