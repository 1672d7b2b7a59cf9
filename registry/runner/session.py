"""A study from its description to its records: made ready, compared with the store, carried out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow import MlflowClient

from registry.config.study import Study
from registry.errors import Refused
from registry.files.outputs import staged
from registry.models.base import require_architectures
from registry.models.hub import offline
from registry.planning import console, design_files
from registry.planning.base_facts import reached_layers
from registry.planning.copies import copies_tags
from registry.planning.experiment import Experiment, Job, prepare
from registry.planning.outline import Outline, needs_hub, outline
from registry.planning.plan import Plan, look_up, make_plan, plan_beside, present_store
from registry.planning.preflight import preflight
from registry.planning.registered_names import require_distinct_names, require_free_names
from registry.recipes.maker import maker_of
from registry.recipes.targets import coverage
from registry.runner import descriptions
from registry.runner.local_pool import InProcess, default_workers, local_pool
from registry.runner.pool import Pool, work_off
from registry.runner.progress import Board
from registry.runner.schedule import Failure
from registry.tracking.liveness import reap
from registry.tracking.metric_names import JOBS_FAILED, JOBS_PLANNED
from registry.tracking.names import Kind, Tag, run_name
from registry.tracking.runs import end_strays, recorded
from registry.tracking.store import experiment_id, open_store, shown_uri, tracking_uri

if TYPE_CHECKING:  # slow to import, and planning has no need of it
    from registry.runner.on_ray.cluster import OnRay

__all__ = ["Prospect", "carry_out", "prospect", "rehearse", "run_study"]


@dataclass(frozen=True)
class Prospect:
    """A study made ready and compared with what the store has; nothing of it is done yet.

    Attributes
    ----------
    workers : int
        Processes that will share the work; on Ray the most, 0 for as many as fit.
    reaped : int
        Runs of dead processes that were marked KILLED on the way.
    on_ray : OnRay or None
        How it is to run on Ray; None runs it on this machine.
    """

    experiment: Experiment
    client: MlflowClient
    experiment_id: str
    plan: Plan
    workers: int
    reaped: int
    on_ray: OnRay | None = None

    def summary(self) -> str:
        """Return the plan in words: what the study is, what is there, what is left."""
        lines = _planned(self.experiment, self.plan, workers=self.workers, reaped=self.reaped)
        return "\n".join([*lines, f"  store         {shown_uri(self.client.tracking_uri)}"])

    def write(self, output: str) -> Path:
        """Write the resolved study and the manifests of its items into a folder."""
        return _written(self.experiment, output)


def prospect(
    study: Study,
    *,
    workers: int = 0,
    jobs: Callable[[Experiment], list[Job]] | None = None,
    train_only: bool = False,
    on_ray: OnRay | None = None,
) -> Prospect:
    """See that a study can be carried out, resolve it, open the store, reap dead runs and plan.

    Parameters
    ----------
    workers : int
        0 takes one per GPU, else one per core.
    jobs : callable, optional
        Chooses some of the study's jobs.
    train_only : bool
        Leave the evaluation of each adapter out.
    on_ray : OnRay, optional
        Run it on Ray, with ``workers`` at most.

    Raises
    ------
    Refused
        If the study names what does not exist, or cannot be carried out here.
    """
    _require_workers(workers)
    if needs_hub(study):
        preflight(outline(study))
    experiment = prepare(study)
    client = open_store()
    identity = experiment_id(client, study.name, writing=True)
    reaped = reap(client, identity)
    plan = make_plan(experiment, client, identity, jobs=jobs(experiment) if jobs else None, train_only=train_only)
    _require_names(experiment, client, plan)
    if on_ray is None:
        workers = workers or _own_workers(study, plan)
    return Prospect(experiment, client, identity, plan, workers, len(reaped), on_ray)


def rehearse(study: Study, *, workers: int = 0, output: str = "") -> str:
    """Say what a study is, what is left of it and what that will cost; the hub is left alone, the store as it is.

    Where bases or items are not at hand, this rests on names and on the catalogue of known models.

    Parameters
    ----------
    output : str
        Folder for the resolved study, and the manifests of its items if these are at hand; empty writes none.

    Raises
    ------
    Refused
        If the study names what does not exist.
    """
    _require_workers(workers)
    with offline():
        try:
            experiment = prepare(study)
            text = _by_fingerprints(experiment, workers)
        except Refused as reason:
            if not needs_hub(study):
                raise
            require_architectures(study.models, trust_remote_code=study.trust_remote_code)
            text = _by_names(outline(study), reason)
            folder = design_files.write_study(study, Path(output)) if output else None
        else:
            folder = _written(experiment, output) if output else None
    return f"{text}\n  written to {folder}" if folder else text


def _by_fingerprints(experiment: Experiment, workers: int) -> str:
    from registry.planning.estimate import estimate

    done = look_up(experiment.study.name)
    plan = plan_beside(done, experiment.jobs())
    if (client := present_store()) is not None:
        _require_names(experiment, client, plan)
    workers = workers or _own_workers(experiment.study, plan)
    lines = _planned(experiment, plan, workers=workers)
    if plan.todo:
        lines.append(console.cost(estimate(experiment, plan, done, workers=workers)))
    return "\n".join([*lines, f"  store         {shown_uri(tracking_uri())}"])


def _by_names(seen: Outline, reason: Refused) -> str:
    from registry.planning.forecast import forecast

    left = seen.left_in_all
    reached = {spec.name: reached_layers(seen.study, spec) for spec in seen.study.models}
    there = ", ".join(f"{count} {kind}" for kind, count in seen.recorded_count.items())
    return "\n".join(
        [
            console.grid(seen.study, sources=len(seen.sources), targets=len(seen.grid)),
            f"  by names      {reason}",
            f"  there already {there}, by names: whether they still hold is seen once bases and items are here",
            console.to_do(left.fine_tunes, left.evaluations, left.baselines),
            *coverage(reached),
            console.cost(forecast(seen)),
            f"  store         {shown_uri(tracking_uri())}",
        ]
    )


def _planned(experiment: Experiment, plan: Plan, *, workers: int, reaped: int = 0) -> list[str]:
    return [
        console.grid(experiment.study, sources=len(experiment.sources), targets=len(experiment.grid)),
        *console.plan(plan, workers=workers, reaped=reaped),
        *coverage({name: facts.matched for name, facts in experiment.facts.items()}),
    ]


def _written(experiment: Experiment, output: str) -> Path:
    with staged(Path(output), "study", is_former=_is_former) as staging:
        design_files.write_design(experiment, staging.folder, experiment.grid.tasks)
    return Path(output)


def _is_former(file: Path) -> bool:
    """Whether a file was written before a list of them was kept: then the study and its manifests are there."""
    return any((folder / "study.yaml").is_file() and (folder / "manifest").is_dir() for folder in file.parents[:2])


def _require_names(experiment: Experiment, client: MlflowClient, plan: Plan) -> None:
    """Refuse before any work what could not be registered under its name; full fine-tunes are not registered."""
    if not maker_of(experiment.study).registers:
        return
    require_distinct_names(experiment.bases, experiment.sources)
    require_free_names(client, [job for job, step in plan.todo if step.trains])


def _require_workers(workers: int) -> None:
    if workers < 0:
        raise Refused(f"workers={workers}: give a number of processes, or 0 for one per GPU or core")


def _own_workers(study: Study, plan: Plan) -> int:
    """Return how many processes a study has on this machine if nobody says."""
    return default_workers(study) if plan.todo else 1


def run_study(ready: Prospect) -> list[Failure]:
    """Do what a study has left, under a run of its own that holds the resolved study; nothing left records nothing."""
    if not ready.plan.todo:
        return []
    study = ready.experiment.study
    carried = {"workers": ready.workers or "all that fit", "runner": "ray" if ready.on_ray else "local"}
    with (
        _pool(ready) as pool,
        recorded(
            ready.client,
            ready.experiment_id,
            kind=Kind.STUDY,
            name=run_name(Kind.STUDY, study.name),
            tags={
                Tag.STUDY: study.name,
                Tag.PROTOCOL: ready.experiment.protocol,
                **copies_tags(ready.experiment.items),
            },
            params=design_files.parameters(study) | carried,
            description=descriptions.study(ready.experiment, ready.plan),
        ) as recording,
    ):
        with recording.folder() as folder:
            design_files.write_design(ready.experiment, folder, ready.experiment.grid.tasks)
        failures = _work_off(ready, pool)
        recording.metrics({JOBS_PLANNED: len(ready.plan.todo), JOBS_FAILED: len(failures)})
    end_strays(ready.client, ready.experiment_id)
    return failures


def carry_out(ready: Prospect) -> list[Failure]:
    """Do every job of a plan, with a progress bar, and return those that failed."""
    if not ready.plan.todo:
        return []
    with _pool(ready) as pool:
        return _work_off(ready, pool)


@contextmanager
def _pool(ready: Prospect) -> Iterator[Pool]:
    """Give the workers of a plan, once it is certain that they can do it."""
    place = (ready.client, ready.experiment_id)
    if ready.on_ray is None:
        yield local_pool(ready.experiment, ready.plan, *place, workers=ready.workers)
        return
    from registry.runner.on_ray.cluster import Cluster
    from registry.runner.on_ray.pool import RayPool

    with Cluster.opened(ready.on_ray) as cluster:
        fit = {node.id for node in cluster.require(ready.experiment, *place)}
        yield RayPool(ready.experiment, *place, cluster, ready.workers or len(ready.plan.todo), fit)


def _work_off(ready: Prospect, pool: Pool) -> list[Failure]:
    todo = ready.plan.todo
    with Board(len(todo), what=ready.experiment.study.name) as board:
        if isinstance(pool, InProcess) and len(todo) == 1:
            failures = pool.run_one(todo[0], board)
        else:
            failures = work_off(ready.experiment, ready.plan, pool, board)
    end_strays(ready.client, ready.experiment_id)
    return failures
