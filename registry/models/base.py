"""Base models: name, family, size, revision, and their modules without weights.

A model's family and size are decided here and nowhere else: given in the study, else from the catalogue of known
models, else read from the model's own configuration.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from registry.config.study import BaseSpec
from registry.errors import Refused, unknown
from registry.models.architecture import UNLIMITED, auto_class, brief, longest_input, skeleton
from registry.models.catalogue import PAPER
from registry.models.hub import HubUnavailable, cached_weights, commit_of
from registry.models.weight_files import folder_files, folder_weights
from registry.paths import PROJECT, resolved_path

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = [
    "BUILT_IN",
    "PAPER",
    "Base",
    "base_folder",
    "hub_revision",
    "known_models",
    "require_architectures",
    "resolve_base",
    "resolve_bases",
    "skeleton_of",
    "trained_base",
]

_Found = TypeVar("_Found")

#: The two bases of the built-in grid, by folder relative to the project's; see their model cards.
BUILT_IN = {name: f"registry/benchmarks/demo/bases/{name}" for name in ("demo-wide", "demo-deep")}

#: Family and size of every model whose configuration is not asked for them.
KNOWN = {name: (model.family, model.size_b) for name, model in PAPER.items()} | {
    "demo-wide": ("Demo-wide", 0.001096),
    "demo-deep": ("Demo-deep", 0.001107),
}


@dataclass(frozen=True, slots=True)
class Base:
    """A base model that exists.

    Attributes
    ----------
    name : str
        As the study calls it; the tag ``base_model``.
    reference : str
        What an adapter's ``base_model_name_or_path`` says: the hub id, or for the built-in bases a path relative to
        the project's folder, so that no machine's path is frozen in.
    location : str
        What ``from_pretrained`` is given here: the hub id or the folder.
    revision : str
        Commit on the hub; for a folder ``sha256:`` and the digest of its configuration, tokenizer and weights.
    family : str
    size_b : float
        Billions of parameters.
    max_positions : int
        Longest input in tokens; :data:`registry.models.architecture.UNLIMITED` where neither model nor tokenizer has
        a limit.
    """

    name: str
    reference: str
    location: str
    revision: str
    family: str
    size_b: float
    max_positions: int
    trust_remote_code: bool = False

    @property
    def hub_revision(self) -> str | None:
        """The revision to ask the hub for; None for a folder."""
        return hub_revision(self.revision)

    def skeleton(self) -> PreTrainedModel:
        """Build its modules without memory for its weights."""
        return skeleton(self._config(), self.name, trust_remote_code=self.trust_remote_code)

    def loader(self) -> type[Any]:
        """Return the class of transformers that loads it, such as ``AutoModelForCausalLM``."""
        return cast("type[Any]", auto_class(self._config(), self.name))

    def _config(self) -> PreTrainedConfig:
        trust = self.trust_remote_code
        return _read_config(self.location, self.hub_revision, self.name, trust_remote_code=trust)


def hub_revision(revision: str) -> str | None:
    """Return the revision to ask the hub for; None for a folder, whose revision is a digest."""
    return None if revision.startswith("sha256:") else revision


def known_models() -> list[str]:
    """Names that need neither a path nor a hub owner."""
    return sorted(BUILT_IN)


def resolve_base(spec: BaseSpec, *, trust_remote_code: bool = False) -> Base:
    """Find a base model and read its revision, family and size, without loading its weights.

    Raises
    ------
    Refused
        If the name is neither built in, nor a hub id ``owner/name``, nor given with the ``path`` of a model's folder.
    """
    folder = base_folder(spec)
    if folder is not None:
        location, revision = str(folder), _folder_digest(folder, spec.name)
        reference = BUILT_IN[spec.name] if spec.path is None and spec.name in BUILT_IN else spec.name
    else:
        location, reference = spec.name, spec.name
        revision = commit_of(spec.name, spec.revision)
    asked = None if folder else revision
    config = _read_config(location, asked, spec.name, trust_remote_code=trust_remote_code)
    modules = skeleton(config, spec.name, trust_remote_code=trust_remote_code)
    known = KNOWN.get(spec.name)
    return Base(
        name=spec.name,
        reference=reference,
        location=location,
        revision=revision,
        family=spec.family or (known[0] if known else config.model_type),
        size_b=spec.size_b or (known[1] if known else _billions(location, asked)),
        max_positions=_positions(modules, location, asked, trust_remote_code=trust_remote_code),
        trust_remote_code=trust_remote_code,
    )


def resolve_bases(specs: Iterable[BaseSpec], *, trust_remote_code: bool = False) -> dict[str, Base]:
    """Find every base of a study, by name.

    Raises
    ------
    HubUnavailable
        If one is out of reach and nothing is wrong with the others.
    Refused
        With a line for each base that cannot be used.
    """
    return _each(specs, lambda spec: resolve_base(spec, trust_remote_code=trust_remote_code))


def require_architectures(specs: Iterable[BaseSpec], *, trust_remote_code: bool = False) -> None:
    """Refuse bases that transformers cannot run here as causal language models; those out of reach are left alone.

    Raises
    ------
    Refused
        With a line for each.
    """
    with suppress(HubUnavailable):
        _each(specs, lambda spec: skeleton_of(spec, trust_remote_code=trust_remote_code))


def _each(specs: Iterable[BaseSpec], find: Callable[[BaseSpec], _Found]) -> dict[str, _Found]:
    """Find something for every base; what is wrong with several is said at once."""
    found: dict[str, _Found] = {}
    problems: list[Refused] = []
    for spec in specs:
        try:
            found[spec.name] = find(spec)
        except Refused as error:
            problems.append(error)
    wrong = [error for error in problems if not isinstance(error, HubUnavailable)]
    if len(wrong) > 1:
        raise Refused("\n  - ".join([f"{len(wrong)} base models cannot be used:", *map(str, wrong)]))
    if problems:
        raise (wrong or problems)[0]
    return found


def trained_base(name: str, revision: str, folder: str = "", *, hint: str = "", remedy: str) -> Base:
    """Find the base that an adapter was trained on.

    Parameters
    ----------
    name, revision
        What the adapter's ``MLmodel`` says of its base.
    folder
        Where it lies, for a base that is neither built in nor on the hub.
    hint
        Folder that held it when the adapter was trained; used where ``folder`` is empty, and only if what is there
        now has the digest that was trained on.
    remedy
        How the caller names that folder, for the refusal.

    Raises
    ------
    Refused
        If it is not here, or another revision is.
    """
    wanted = hub_revision(revision)
    if wanted is None and not folder and (hint or name not in BUILT_IN):
        folder = _former_folder(name, hint, remedy)
    try:
        base = resolve_base(BaseSpec(name=name, path=folder or None, revision=wanted))
    except Refused as error:
        raise Refused(f"{error}; the base of this adapter is {name!r}: {remedy}") from None
    if base.revision != revision and not (folder and wanted):  # a downloaded copy of a hub's commit has no commit
        place = f"the base {name!r} here" if not folder else f"the base {name!r} in {folder}"
        raise Refused(f"{place} is {base.revision}; this adapter was trained on {revision}: {remedy}")
    return base


def _former_folder(name: str, hint: str, remedy: str) -> str:
    """Return the folder that held a base when an adapter was trained, if a model is there still."""
    if not hint:
        raise Refused(f"the base {name!r} of this adapter is a folder, and which one is not recorded: {remedy}")
    if not (Path(hint) / "config.json").is_file():
        raise Refused(f"the base {name!r} of this adapter was in {hint}, where no model is now: {remedy}")
    return hint


def base_folder(spec: BaseSpec) -> Path | None:
    """Return the folder of a base that lies on this machine, None for one of the hub.

    Raises
    ------
    Refused
        If the folder holds no model, or a name without a folder is neither built in nor a hub id ``owner/name``.
    """
    if spec.path is not None:
        folder = resolved_path(spec.path)
    elif spec.name in BUILT_IN:
        folder = PROJECT / BUILT_IN[spec.name]
    elif "/" in spec.name:
        return None
    else:
        raise unknown("model", spec.name, KNOWN, where="models")
    if not (folder / "config.json").is_file():
        raise Refused(f"model {spec.name!r}: {folder} holds no config.json, so it is no model's folder")
    if (folder / "adapter_config.json").is_file():
        raise Refused(
            f"model {spec.name!r}: {folder} holds adapter_config.json, so transformers would load the base that it "
            "names, under its adapter; name that base, or a folder with the adapter merged in"
        )
    folder_weights(folder, spec.name)
    return folder


def _folder_digest(folder: Path, name: str) -> str:
    digest = hashlib.sha256()
    for path in folder_files(folder, name):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"


def _read_config(location: str, revision: str | None, name: str, *, trust_remote_code: bool) -> PreTrainedConfig:
    """Read a model's configuration as transformers completes it.

    Raises
    ------
    HubUnavailable
        If the file cannot be read.
    Refused
        If transformers does not know the architecture, or the file is no valid configuration of it.
    """
    from transformers import AutoConfig

    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            location, revision=revision, trust_remote_code=trust_remote_code
        )
    except OSError as error:
        raise HubUnavailable(f"model {name!r}: its configuration cannot be read: {error}") from None
    except Exception as error:  # each architecture checks its fields in its own way
        raise Refused(f"model {name!r}: its config.json is not one that transformers can use: {brief(error)}") from None
    return config


def _positions(model: PreTrainedModel, location: str, revision: str | None, *, trust_remote_code: bool) -> int:
    """Return the longest input in tokens: of the architecture, else of the tokenizer, else without a limit."""
    found = longest_input(model)
    if found is not None:
        return found
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(location, revision=revision, trust_remote_code=trust_remote_code)
    except (ImportError, KeyError, OSError, ValueError):  # whoever needs the tokenizer says so in words of its own
        return UNLIMITED
    limit = tokenizer.model_max_length
    return int(limit) if limit < UNLIMITED else UNLIMITED  # transformers spells "no limit" as 10^30


def _billions(location: str, revision: str | None) -> float:
    """Count a model's parameters, in billions, without loading them."""
    from huggingface_hub import get_safetensors_metadata

    files = folder_weights(Path(location), location) if revision is None else cached_weights(location, revision)
    if revision is None or files:
        return _counted(files)
    try:
        counts = get_safetensors_metadata(location, revision=revision).parameter_count
    except OSError as error:
        raise HubUnavailable(
            f"model {location!r}: its size cannot be asked for ({error}); give it as size_b, in billions of parameters"
        ) from None
    return round(sum(counts.values()) / 1e9, 6)


def _counted(files: Iterable[Path]) -> float:
    from safetensors import safe_open

    count = 0
    for file in files:
        with safe_open(file, framework="numpy") as tensors:
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return round(count / 1e9, 6)


def skeleton_of(spec: BaseSpec, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """Build the modules of a base that need not be at hand: from the catalogue, else from its configuration.

    Raises
    ------
    HubUnavailable
        If the base is not in the catalogue and its configuration cannot be read.
    Refused
        If it is no causal language model, or transformers cannot build it here.
    """
    folder = base_folder(spec)
    if folder is None and spec.name in PAPER:
        return skeleton(PAPER[spec.name].config(), spec.name)
    location = str(folder or spec.name)
    config = _read_config(location, spec.revision, spec.name, trust_remote_code=trust_remote_code)
    return skeleton(config, spec.name, trust_remote_code=trust_remote_code)
