"""What an import is made from: which format, and the reader for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from registry.imports.harness import read_harness
from registry.imports.imported import Imported
from registry.imports.manifest import EXAMPLE, read_manifest
from registry.imports.published import read_published
from registry.refusal import Refused, unknown

__all__ = ["FORMATS", "read_source"]

#: ``auto`` tells the others apart.
FORMATS = ("auto", "published", "lm_eval")

_MANIFESTS = ("manifest.yaml", "manifest.yml", "manifest.csv")


def read_source(
    source: Path, *, staging: Path, form: str = "auto", families: Mapping[str, str] | None = None
) -> Imported:
    """Read results: the published study's table, or what lm-evaluation-harness wrote, listed in a manifest.

    Parameters
    ----------
    source
        ``published``: a CSV file. ``lm_eval``: a manifest, or a folder that holds one as ``manifest.yaml`` or ``.csv``.
    staging
        Folder that every question's outcome is written to, where the source has them.
    form
        One of `FORMATS`.
    families
        Model → family, for models that are not known here.

    Raises
    ------
    Refused
        If anything about the source is not usable; all of its faults are named.
    """
    if form not in FORMATS:
        raise unknown("format", form, FORMATS, where="format")
    if not source.exists():
        raise Refused(f"source={str(source)!r} is not there (looked from {Path.cwd()})")
    if form == "published" and source.is_dir():
        raise Refused(f"{source} is a folder; format=published reads one CSV file")
    file = _manifest_in(source) if source.is_dir() else source
    if form == "auto":
        form = _format_of(file)
    if form == "published":
        return read_published(file, families or {})
    return read_harness(read_manifest(file), families or {}, staging)


def _manifest_in(folder: Path) -> Path:
    for name in _MANIFESTS:
        if (folder / name).is_file():
            return folder / name
    results = sorted({str(path.parent.relative_to(folder)) for path in folder.rglob("results_*.json")})
    found = f"results of lm_eval lie in: {', '.join(results[:20])}" if results else "nor any results_*.json below it"
    raise Refused(
        f"{folder} holds no manifest.yaml, which says what each folder of results is ({found}); write one:\n{EXAMPLE}"
    )


def _format_of(file: Path) -> str:
    if file.suffix in (".yaml", ".yml"):
        return "lm_eval"
    if file.suffix != ".csv":
        raise Refused(f"{file}: what it is cannot be told from its name; an import reads a .csv or a .yaml manifest")
    with file.open("rb") as content:
        head = content.readline(10_000).decode("utf-8-sig", errors="replace")
    columns = {column.strip().strip('"') for column in head.split(",")}
    return "lm_eval" if {"folder", "model"} <= columns else "published"
