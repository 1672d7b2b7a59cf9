"""What the card of a data set (the YAML head of its README.md) says about its files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from registry.benchmarks.hub.sources import HubDataset
from registry.errors import Refused, unknown

__all__ = ["data_patterns", "refuse_script"]


def data_patterns(source: HubDataset, folder: Path) -> tuple[str, ...]:
    """Return patterns of the files that loading the source's configuration takes; ``*`` where the card tells none.

    `datasets` finds the format of the files by looking at the first configuration's, so these are among them.

    Raises
    ------
    Refused
        If the card lists configurations and the source's is not among them.
    """
    configs = _configs(folder)
    if not configs or source.config is None:
        return ("*",)
    if source.config not in configs:
        raise unknown("configuration", source.config, configs, where=str(source))
    first = next(iter(configs))
    patterns = [pattern for name in dict.fromkeys((first, source.config)) for pattern in _patterns(configs[name])]
    return tuple(dict.fromkeys(patterns))


def refuse_script(source: HubDataset, folder: Path) -> None:
    """Refuse a data set that is a program, which `datasets` has stopped to run.

    Raises
    ------
    Refused
        If there is a script and no configuration in the card says how to read the files without it.
    """
    script = folder / f"{source.repository.partition('/')[2]}.py"
    if script.is_file() and not _configs(folder):
        what = f"{source} is read by a script, {script.name}, which the datasets library no longer runs"
        remedy = "put its data files, with a README.md that lists them by configuration, in the folder of a mirror"
        raise Refused(f"{what}; {remedy}, and name that by benchmark.path")


def _configs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the configurations that a card lists, by name."""
    from huggingface_hub import DatasetCard

    path = folder / "README.md"
    if not path.is_file():
        return {}
    try:
        listed = DatasetCard.load(path).data.get("configs") or []
    except (ValueError, yaml.YAMLError) as error:
        raise Refused(f"the YAML at the head of {path} cannot be read: {error}") from None
    return {str(config["config_name"]): config for config in listed if "config_name" in config}


def _patterns(config: dict[str, Any]) -> Iterator[str]:
    """Yield the patterns of a configuration's ``data_files``: a text, or a list of texts or of splits with paths."""
    folder = str(config.get("data_dir") or "").strip("./")
    files = config.get("data_files") or "*"
    for entry in [files] if isinstance(files, str) else files:
        paths = entry.get("path", []) if isinstance(entry, dict) else entry
        for path in [paths] if isinstance(paths, str) else paths:
            yield f"{folder}/{path}" if folder else str(path).removeprefix("./")
