"""Which registered version is meant: by name and version or alias, by source cell, or the best for a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from registry.cells import Cell
from registry.deploy.best import best_for
from registry.deploy.versions import (
    alias_target,
    check_name,
    counting_versions,
    described,
    is_adapter,
    registered,
    version_of,
    versions_of,
)
from registry.errors import Refused
from registry.tracking.adapters import RegisteredAdapter
from registry.tracking.names import Kind, Tag, registered_model
from registry.tracking.store import all_runs, experiments, quoted

__all__ = ["ChosenVersion", "VersionQuery", "choose"]

_WAYS = (
    "name an adapter: -P name=<registered name> [-P version=<number or alias>]; or its source cell: -P model= -P task= "
    "-P language= [-P seed=]; or a target it is to be best for: -P best_for=<task>/<language> [-P model=]"
)


@dataclass(frozen=True, kw_only=True)
class VersionQuery:
    """What a user says of the adapter that is wanted; what is empty was not said.

    Attributes
    ----------
    name
        A registered name, or an address ``models:/<name>/<version>``, ``models:/<name>@<alias>``.
    version
        A number, an alias, or ``latest``.
    model, task, language, seed
        Base and source cell that it was trained on, and the seed.
    study
        Only versions and evaluations of this study.
    best_for
        Target ``task/language``.
    """

    name: str = ""
    version: str = ""
    model: str = ""
    task: str = ""
    language: str = ""
    seed: int | None = None
    study: str = ""
    best_for: str = ""


@dataclass(frozen=True)
class ChosenVersion:
    """A registered version, and what there is to say about the choice."""

    adapter: RegisteredAdapter
    tags: Mapping[str, str]
    run_id: str
    alias: str = ""
    notes: tuple[str, ...] = ()


def choose(client: MlflowClient, query: VersionQuery) -> ChosenVersion:
    """Find the version that is meant.

    Raises
    ------
    Refused
        If there is none, it is a full fine-tune, or what was said contradicts itself.
    """
    by_cell = any((query.model, query.task, query.language))
    if query.best_for:
        if query.name or query.version or query.task or query.language or query.seed is not None:
            raise Refused("best_for chooses among all sources and seeds: give at most model and study beside it")
        return _best(client, query)
    if query.name:
        if by_cell:
            raise Refused("name says which adapter; leave out model, task and language")
        return _by_name(client, query)
    if not by_cell:
        raise Refused(_WAYS)
    lacking = [part for part in ("model", "task", "language") if not getattr(query, part)]
    if lacking:
        raise Refused(f"a source cell of a base needs {', '.join(lacking)} too; {_WAYS}")
    return _by_cell(client, query)


def _best(client: MlflowClient, query: VersionQuery) -> ChosenVersion:
    found = best_for(client, _cell(*_split(query.best_for)), model=query.model, study=query.study)
    return _chosen(found.version, notes=found.notes)


def _by_name(client: MlflowClient, query: VersionQuery) -> ChosenVersion:
    name, version, alias = _parts(query)
    if name.startswith("m-") and not version and not alias and query.name.startswith("models:/"):
        return _by_model_id(client, name)
    check_name(name)
    return _one(client, query, name, version, alias)


def _one(
    client: MlflowClient,
    query: VersionQuery,
    name: str,
    number: str,
    alias: str,
    *,
    of: Mapping[str, str] | None = None,
) -> ChosenVersion:
    """Return the version of a number or an alias, or without either the newest that fits.

    Parameters
    ----------
    of
        Tags that say which base and source cell is meant; names of different ones may be the same once registered.
    """
    if not number and not alias:
        return _newest(client, query, name, of or {})
    version = alias_target(client, name, alias) if alias else version_of(client, name, number)
    if of and is_adapter(version) and not _has(version, of):
        raise _of_another(name, [version], of)
    if not _is_meant(version, query):
        raise Refused(f"{name}: version {described(version)} is not of the seed or study that was asked for")
    return _chosen(version, alias=alias)


def _parts(query: VersionQuery) -> tuple[str, str, str]:
    """Return name, version number and alias, as far as they were given."""
    name, version = query.name, query.version
    if name.startswith("models:"):
        name = name.removeprefix("models:").lstrip("/")
        name, slash, inside = name.partition("/") if "/" in name else name.partition("@")
        if slash and version:
            raise Refused(f"{query.name} names a version already; leave out version={version}")
        if slash == "@":
            return name, "", inside
        version = inside or version
    return name, *_number_or_alias(version)


def _number_or_alias(version: str) -> tuple[str, str]:
    if version == "latest":
        return "", ""
    return (version, "") if version.isdecimal() else ("", version)


def _newest(client: MlflowClient, query: VersionQuery, name: str, of: Mapping[str, str]) -> ChosenVersion:
    every = versions_of(client, name)
    adapters = [version for version in every if is_adapter(version)]
    mine = [version for version in adapters if _has(version, of)]
    if adapters and not mine:
        raise _of_another(name, adapters, of)
    _refuse_mixed(name, mine)
    versions, repeated = counting_versions(client, [version for version in mine if _is_meant(version, query)])
    if not versions:
        said = [f"{part} {value}" for part, value in (("seed", query.seed), ("study", query.study)) if value]
        there = "; ".join(map(described, every[:8])) or "none: all were deleted"
        raise Refused(f"{name} has no version of {' and '.join(said) or 'any kind'}; there are: {there}")
    newest, *others = versions
    notes = list(repeated)
    if len(adapters) < len(every):
        notes.append(f"{len(every) - len(adapters)} versions left out: they do not say what they are adapters of")
    if not others:
        return _chosen(newest, notes=notes)
    note = f"{len(versions)} versions fit; the newest is taken: {described(newest)}"
    listed = "; ".join(map(described, others[:8]))
    return _chosen(newest, notes=(note, f"others: {listed}; choose with -P name={name} -P version=<number>", *notes))


def _has(version: ModelVersion, of: Mapping[str, str]) -> bool:
    return all(version.tags.get(tag) == value for tag, value in of.items())


def _subject(tags: Mapping[str, str]) -> str:
    """Write base and source cell of a version."""
    return f"{tags[Tag.BASE_MODEL]} on {tags[Tag.SOURCE_TASK]}/{tags[Tag.SOURCE_LANGUAGE]}"


def _of_another(name: str, versions: Sequence[ModelVersion], of: Mapping[str, str]) -> Refused:
    there = sorted({_subject(version.tags) for version in versions})
    return Refused(
        f"{name} holds adapters of {' and '.join(there)}, not of {_subject(of)}: their registered names are the same"
    )


def _refuse_mixed(name: str, versions: Sequence[ModelVersion]) -> None:
    """Refuse to choose between adapters of different bases or cells."""
    there = sorted({_subject(version.tags) for version in versions})
    if len(there) > 1:
        raise Refused(
            f"{name} holds adapters of {' and '.join(there)}: their registered names are the same; say which is meant "
            "with -P model= -P task= -P language=, or name a version"
        )


def _is_meant(version: ModelVersion, query: VersionQuery) -> bool:
    wanted = {Tag.SEED: "" if query.seed is None else str(query.seed), Tag.STUDY: query.study}
    return all(version.tags.get(tag) == value for tag, value in wanted.items() if value)


def _by_cell(client: MlflowClient, query: VersionQuery) -> ChosenVersion:
    source = _cell(query.task, query.language)
    folder = Path(query.model).expanduser()
    model = folder.name if folder.is_dir() else query.model
    name = registered_model(model, source)
    check_name(name)
    try:
        registered(client, name)
    except Refused as error:
        _refuse_full(client, model, source)
        raise Refused(f"{error}; or train it first: -e finetune with the same parameters") from None
    of = {Tag.BASE_MODEL: model, Tag.SOURCE_TASK: source.task, Tag.SOURCE_LANGUAGE: source.language}
    return _one(client, query, name, *_number_or_alias(query.version), of=of)


def _refuse_full(client: MlflowClient, model: str, source: Cell) -> None:
    """Refuse where the fine-tunes of a base on a cell are full ones, which are registered nowhere."""
    wanted = {
        Tag.KIND: Kind.FINETUNE,
        Tag.BASE_MODEL: model,
        Tag.SOURCE_TASK: source.task,
        Tag.SOURCE_LANGUAGE: source.language,
    }
    found = " AND ".join(f"tags.{tag} = {quoted(value)}" for tag, value in wanted.items())
    runs = all_runs(client, experiments(client), f"{found} AND attributes.status = 'FINISHED'")
    tags = [run.data.tags for run in runs]
    whole = [one[Tag.MODEL_ID] for one in tags if Tag.MODEL_VERSION not in one and Tag.MODEL_ID in one]
    if whole:
        _refuse_whole(f"the fine-tune of {model} on {source}", whole[0])


def _refuse_whole(what: str, model_id: str) -> None:
    raise Refused(
        f"{what} is a full fine-tune: a whole model, no adapter. Copy it with `mlflow artifacts download "
        f"-u models:/{model_id} -d <folder>`, or with -e finetune, its study and -P output=; transformers and vLLM "
        "load that folder as it is"
    )


def _by_model_id(client: MlflowClient, model_id: str) -> ChosenVersion:
    """Find the version behind the address of a LoggedModel, ``models:/m-…``."""
    try:
        logged = client.get_logged_model(model_id)
    except MlflowException as error:
        raise Refused(f"there is no logged model {model_id}: {error.message}") from None
    if logged.model_type == "full-fine-tune":
        _refuse_whole(f"models:/{model_id}", model_id)
    for version in versions_of(client, logged.name):
        if version.source == f"models:/{model_id}":
            return _chosen(version)
    raise Refused(f"models:/{model_id} is registered as no version of {logged.name} (any more)")


def _split(text: str) -> Sequence[str]:
    task, _, language = text.partition("/")
    return task, language


def _cell(task: str, language: str) -> Cell:
    try:
        return Cell(task, language)
    except ValueError as error:
        raise Refused(f"{task}/{language} is no cell, written task/language: {error}") from None


def _chosen(version: ModelVersion, *, alias: str = "", notes: Sequence[str] = ()) -> ChosenVersion:
    if not is_adapter(version):
        raise Refused(
            f"models:/{version.name}/{version.version} is no adapter that this project recorded: its tags do not say "
            "of which base and source cell it is"
        )
    model_id = (version.source or "").removeprefix("models:/")
    adapter = RegisteredAdapter(version.name, str(version.version), model_id)
    return ChosenVersion(adapter, version.tags, version.run_id or "", alias, tuple(notes))
