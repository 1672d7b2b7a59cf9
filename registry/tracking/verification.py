"""Whether a version's folder is what the run that trained it recorded: decided here, for whoever loads one.

Three things are held against each other: the folder, the tags of the version, and tags and parameters of its training
run. Versions of before there was a digest over all files have one of their weights alone; of their other files, those
that decide a result are compared with what their run recorded.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from registry.adapterfiles import CONFIG, WEIGHTS, AdapterConfig, check_weights, read_config
from registry.models import BUILT_IN, hub_revision
from registry.refusal import Refused
from registry.tracking.names import Kind, Tag
from registry.yamltext import read_yaml

__all__ = [
    "DESCRIPTION",
    "FULL_LOADER",
    "LOADER",
    "META",
    "Recorded",
    "check_folder",
    "check_places",
    "check_recipe",
    "digest_tags",
    "on_record",
    "read_description",
    "run_of",
    "verify",
    "weights_digest",
]

_log = logging.getLogger(__name__)

#: Module whose ``_load_pyfunc`` MLflow calls to serve an adapter, and a full fine-tune.
LOADER, FULL_LOADER = "registry.serving", "registry.serving_full"

#: MLflow's description of a model, and what it writes into every folder that it downloads for a registered version.
DESCRIPTION, META = "MLmodel", "registered_model_meta"

_NAMES = frozenset({CONFIG, WEIGHTS, DESCRIPTION, "conda.yaml", "README.md"})
_FULL_NAMES = frozenset({DESCRIPTION, "conda.yaml", "README.md"})
_FULL_KINDS = frozenset({".json", ".safetensors", ".model", ".txt", ".jinja"})

#: Keys of MLflow's flavour that name code or pickles to load; a study writes none.
_CODE = ("code", "data", "model_code_path", "python_model", "cloudpickle_version", "artifacts")

_SHARED = (Tag.BASE_MODEL, Tag.BASE_REVISION, Tag.SOURCE_TASK, Tag.SOURCE_LANGUAGE, Tag.SEED)
_WAYS = ("precision", "quantization", "chat_template")  # of training and asking; of the MLmodel and of runs
_BACKUP = "put the recorded files back from a backup"


@dataclass(frozen=True)
class Recorded:
    """What is on record of a version, or of a full fine-tune.

    Attributes
    ----------
    uri
        What to call it in errors.
    tags
        Its own.
    run_tags, params
        Of the run that trained it; empty where that run was removed for good.
    full
        Whether it is a full fine-tune: a whole model's folder.
    """

    uri: str
    tags: Mapping[str, str]
    run_tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    full: bool = False

    def tag(self, name: str) -> str | None:
        """Return what the training run says, or where it does not, the version.

        Raises
        ------
        Refused
            If they say different things.
        """
        own, of_run = self.tags.get(name), self.run_tags.get(name)
        if own is not None and of_run is not None and own != of_run:
            raise Refused(
                f"{self.uri} has the tag {name}: {own[:80]}, and its training run {of_run[:80]}; one of them was "
                "changed, so nothing says what was trained"
            )
        return own if of_run is None else of_run

    @property
    def weights(self) -> str:
        """SHA-256 of its weights."""
        digest = self.tag(Tag.DIGEST)
        if digest is None:
            raise Refused(f"{self.uri} has no digest of its weights on record; no study of this project registered it")
        return digest


def on_record(client: MlflowClient, name: str, version: str, *, run: Run | None = None) -> Recorded:
    """Look up what is recorded of a registered version.

    Parameters
    ----------
    run
        The training run that names the version; by default the one that the version names.

    Raises
    ------
    Refused
        If it names no training run, or another than the one given.
    """
    found, uri = client.get_model_version(name, version), f"models:/{name}/{version}"
    if not found.run_id:
        raise Refused(f"{uri} is not an adapter that was registered by a study: it names no training run")
    if run is not None and run.info.run_id != found.run_id:
        raise Refused(f"run {run.info.run_id} names {uri}, which run {found.run_id} registered; its tags were changed")
    trained = run or run_of(client, found.run_id)
    if trained is None:
        return Recorded(uri, found.tags)
    if trained.data.tags.get(Tag.KIND) != Kind.FINETUNE:
        raise Refused(f"{uri} was not registered by a study: run {found.run_id}, which it names, trained nothing")
    return Recorded(uri, found.tags, trained.data.tags, trained.data.params)


def run_of(client: MlflowClient, run_id: str) -> Run | None:
    """Return a run; None where it was removed for good, which a version outlives."""
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def check_places(folder: Path, uri: str) -> None:
    """Refuse links in a folder of artifacts on this machine, which a download would follow to other files.

    Raises
    ------
    Refused
        With the link's name.
    """
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink() and (path != folder):
            raise Refused(f"{uri}: {path.relative_to(folder)} in its folder is a link to elsewhere; {_BACKUP}")


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder by its name, but for what MLflow adds to a download."""
    return {name: _digest(folder / name) for name in _files(folder)}


