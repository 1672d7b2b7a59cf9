"""What a plan is carried out by: workers, wherever they are, that take tasks from a dispatcher and report.

This process alone, processes on this machine (``local_pool.py``) and workers on a Ray cluster (``on_ray/pool.py``) are
pools.
"""

from __future__ import annotations

from typing import Protocol

from registry.planning.experiment import Experiment
from registry.planning.plan import Plan
from registry.runner.dispatcher import Dispatcher
from registry.runner.progress import Board
from registry.runner.schedule import Failure

__all__ = ["Pool", "work_off"]


class Pool(Protocol):
    """Workers of one experiment."""

    @property
    def on_gpu(self) -> bool:
        """Whether every worker has a GPU."""

    def run(self, dispatcher: Dispatcher) -> None:
        """Start workers, give them what the dispatcher has until nothing is unfinished, and end them.

        A worker that dies is reported with :meth:`Dispatcher.lose`; what it had is given to another.
        """


def work_off(experiment: Experiment, plan: Plan, pool: Pool, board: Board) -> list[Failure]:
    """Do every job of a plan; a job that fails is reported and the others go on."""
    dispatcher = Dispatcher.of(experiment, plan, board, on_gpu=pool.on_gpu)
    pool.run(dispatcher)
    return dispatcher.schedule.failures
