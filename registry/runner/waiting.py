"""Jobs that another runner is doing: set aside for a while, then asked for again until they are done or free."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from registry.runner.experiment import Job
from registry.runner.progress import Board
from registry.tracking.runs import Superseded

__all__ = ["SetAside", "TakenElsewhere", "Unmeasured"]

_FIRST_SECONDS, _MOST_SECONDS = 0.5, 10.0  # asking costs one query of the store


class TakenElsewhere(RuntimeError):
    """Another runner does this job."""


class Unmeasured(Superseded):
    """An adapter was scored, and whoever scored the baseline to measure it against is gone; its run ends as KILLED."""


@dataclass
class SetAside:
    """When to ask again for each job that another runner does, and word of it.

    A job stays set aside until the runner that does it has finished, given it back, or is found dead.
    """

    board: Board
    _again: dict[Job, float] = field(default_factory=dict)
    _pauses: dict[Job, float] = field(default_factory=dict)
    _said: bool = False

    def put(self, job: Job) -> None:
        """Leave a job alone, each time for twice as long."""
        pause = self._pauses.get(job, _FIRST_SECONDS)
        self._again[job] = time.monotonic() + pause
        self._pauses[job] = min(2 * pause, _MOST_SECONDS)

    def is_open(self, job: Job) -> bool:
        """Whether a job may be asked for now."""
        return time.monotonic() >= self._again.get(job, 0.0)

    def rest(self, jobs: Iterable[Job]) -> None:
        """Sleep until one of some jobs may be asked for, and say once that there is nothing else to do."""
        self.tell(jobs)
        time.sleep(max(0.0, min(self._again.get(job, 0.0) for job in jobs) - time.monotonic()))
        self.board.refresh()

    def tell(self, jobs: Iterable[Job]) -> None:
        """Say once that only jobs are left that other runners do."""
        if not self._said:
            count = sum(job in self._again for job in jobs)
            self.board.note(
                f"waiting for {count} jobs that other runners on this store do; what they leave is taken over"
            )
            self._said = True
