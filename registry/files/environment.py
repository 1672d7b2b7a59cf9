"""The environment that the project is pinned to: as its own files list it, or the metadata of the installed package."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import requires

import yaml

from registry.paths import PROJECT

__all__ = ["conda_environment", "direct_requirements"]

_DISTRIBUTION = "donors-recipients"


def direct_requirements(extra: str = "") -> list[str]:
    """Return the direct dependencies, or those of an extra, each as ``name==version``."""
    if not (PROJECT / "conda.yaml").is_file():
        return _installed_requirements(extra)
    if extra:
        metadata = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
        return list(metadata["project"]["optional-dependencies"].get(extra, []))
    return list(yaml.safe_load((PROJECT / "conda.yaml").read_text(encoding="utf-8"))["dependencies"][-1]["pip"])


def _installed_requirements(extra: str) -> list[str]:
    wanted = f"extra == '{extra}'" if extra else ""
    lines = (line.partition(";") for line in requires(_DISTRIBUTION) or ())
    return [pin.strip() for pin, _, marker in lines if marker.strip().replace('"', "'") == wanted]


def conda_environment() -> str:
    """Return the text of ``conda.yaml``; for a package that was installed without its project, the same pins."""
    if (PROJECT / "conda.yaml").is_file():
        return (PROJECT / "conda.yaml").read_text(encoding="utf-8")
    python = f"python={sys.version_info.major}.{sys.version_info.minor}"
    packages = [python, "pip", {"pip": direct_requirements()}]
    return yaml.safe_dump(
        {"name": _DISTRIBUTION, "channels": ["conda-forge"], "dependencies": packages}, sort_keys=False
    )
