"""Registered names of a study's adapters: no two pairs of base and source cell may share one, nor take another's.

MLflow allows neither ``/`` nor ``:`` in a registered name, so ``own/er`` and ``own-er`` come out the same; so may a
base that ends as a task begins, since ``--`` joins them. Names that differ in case alone are one to some databases and
to the file systems that adapters are pulled to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel

from registry.cells import Cell
from registry.errors import Refused
from registry.planning.experiment import Job
from registry.tracking.adapters import require_own_name
from registry.tracking.names import Tag, registered_model
from registry.tracking.store import pages

__all__ = ["require_distinct_names", "require_free_names"]

_ONE_BY_ONE = 8  # names that are asked for singly; of more, all of the store are listed


def require_distinct_names(models: Iterable[str], sources: Iterable[Cell]) -> None:
    """Refuse bases and source cells of one study whose adapters would share a registered name.

    Raises
    ------
    Refused
        With two of them.
    """
    cells = list(sources)
    seen: dict[str, tuple[str, Cell]] = {}
    for pair in ((model, cell) for model in models for cell in cells):
        name = registered_model(*pair)
        other = seen.setdefault(name.casefold(), pair)
        if other != pair:
            raise Refused(
                f"models: adapters of {other[0]} on {other[1]} and of {pair[0]} on {pair[1]} would share the "
                f"registered name {name}; give one base another name: {{name: <another>, path: <folder of the base>}}"
            )


def require_free_names(client: MlflowClient, jobs: Iterable[Job]) -> None:
    """Refuse to train adapters whose registered name the store has for another base or source cell.

    Raises
    ------
    Refused
        With the name, and whose it is.
    """
    wanted = {registered_model(job.model, job.source_cell): job for job in jobs}
    there = _registered(client, wanted) if wanted else {}
    for name, job in wanted.items():
        ours = {
            Tag.BASE_MODEL: job.model,
            Tag.SOURCE_TASK: job.source_cell.task,
            Tag.SOURCE_LANGUAGE: job.source_cell.language,
        }
        if name in there:
            require_own_name(name, there[name].tags, ours)
            continue
        for other, model in there.items():
            if other.casefold() == name.casefold():
                require_own_name(other, model.tags, ours)


def _registered(client: MlflowClient, wanted: Mapping[str, Job]) -> dict[str, RegisteredModel]:
    """Return the registered models whose names are among those wanted, whatever their case."""
    lowered = {name.casefold() for name in wanted}
    filters = [f"name ILIKE '{name}'" for name in wanted] if len(wanted) <= _ONE_BY_ONE else [""]
    found = (
        model
        for condition in filters
        for model in pages(
            lambda token, condition=condition: client.search_registered_models(  # type: ignore[misc]
                condition, max_results=1000, page_token=token
            )
        )
    )
    return {model.name: model for model in found if model.name.casefold() in lowered}