def digest_tags(folder: Path) -> dict[str, str]:
    """Return the tags of a run that say what its folder holds."""
    found = _digests(folder)
    return {Tag.DIGEST: _weights(found), Tag.FILES_DIGEST: _all(found)}


def _all(found: Mapping[str, str]) -> str:
    """SHA-256 over the names and digests of a folder's files."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(found.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def weights_digest(folder: Path) -> str:
    """SHA-256 of the one safetensors file of a folder, or over those of its files in the order of their names."""
    return _weights({path.name: _digest(path) for path in folder.glob("*.safetensors")})


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _weights(found: Mapping[str, str]) -> str:
    weights = [found[name] for name in sorted(found) if name.endswith(".safetensors") and "/" not in name]
    return weights[0] if len(weights) == 1 else hashlib.sha256("".join(weights).encode()).hexdigest()


def verify(folder: Path, recorded: Recorded) -> None:
    """See that a folder is what was recorded; where the training run was removed, that is logged.

    Raises
    ------
    Refused
        If not, with what differs.
    """
    if not recorded.run_tags:
        _log.warning("%s: the run that trained it was removed; only its own tags say what it is", recorded.uri)
    try:
        found, wanted = _digests(folder), recorded.tag(Tag.FILES_DIGEST)
        _check_names(folder, found, full=recorded.full, known=wanted is not None)
        if _weights(found) != recorded.weights:
            raise Refused(f"its weights have SHA-256 {_weights(found)}, {recorded.weights} was recorded")
        _check_description(read_description(folder, full=recorded.full), recorded)
        if not recorded.full:
            check_recipe(read_config(folder), recorded)
        if wanted is not None and _all(found) != wanted:
            raise Refused(f"its files have SHA-256 {_all(found)} in all, {wanted} was recorded")
        if not recorded.full:
            check_weights(folder, read_config(folder).spec)
    except Refused as error:
        reason = str(error).removeprefix(f"{recorded.uri}: ")
        named = reason if reason.startswith(recorded.uri) else f"{recorded.uri}: {reason}"
        raise Refused(named if "gone from" in reason else f"{named}; {_BACKUP}") from None


def check_folder(folder: Path, *, full: bool = False) -> None:
    """See that a folder is one that a study wrote, as far as the folder alone can tell.

    Raises
    ------
    Refused
        If it holds something else, or would have foreign code loaded.
    """
    try:
        _check_names(folder, _files(folder), full=full, known=full)
        read_description(folder, full=full)
        if not full:
            check_weights(folder, read_config(folder).spec)
    except Refused as error:
        raise Refused(f"{folder}: {error}") from None


def _files(folder: Path) -> list[str]:
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    return [name for name in names if name != META]


def _check_names(folder: Path, found: Collection[str], *, full: bool, known: bool) -> None:
    """Refuse links and files that a study never writes; of a full fine-tune, unless their digest is ``known``."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise Refused(f"{path.relative_to(folder)} is no plain file")
    needed = {DESCRIPTION} if full else {DESCRIPTION, CONFIG, WEIGHTS}
    lacking = sorted(needed - set(found))
    if full and not any(name.endswith(".safetensors") for name in found):
        lacking.append("weights")
    if lacking:
        raise Refused(
            f"{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} gone from the artifact store; "
            "put the files back from a backup, or train it again"
        )
    if full and known:
        return
    strange = sorted(name for name in found if not (_is_of_full(name) if full else name in _NAMES))
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise Refused(f"{strange[0]!r}{more} in its folder is no file that a study writes")


