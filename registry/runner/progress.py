"""One line that says what is running, what is done, what is left and how long it will take."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

from registry.planning.experiment import Job

__all__ = ["Board"]

_BAR = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total} jobs, {elapsed} gone, {remaining} to go{postfix}"
_QUIET_SECONDS = 20.0  # between lines where there is no terminal to redraw


class Board:
    """Progress of a plan: a bar on a terminal, a line now and then elsewhere.

    Parameters
    ----------
    jobs : int
        Jobs to do.
    """

    def __init__(self, jobs: int, *, what: str = "study") -> None:
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=jobs,
            desc=what,
            dynamic_ncols=True,
            file=sys.stderr,
            disable=not self._terminal,
            bar_format=_BAR,
        )
        self._jobs, self._what = jobs, what
        self._done = self._failed = 0
        self._doing: dict[int, tuple[str, str, float]] = {}
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if not self._terminal and self._jobs:
            self._say()

    def started(self, worker: int, what: str) -> None:
        """A worker took a job, or several that are trained together."""
        self._doing[worker] = (what, "", 0.0)
        self.refresh()

    def moved(self, worker: int, phase: str, share: float) -> None:
        """A worker's job is at a share of a phase."""
        if worker in self._doing:
            self._doing[worker] = (self._doing[worker][0], phase, share)
        self.refresh()

    def done(self, worker: int, job: Job) -> None:
        """A job is done and recorded."""
        self._done += 1
        self._bar.update(1)
        self.refresh()

    def failed(self, worker: int, job: Job, trace: str) -> None:
        """A job could not be done."""
        self._failed += 1
        self.note(f"failed: {job}\n{trace}".rstrip())

    def idle(self, worker: int) -> None:
        """A worker has nothing left to do."""
        self._doing.pop(worker, None)
        self.refresh()

    def note(self, text: str) -> None:
        """Say something without disturbing the bar."""
        tqdm.write(text, file=sys.stderr)

    def refresh(self) -> None:
        """Show what is running now."""
        if self._terminal:
            self._bar.set_postfix_str(self._running(), refresh=True)
        elif time.monotonic() - self._said > _QUIET_SECONDS:
            self._say()

    def _running(self) -> str:
        doing = "; ".join(f"{job} {phase} {share:.0%}" for _, (job, phase, share) in sorted(self._doing.items()))
        failed = f"{self._failed} failed, " if self._failed else ""
        left = self._jobs - self._done - self._failed
        return failed + (doing or ("starting" if left else "nothing left"))

    def _say(self) -> None:
        self._said = time.monotonic()
        gone = self._said - self._began
        left = self._jobs - self._done - self._failed
        to_go = f", about {gone / self._done * left:.0f} s to go" if self._done and left else ""
        self.note(f"{self._what}: {self._done}/{self._jobs} jobs, {gone:.0f} s gone{to_go}, {self._running()}")
