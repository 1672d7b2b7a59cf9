"""What a worker does with its tasks: does them, and reports what came of each."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient

from registry.planning.experiment import Experiment
from registry.process import collect_rarely
from registry.runner.schedule import Task
from registry.tracking.claims import TakenElsewhere, Unmeasured
from registry.tracking.runs import Superseded

if TYPE_CHECKING:  # brings torch, which a plan with nothing to do has no need of
    from registry.runner.job_executor import JobExecutor, Progress

__all__ = ["ONE_THREAD", "Report", "new_executor", "reports"]

#: What came of a job, or how far it is: ("moved", phase, share), ("done", job), ("held", job), ("unmeasured", job) or
#: ("failed", job, reason, trace).
Report = tuple[Any, ...]

_REPORT_SECONDS = 0.5  # between two reports of the same phase

#: Environment in which a process uses one thread: two processes on busy cores can be ten times slower with more.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def new_executor(experiment: Experiment, client: MlflowClient, experiment_id: str, *, number: int) -> JobExecutor:
    """Return the executor of this process, on the GPU of the worker's number where there are any."""
    import torch

    from registry.runner.job_executor import JobExecutor
    from registry.runner.recorder import Recorder

    torch.set_num_threads(1)  # the same on every worker, so that results are the same to the last digit
    gpus = torch.cuda.device_count()
    device = f"cuda:{number % gpus}" if gpus else "cpu"
    executor = JobExecutor(Recorder(experiment, client, experiment_id, device))
    collect_rarely()
    gc.freeze()  # what is in memory now stays there
    return executor


def reports(executor: JobExecutor, tasks: Sequence[Task], progress: Progress) -> Iterator[Report]:
    """Do tasks of one base, and report each as it ends.

    An error that concerns none of them alone is the reason of all that are left.
    """
    left = [job for job, _ in tasks]
    try:
        for job, error in executor.do(tasks, _paced(progress)):
            left.remove(job)
            yield ("done", job) if error is None else (*_kind(error), job, *_words(error))
    except Exception as error:
        for job in left:
            yield (*_kind(error), job, *_words(error))


def _paced(progress: Progress) -> Progress:
    """Report each phase when it begins, and then at intervals: the receiver may share the core with the work."""
    last: tuple[str, float] = ("", 0.0)

    def paced(phase: str, share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if phase != last[0] or now - last[1] >= _REPORT_SECONDS:
            last = (phase, now)
            progress(phase, share)

    return paced


def _kind(error: Exception) -> tuple[str]:
    if isinstance(error, Unmeasured):
        return ("unmeasured",)
    return ("held",) if isinstance(error, TakenElsewhere | Superseded) else ("failed",)


def _words(error: Exception) -> tuple[str, ...]:
    """Return a failure's reason and trace; the other kinds say all there is."""
    if isinstance(error, TakenElsewhere | Superseded):
        return ()
    return f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))
