"""Which files of a base are read: of its weights those that transformers loads, whatever else lies beside them.

Repositories hold the same weights several times over: whole and in shards, in other precisions and formats, as their
makers had them (``consolidated.safetensors``). Counted, digested and downloaded is what is loaded, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from registry.errors import Refused

__all__ = ["CONFIG", "decides", "folder_files", "folder_weights", "weight_files"]

CONFIG = "config.json"
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"

#: Files that loading reads: configuration, tokenizer (``.model`` and ``.txt`` are older kinds), chat template.
_READ = ("*.json", "*.model", "*.txt", "*.jinja")

#: Names among these that nothing reads: other forms of the weights, logs of a training, words for people.
_UNREAD = (
    "*.index.json", "*.index.*.json", "params.json", "trainer_state.json", "training_args.json", "*_results.json",
    "license*", "licence*", "notice*", "readme*", "requirements*.txt", "use_policy*",
)  # fmt: skip


def weight_files(read: Callable[[str], str | None], has: Callable[[str], bool]) -> tuple[str, ...]:
    """Return the names of the files that a base's weights are loaded from; none where transformers finds none.

    Parameters
    ----------
    read : callable
        Returns the text of a small file, None where there is none of that name.
    has : callable
        Whether there is a file of a name.

    Raises
    ------
    ValueError
        If a file is not as it should be.
    """
    named = _named(read(CONFIG))
    first = str(named) if named else _SINGLE if has(_SINGLE) else _INDEX
    if not first.endswith(".index.json"):
        return (first,) if has(first) else ()
    index = read(first)
    if index is None:
        return ()
    try:
        return tuple(sorted(set(json.loads(index)["weight_map"].values())))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{first} maps no weights to files ({type(error).__name__}: {error})") from None


def _named(config: str | None) -> object:
    """Return the file of the weights that a configuration names; one that is broken is refused where it is read."""
    try:
        content = json.loads(config or "{}")
    except ValueError:
        return None
    return content.get("transformers_weights") if isinstance(content, dict) else None


def folder_weights(folder: Path, name: str) -> list[Path]:
    """Return the files that the weights of a base in a folder are loaded from.

    Raises
    ------
    Refused
        If there are none, or one that the index names is not there.
    """

    def read(file: str) -> str | None:
        path = folder / file
        return path.read_text(encoding="utf-8") if path.is_file() else None

    try:
        files = weight_files(read, lambda file: (folder / file).is_file())
    except ValueError as error:
        raise Refused(f"model {name!r}: the weights in {folder} cannot be found: {error}") from None
    lacking = [file for file in files if not (folder / file).is_file()]
    if lacking:
        raise Refused(
            f"model {name!r}: {folder} lacks {', '.join(lacking[:3])}{' and more' if lacking[3:] else ''}, which its "
            "index of the weights names; copy what is missing there"
        )
    if not files:
        others = ", ".join(sorted(path.name for path in folder.glob("*.safetensors"))[:3])
        found = f"neither {_SINGLE} nor {_INDEX} (only {others})" if others else "no *.safetensors"
        raise Refused(f"model {name!r}: {folder} holds {found}; convert its weights with save_pretrained()")
    return [folder / file for file in files]


def folder_files(folder: Path, name: str) -> list[Path]:
    """Return every file of a base's folder that decides what is loaded from it, by name.

    Raises
    ------
    Refused
        As :func:`folder_weights`.
    """
    weights = folder_weights(folder, name)
    # The index decides which files the weights are in, unless all of them are in one.
    index = [] if [path.name for path in weights] == [_SINGLE] else [folder / _INDEX]
    others = [path for path in folder.iterdir() if decides(path.name) and path.is_file()]
    return sorted({*weights, *(path for path in index if path.is_file()), *others})


def decides(file: str) -> bool:
    """Whether a file in a base's own folder, other than its weights and their index, is read when it is loaded."""
    kinds = any(fnmatch(file, kind) for kind in _READ)
    return kinds and not any(fnmatch(file.lower(), kind) for kind in _UNREAD)
