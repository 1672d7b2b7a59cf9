"""What is recorded of an alias's moves, held against where the alias stands: a process may die between the two."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.mlflow_tags import MLFLOW_USER

from registry.tracking import names
from registry.tracking.liveness import is_silent
from registry.tracking.names import Kind, Tag
from registry.tracking.store import all_runs, experiments, quoted

__all__ = [
    "DEMOTED",
    "DEMOTING",
    "PASSED",
    "PENDING",
    "REFUSED",
    "AliasDifference",
    "complete",
    "differences",
    "history",
    "promotions",
    "unfinished_claims",
]

#: What was decided; the value of a promotion's tag ``verdict``.
PASSED, REFUSED, DEMOTED = "passed", "refused", "demoted"
#: The value while the alias is not known to have moved.
PENDING, DEMOTING = "pending", "pending demotion"

_RUN = re.compile(r"\brun ([0-9a-f]{32})\b")


@dataclass(frozen=True)
class AliasDifference:
    """An alias that stands elsewhere than its recorded moves say.

    Attributes
    ----------
    stands, recorded
        Version that carries the alias, and that should by the finished promotions; None for none.
    run
        The interrupted run that moved it; None where nothing recorded did.
    known
        Whether any promotion of the alias is recorded for the name.
    """

    name: str
    alias: str
    stands: str | None
    recorded: str | None
    run: Run | None
    known: bool


def promotions(client: MlflowClient, alias: str = "", experiment_id: str = "") -> list[Run]:
    """Return the runs of promotions and demotions that name what they decided of, the oldest first."""
    wanted = f"tags.{Tag.KIND} = '{Kind.PROMOTE}'" + (f" AND tags.{Tag.ALIAS} = {quoted(alias)}" if alias else "")
    runs = all_runs(client, [experiment_id] if experiment_id else experiments(client), wanted)
    needed = (Tag.ALIAS, Tag.VERDICT, Tag.MODEL_VERSION)
    there = [run for run in runs if all(run.data.tags.get(tag) for tag in needed)]
    return sorted(there, key=lambda run: (run.info.start_time, run.info.run_id))


def history(client: MlflowClient, experiment_id: str, name: str, alias: str) -> list[str]:
    """Return what was decided of an alias of a registered name, a line each, the newest first.

    A move that stands and whose run was interrupted before it said so is among them.
    """
    runs = [run for run in promotions(client, alias, experiment_id) if _concerns(run, name)]
    lines = [_line(run) for run in runs if _is_decided(run)]
    stands = client.get_registered_model(name).aliases.get(alias)
    cut_short = _interrupted(runs, name, alias, None if stands is None else str(stands))
    if cut_short is not None:
        lines.append(f"{_line(cut_short, _meant(cut_short))}, which was interrupted before it was finished")
    return lines[::-1]


def differences(aliases: Mapping[str, Mapping[str, str]], runs: Sequence[Run]) -> list[AliasDifference]:
    """Compare the aliases of registered names with what promotions recorded of them.

    Parameters
    ----------
    aliases
        By registered name, version by alias.
    runs
        Every promotion, the oldest first.
    """
    recorded = _recorded(runs)
    found = []
    for name, there in sorted(aliases.items()):
        for alias in sorted({*there, *(alias for other, alias in recorded if other == name)}):
            stands, wanted = there.get(alias), recorded.get((name, alias))
            if stands != wanted:
                cut_short = _interrupted(runs, name, alias, stands)
                found.append(AliasDifference(name, alias, stands, wanted, cut_short, (name, alias) in recorded))
    return found


def unfinished_claims(
    versions: Iterable[ModelVersion], aliases: Mapping[str, Mapping[str, str]], runs: Sequence[Run]
) -> list[tuple[ModelVersion, str]]:
    """Return versions whose tag says that an alias passed, by a run that never finished, with the alias.

    Parameters are as of :func:`differences`.
    """
    unfinished = {run.info.run_id for run in runs if run.info.status != "FINISHED" and not _is_alive(run)}
    found = []
    for version in versions:
        for tag, text in version.tags.items():
            alias = tag.removeprefix(names.promotion(""))
            by = _RUN.search(text) if alias != tag and text.startswith(PASSED) else None
            carried = aliases.get(version.name, {}).get(alias) == str(version.version)
            if by and by[1] in unfinished and not carried:
                found.append((version, alias))
    return found


def complete(client: MlflowClient, run: Run) -> None:
    """Finish an interrupted run whose move stands: what of it is left to do, and its record."""
    tags, decided = run.data.tags, _meant(run)
    name, _, version = tags[Tag.MODEL_VERSION].rpartition("/")
    for other, carried in _before(run).items():  # adapters of other sources, where they share the alias
        if other != name and str(client.get_registered_model(other).aliases.get(tags[Tag.ALIAS])) == carried:
            client.delete_registered_model_alias(other, tags[Tag.ALIAS])
    origin = f"{_when(run)} by {tags.get(MLFLOW_USER, 'unknown')}, run {run.info.run_id}"
    client.set_model_version_tag(name, version, names.promotion(tags[Tag.ALIAS]), f"{decided} ({origin}, completed)")
    client.set_tag(run.info.run_id, Tag.VERDICT, decided)
    client.set_terminated(run.info.run_id, "FINISHED")


def _recorded(runs: Iterable[Run]) -> dict[tuple[str, str], str | None]:
    """Return the version that carries each alias of each name by what was finished."""
    found: dict[tuple[str, str], str | None] = {}
    for run in filter(_is_decided, runs):
        tags = run.data.tags
        name, _, version = tags[Tag.MODEL_VERSION].rpartition("/")
        alias = tags[Tag.ALIAS]
        if tags[Tag.VERDICT] == PASSED:
            for other in _before(run):
                found[other, alias] = None  # adapters of other sources, where they share the alias
            found[name, alias] = version
        elif tags[Tag.VERDICT] == DEMOTED:
            found[name, alias] = None
    return found


def _interrupted(runs: Sequence[Run], name: str, alias: str, stands: str | None) -> Run | None:
    """Return the newest unfinished run that moved an alias to where it stands, if nothing was decided since."""
    for run in reversed(runs):
        tags = run.data.tags
        of, _, version = tags[Tag.MODEL_VERSION].rpartition("/")
        if tags[Tag.ALIAS] != alias or not _concerns(run, name):
            continue
        if _is_decided(run):
            if tags[Tag.VERDICT] == REFUSED:
                continue
            return None
        if _is_alive(run):
            continue
        after = None if of != name or _meant(run) == DEMOTED else version
        if stands == after and _before(run).get(name) != after:
            return run
    return None


def _is_decided(run: Run) -> bool:
    return run.info.status == "FINISHED" and run.data.tags[Tag.VERDICT] in (PASSED, REFUSED, DEMOTED)


def _is_alive(run: Run) -> bool:
    return run.info.status == "RUNNING" and not is_silent(run)


def _meant(run: Run) -> str:
    """Return what an unfinished run was to decide, given that the alias stands where it was to put it."""
    return DEMOTED if run.data.tags[Tag.VERDICT] in (DEMOTING, DEMOTED) else PASSED


def _before(run: Run) -> dict[str, str]:
    """Return who carried the alias before, version by registered name."""
    listed = [text.rpartition("/") for text in run.data.tags.get(Tag.ALIAS_BEFORE, "").split(", ") if text]
    return {name: version for name, _, version in listed}


def _concerns(run: Run, name: str) -> bool:
    return name in {run.data.tags[Tag.MODEL_VERSION].rpartition("/")[0], *_before(run)}


def _when(run: Run) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(run.info.start_time / 1000))


def _line(run: Run, decided: str = "") -> str:
    tags = run.data.tags
    before, version = tags.get(Tag.ALIAS_BEFORE) or "none", tags[Tag.MODEL_VERSION]
    moved = {
        PASSED: f"moved from {before} to {version}" if before != version else f"stays with {version}",
        REFUSED: f"refused to {version}, stays with {before}",
        DEMOTED: f"taken from {version}",
    }[decided or tags[Tag.VERDICT]]
    return f"{_when(run)}  {tags[Tag.ALIAS]} {moved}, by {tags.get(MLFLOW_USER, 'unknown')}, run {run.info.run_id}"
