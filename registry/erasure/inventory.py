"""What there is of a study or of one version, and what of it others refer to, which stays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mlflow import MlflowClient
from mlflow.entities import Experiment, LoggedModel, Run, ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from registry.errors import Refused, unknown
from registry.tracking.claims import claims_model
from registry.tracking.client import existing
from registry.tracking.liveness import is_silent
from registry.tracking.names import Kind, Tag
from registry.tracking.store import pages, quoted

__all__ = ["FORGOTTEN", "Inventory", "Subject", "take_inventory"]

#: Tag of an experiment on a server that is being erased: the study it was of.
FORGOTTEN = "forgotten_study"

_DEFAULT = "Default"


@dataclass(frozen=True)
class Subject:
    """What is to be erased: a study, or one version of a registered model."""

    study: str = ""
    name: str = ""
    version: str = ""

    def __str__(self) -> str:
        return self.study or f"{self.name}/{self.version}"


@dataclass
class Inventory:
    """What goes.

    Attributes
    ----------
    experiments
        Experiments that go as a whole.
    runs, models, versions
        Runs, logged models and registered versions that go.
    registered
        Registered models that go as a whole, because no other version of them is left.
    kept
        What would go, but others refer to it, each with who does.
    fingerprints
        Of trainings that go, whose checkpoints may lie on this machine.
    searches
        Names of searches for a recipe in Optuna's storage.
    read
        Ids of the experiments whose local caches hold something of it.
    """

    subject: Subject
    experiments: list[Experiment] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    models: dict[str, str] = field(default_factory=dict)  # id → address, empty where its record is gone
    versions: list[ModelVersion] = field(default_factory=list)
    registered: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    fingerprints: set[str] = field(default_factory=set)
    searches: set[str] = field(default_factory=set)
    read: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.experiments or self.runs or self.models or self.versions or self.registered)

    def addresses(self) -> Iterator[tuple[str, str]]:
        """Yield what the files of a run or model are known by, and their address."""
        for run in self.runs:
            yield run.info.run_id, run.info.artifact_uri
        yield from ((model, address) for model, address in self.models.items() if address)


def take_inventory(client: MlflowClient, subject: Subject) -> Inventory:
    """Find what goes with a study or a version.

    Raises
    ------
    Refused
        If a process is working on it.
    """
    every = list(pages(lambda token: client.search_model_versions("", max_results=1000, page_token=token)))
    experiments = _experiments(client)
    found = _of_version(client, subject, every) if subject.name else _of_study(client, subject, every, experiments)
    _refuse_busy(found)
    ours = {run.info.experiment_id for run in found.runs} | {one.experiment_id for one in found.experiments}
    left = [one for one in experiments if subject.name or one.experiment_id not in ours]
    _keep_what_others_refer_to(client, found, every, left)
    gone = {(version.name, str(version.version)) for version in found.versions}
    names = {version.name for version in found.versions} | _named(found.runs)
    there = _registered(client)
    staying = {version.name for version in every if (version.name, str(version.version)) not in gone}
    found.registered = sorted(name for name in names & there if name not in staying)
    claims = [claims_model(one.experiment_id) for one in found.experiments]
    found.registered += [name for name in claims if name in there]
    found.read = sorted(ours)
    return found


def _of_study(
    client: MlflowClient, subject: Subject, every: Iterable[ModelVersion], experiments: Sequence[Experiment]
) -> Inventory:
    mine = [one for one in experiments if subject.study in (one.name, one.tags.get(FORGOTTEN))]
    if subject.study == _DEFAULT:
        raise Refused("the experiment Default is MLflow's own, and no study's")
    ids = [one.experiment_id for one in mine]
    runs = _runs(client, ids)
    versions = [version for version in every if version.tags.get(Tag.STUDY) == subject.study]
    found = Inventory(subject, mine, runs, versions=versions)
    found.models = {model.model_id: model.artifact_location for model in _logged(client, ids)}
    for model in {run.data.tags[Tag.MODEL_ID] for run in runs if Tag.MODEL_ID in run.data.tags}:
        found.models.setdefault(model, _address(client, model))
    for version in versions:
        if model := _model_of(version):
            found.models.setdefault(model, _address(client, model))
    found.searches = {run.data.tags[Tag.TUNING] for run in runs if Tag.TUNING in run.data.tags}
    if not found:
        names = [one.name for one in experiments if one.name != _DEFAULT]
        raise unknown("study", subject.study, names, where="the store")
    return found


def _of_version(client: MlflowClient, subject: Subject, every: Iterable[ModelVersion]) -> Inventory:
    """A version, its files, the run that trained it and those that scored it."""
    there = {(one.name, str(one.version)): one for one in every}
    version = there.get((subject.name, subject.version))
    if version is None:
        raise unknown("version", str(subject), [f"{name}/{number}" for name, number in there], where="the store")
    found = Inventory(subject, versions=[version])
    model = _model_of(version)
    if model:
        found.models[model] = _address(client, model)
    own = existing(client.get_run, str(version.run_id))
    if own is None:
        return found
    scored = f"tags.{Tag.MODEL_VERSION} = {quoted(str(subject))}"
    found.runs = list(
        {run.info.run_id: run for run in [own, *_runs(client, [own.info.experiment_id], scored)]}.values()
    )
    return found


def _keep_what_others_refer_to(
    client: MlflowClient, found: Inventory, every: Iterable[ModelVersion], others: Sequence[Experiment]
) -> None:
    """Take out of an inventory what runs and versions that stay refer to, and what that itself needs."""
    going = {run.info.run_id for run in found.runs}
    names = {one.experiment_id: one.name for one in others}
    referred: dict[str, str] = {}
    elsewhere = _runs(client, list(names))
    for run in elsewhere:
        if run.info.run_id not in going and run.info.lifecycle_stage == "active":
            who = f"run {run.info.run_id} of {names[run.info.experiment_id]!r}"
            referred |= dict.fromkeys(_references(run), who)
    mine = {(version.name, str(version.version)) for version in found.versions}
    for version in every:
        if (version.name, str(version.version)) not in mine:
            who = f"version {version.name}/{version.version}"
            referred |= dict.fromkeys(filter(None, (_model_of(version), version.run_id)), who)
    for version in list(found.versions):
        key, model = f"{version.name}/{version.version}", _model_of(version)
        if reason := referred.get(key) or referred.get(model):
            found.versions.remove(version)
            found.kept[f"version {key}"] = reason
            referred |= dict.fromkeys(filter(None, (model, version.run_id)), f"version {key}, which stays")
    for model in [model for model in found.models if model in referred]:
        del found.models[model]
        found.kept[f"model {model}"] = referred[model]
    for run in [run for run in found.runs if run.info.run_id in referred]:
        found.runs.remove(run)
        found.kept[f"run {run.info.run_id} ({run.info.run_name})"] = referred[run.info.run_id]
    if found.kept:
        found.kept |= {f"experiment {one.name!r}": "what stays in it" for one in found.experiments}
        found.experiments = []
    trainings = (run for run in found.runs if run.data.tags.get(Tag.KIND) == Kind.FINETUNE)
    found.fingerprints = _fingerprints(trainings) - _fingerprints(
        run for run in elsewhere if run.info.run_id not in going
    )


def _references(run: Run) -> Iterator[str]:
    """Yield the runs, models and versions that a run names."""
    for tag in (Tag.MODEL_ID, Tag.MODEL_VERSION, Tag.FINETUNE_RUN, Tag.BASELINE_RUN, Tag.BEST_RUN):
        if tag in run.data.tags:
            yield run.data.tags[tag]
    if Tag.ALIAS_BEFORE in run.data.tags:
        yield run.data.tags[Tag.ALIAS_BEFORE]
    yield from (model.model_id for model in (run.inputs.model_inputs if run.inputs else []))


def _refuse_busy(found: Inventory) -> None:
    busy = [run for run in found.runs if run.info.status == "RUNNING" and run.info.lifecycle_stage == "active"]
    alive = [run for run in busy if not is_silent(run)]
    if alive:
        raise Refused(
            f"{found.subject}: {len(alive)} under way (run {alive[0].info.run_id}, {alive[0].info.run_name}).\n"
            "End them first; if they are dead: mlflow run . -e doctor --env-manager local "
            f"-P study={found.subject.study} -P repair=true"
        )


def _experiments(client: MlflowClient) -> list[Experiment]:
    return list(pages(lambda token: client.search_experiments(ViewType.ALL, max_results=1000, page_token=token)))


def _runs(client: MlflowClient, experiments: list[str], wanted: str = "") -> list[Run]:
    if not experiments:
        return []
    return list(
        pages(lambda token: client.search_runs(experiments, wanted, ViewType.ALL, max_results=1000, page_token=token))
    )


def _logged(client: MlflowClient, experiments: list[str]) -> list[LoggedModel]:
    if not experiments:
        return []
    return list(pages(lambda token: client.search_logged_models(experiments, max_results=100, page_token=token)))


def _registered(client: MlflowClient) -> set[str]:
    there = pages(lambda token: client.search_registered_models(max_results=1000, page_token=token))
    return {model.name for model in there}


def _model_of(version: ModelVersion) -> str:
    """Return the logged model behind a version."""
    source = str(version.source or "")
    return str(version.tags.get(Tag.MODEL_ID) or (source.removeprefix("models:/") if "models:/m-" in source else ""))


def _address(client: MlflowClient, model: str) -> str:
    try:
        return str(client.get_logged_model(model).artifact_location)
    except MlflowException:
        return ""


def _fingerprints(runs: Iterable[Run]) -> set[str]:
    return {run.data.tags[Tag.FINGERPRINT] for run in runs if Tag.FINGERPRINT in run.data.tags}


def _named(runs: Iterable[Run]) -> set[str]:
    """Return the registered models of the versions that runs name."""
    tags: Iterable[Mapping[str, str]] = (run.data.tags for run in runs)
    return {tag[Tag.MODEL_VERSION].rpartition("/")[0] for tag in tags if Tag.MODEL_VERSION in tag}
