"""A study given by its name or by the path of its file: which file is meant, and which name it is recorded under.

Every entry point takes either. A name is, in this order, that of a study which comes with the project; the recorded
name of a study file in the caller's folder; or, for what needs the whole study, one that a store has a run of. With
``:<variant>`` behind it, one variant of a comparison is meant, which is recorded as ``<study>-<variant>``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.config.yaml_text import read_yaml
from registry.errors import Refused, unknown

__all__ = ["StudyPlace", "caller_folders", "find_study", "is_path", "recorded_name", "study_names"]

STUDIES = Path(__file__).parent.parent / "studies"

_SUFFIXES = (".yaml", ".yml")
_OF_STUDIES = ("models", "extends", "variants")  # a YAML file with none of these is something else


@dataclass(frozen=True)
class StudyPlace:
    """A study file, and the variant that is meant; an empty one is the whole file."""

    file: Path
    variant: str = ""


def study_names() -> list[str]:
    """Names of the studies that come with the project."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def caller_folders() -> tuple[Path, ...]:
    """Folders that a relative path may start at, and whose study files are known by name."""
    return (Path.cwd(),)


def is_path(given: str) -> bool:
    """Whether what was given is the path of a study file rather than a name."""
    return Path(given).suffix in _SUFFIXES


def find_study(given: str) -> StudyPlace | None:
    """Return the file of a study; None for a name that no file has.

    Raises
    ------
    Refused
        If a path leads nowhere, or two files in the caller's folder have the name.
    """
    name, variant = _divided(given)
    if is_path(name):
        return StudyPlace(_existing(name), variant)
    if name in study_names():
        return StudyPlace(STUDIES / f"{name}.yaml", variant)
    found = [place for place, recorded in _recorded_names() if recorded == name]
    if len({place.file.resolve() for place in found}) > 1:
        files = " and ".join(str(place.file) for place in found)
        raise Refused(f"study: {name!r} is the name of {files}; give the path of one")
    if found:
        return StudyPlace(found[0].file, variant or found[0].variant)
    return None


def recorded_name(given: str) -> str:
    """Return the name that a study is recorded under, given by that name or by the path of its file.

    A name that no file has may be on record all the same, and is returned as it is.

    Raises
    ------
    Refused
        If a path leads nowhere, its file cannot be read, or it holds several studies and none is named.
    """
    name, variant = _divided(given)
    if not is_path(name) and not variant:
        return given
    place = find_study(given)
    if place is None:
        raise unknown("study", name, study_names(), where="study")
    own, variants = _named(place.file)
    if place.variant and place.variant not in variants:
        raise unknown("variant", place.variant, variants, where=name) if variants else no_variants(name, variant)
    if variants and not place.variant:
        raise comparison(name, variants)
    return f"{own}-{place.variant}" if place.variant else own


def comparison(name: str, variants: Any) -> Refused:
    """Return the refusal of a file with several studies where one is needed."""
    named = ", ".join(f"{name}:{variant}" for variant in variants)
    return Refused(f"study {name!r} is a comparison; name one of its variants: {named}")


def no_variants(name: str, wanted: str) -> Refused:
    """Return the refusal of a variant where there are none."""
    return Refused(f"study {name!r} has no variants, so there is no {wanted!r}")


def _divided(given: str) -> tuple[str, str]:
    """Divide ``study:variant``; a file may have a colon in its name."""
    if ":" not in given or any((folder / given).is_file() for folder in caller_folders()):
        return given, ""
    name, _, variant = given.rpartition(":")
    return name, variant


def _existing(path: str) -> Path:
    """Return the file of a path."""
    for folder in caller_folders():
        file = folder / Path(path).expanduser()
        if file.is_file():
            return file if Path(path).is_absolute() or folder != Path.cwd() else Path(path).expanduser()
    looked = " and ".join(map(str, caller_folders()))
    raise Refused(
        f"there is no study file {path!r} (looked from {looked}); give its whole path, or the name of the study"
    )


def _recorded_names() -> Iterator[tuple[StudyPlace, str]]:
    """Yield every name that a file of the project, or of the caller's folder, is recorded under."""
    files = [file for folder in caller_folders() for suffix in _SUFFIXES for file in sorted(folder.glob(f"*{suffix}"))]
    for file in (*sorted(STUDIES.glob("*.yaml")), *files):
        try:
            own, variants = _named(file)
        except Refused:  # whatever it is, it was not asked for by its path
            continue
        yield StudyPlace(file), own
        yield from ((StudyPlace(file, variant), f"{own}-{variant}") for variant in variants)


def _named(file: Path) -> tuple[str, list[str]]:
    """Return a study file's own name and its variants; neither is inherited."""
    _, content = read_yaml(file)
    if not isinstance(content, dict) or not set(content) & set(_OF_STUDIES):
        raise Refused(
            f"{file} is no study: a study is a mapping of names to values that has models, or extends another"
        )
    named, variants = content.get("name"), content.get("variants")
    return named if isinstance(named, str) else file.stem, list(map(str, variants)) if isinstance(
        variants, dict
    ) else []
