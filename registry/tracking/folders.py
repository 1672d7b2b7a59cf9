"""What lies in a version's folder: which files, their digests, and what the ``MLmodel`` among them has MLflow load."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from registry.config.yaml_text import read_yaml
from registry.errors import Refused
from registry.files.adapter import CONFIG, WEIGHTS
from registry.files.outputs import MANIFEST, file_digest
from registry.tracking.names import Tag

__all__ = [
    "BACKUP",
    "DESCRIPTION",
    "FULL_LOADER",
    "LOADER",
    "META",
    "FilesMissing",
    "check_names",
    "check_places",
    "digest_tags",
    "digests_of",
    "files_digest",
    "files_of",
    "read_description",
    "weights_digest",
    "weights_of",
]

#: Module whose ``_load_pyfunc`` MLflow calls to serve an adapter, and a full fine-tune.
LOADER, FULL_LOADER = "registry.serving", "registry.serving_full"

#: MLflow's description of a model, and what it writes into every folder that it downloads for a registered version.
DESCRIPTION, META = "MLmodel", "registered_model_meta"

_NAMES = frozenset({CONFIG, WEIGHTS, DESCRIPTION, "conda.yaml", "README.md"})
_FULL_NAMES = frozenset({DESCRIPTION, "conda.yaml", "README.md"})
_FULL_KINDS = frozenset({".json", ".safetensors", ".model", ".txt", ".jinja"})

#: Keys of MLflow's flavour that name code or pickles to load; a study writes none.
_CODE = ("code", "data", "model_code_path", "python_model", "cloudpickle_version", "artifacts")

#: What mends files that are not those recorded.
BACKUP = "put the recorded files back from a backup"


class FilesMissing(Refused):
    """Files of an adapter, or of a full fine-tune, are not in the artifact store.

    Attributes
    ----------
    weights : bool
        Whether its weights are among them.
    """

    def __init__(self, message: str, *, weights: bool) -> None:
        super().__init__(message)
        self.weights = weights


def check_places(folder: Path, uri: str) -> None:
    """Refuse links in a folder of artifacts on this machine, which a download would follow to other files.

    Raises
    ------
    Refused
        With the link's name.
    """
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink() and (path != folder):
            raise Refused(f"{uri}: {path.relative_to(folder)} in its folder is a link to elsewhere; {BACKUP}")


def digests_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder by its name, but for what MLflow adds to a download."""
    return {name: file_digest(folder / name) for name in files_of(folder)}


def digest_tags(folder: Path) -> dict[str, str]:
    """Return the tags of a run that say what its folder holds."""
    found = digests_of(folder)
    return {Tag.DIGEST: weights_of(found), Tag.FILES_DIGEST: files_digest(found)}


def files_digest(found: Mapping[str, str]) -> str:
    """SHA-256 over the names and digests of a folder's files."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(found.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def weights_digest(folder: Path) -> str:
    """SHA-256 of the one safetensors file of a folder, or over those of its files in the order of their names."""
    return weights_of({path.name: file_digest(path) for path in folder.glob("*.safetensors")})


def weights_of(found: Mapping[str, str]) -> str:
    """Return :func:`weights_digest` from the digests of a folder's files."""
    weights = [found[name] for name in sorted(found) if name.endswith(".safetensors") and "/" not in name]
    return weights[0] if len(weights) == 1 else hashlib.sha256("".join(weights).encode()).hexdigest()


def files_of(folder: Path) -> list[str]:
    """Return the names of a folder's files, but for what MLflow, or a command that downloads, adds to them."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    return [name for name in names if name not in (META, MANIFEST)]


def check_names(folder: Path, found: Collection[str], *, full: bool, known: bool) -> None:
    """Refuse links and files that a study never writes; of a full fine-tune, unless their digest is ``known``."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise Refused(f"{path.relative_to(folder)} is no plain file")
    needed = {DESCRIPTION} if full else {DESCRIPTION, CONFIG, WEIGHTS}
    lacking = sorted(needed - set(found))
    if full and not any(name.endswith(".safetensors") for name in found):
        lacking.append("weights")
    if lacking:
        raise FilesMissing(
            f"{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} gone from the artifact store; "
            "put the files back from a backup, or train it again",
            weights=not {WEIGHTS, "weights"}.isdisjoint(lacking),
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
        foreign = others[0] if others else named[0] if named else function.get("loader_module")
        raise Refused(f"{DESCRIPTION} names foreign code to load it with ({str(foreign)[:80]!r}), not {loader}")
    metadata: Mapping[str, Any] = content["metadata"]
    return metadata