def _is_of_full(name: str) -> bool:
    return name in _FULL_NAMES or Path(name).suffix in _FULL_KINDS


def read_description(folder: Path, *, full: bool = False) -> Mapping[str, Any]:
    """Read the metadata of a folder's ``MLmodel``.

    Raises
    ------
    Refused
        If it is malformed, or names another loader than this project's: MLflow would run that code.
    """
    try:
        _, content = read_yaml(folder / DESCRIPTION)
    except Refused as error:
        raise Refused(str(error).replace(str(folder / DESCRIPTION), DESCRIPTION)) from None
    flavors = content.get("flavors") if isinstance(content, dict) else None
    function = flavors.get("python_function") if isinstance(flavors, dict) else None
    if flavors is None or not isinstance(function, dict) or not isinstance(content.get("metadata"), dict):
        raise Refused(f"{DESCRIPTION} is not what a study of this project writes")
    loader = FULL_LOADER if full else LOADER
    others = [str(name) for name in flavors if name != "python_function"]
    named = [key for key in _CODE if function.get(key) is not None]
    if function.get("loader_module") != loader or others or named:
        told = others[0] if others else named[0] if named else function.get("loader_module")
        raise Refused(f"{DESCRIPTION} names foreign code to load it with ({str(told)[:80]!r}), not {loader}")
    metadata: Mapping[str, Any] = content["metadata"]
    return metadata


def _check_description(metadata: Mapping[str, Any], recorded: Recorded) -> None:
    """Hold what the ``MLmodel`` says of the adapter against what is recorded of it."""
    base = metadata.get("base")
    if not isinstance(base, dict):
        raise Refused(f"{DESCRIPTION} names no base")
    task, language = recorded.tag(Tag.SOURCE_TASK), recorded.tag(Tag.SOURCE_LANGUAGE)
    pairs = [
        ("base", base.get("name"), recorded.tag(Tag.BASE_MODEL)),
        ("base revision", base.get("revision"), recorded.tag(Tag.BASE_REVISION)),
        ("source", metadata.get("source"), None if task is None else f"{task}/{language}"),
        # Adapters registered before there was one of these choices do not say it.
        *((name, metadata[name], recorded.params.get(name)) for name in _WAYS if name in metadata),
    ]
    for name, told, wanted in pairs:
        if wanted is not None and str(told) != wanted:
            raise Refused(f"{DESCRIPTION} says {name} {str(told)[:80]!r}, {wanted!r} was recorded")


def check_recipe(config: AdapterConfig, recorded: Recorded) -> None:
    """Hold an adapter's configuration against the recipe and the base that its run recorded; refuse if they differ."""
    spec, params = config.spec, recorded.params
    numbers = (("r", spec.rank, "lora.rank"), ("lora_alpha", spec.alpha, "lora.alpha"),
               ("lora_dropout", spec.dropout, "lora.dropout"))  # fmt: skip
    for key, told, parameter in numbers:
        if (wanted := params.get(parameter)) is not None and not _equal(told, wanted):
            raise Refused(f"its {CONFIG} says {key} {told:g}, {wanted} was recorded")
    targets = params.get("lora.targets")
    if targets is not None and set(spec.targets) != set(targets.split(",")):
        raise Refused(f"its {CONFIG} says target_modules {','.join(spec.targets)[:200]}, {targets} was recorded")
    for tag in _SHARED:
        recorded.tag(tag)
    name, revision = recorded.tag(Tag.BASE_MODEL), recorded.tag(Tag.BASE_REVISION)
    if name is not None and config.base not in (name, BUILT_IN.get(name)):
        raise Refused(f"its {CONFIG} says base {config.base[:80]!r}, {name!r} was recorded")
    if revision is not None and config.revision != hub_revision(revision):
        raise Refused(f"its {CONFIG} says revision {config.revision}, {revision} was recorded")


def _equal(told: float, wanted: str) -> bool:
    try:
        return math.isclose(told, float(wanted), rel_tol=1e-12)
    except ValueError:
        return False
