"""Study files: YAML read into a :class:`registry.study.Study`, mistakes told with their line.

A file may say ``extends: <study>`` and then only what it has otherwise than that one. A file with ``variants`` holds
several studies that differ in what each variant says: a comparison, run by one command. Each is a study of its own,
named ``<study>-<variant>``, with its own records.

What a file or variant says is merged into what it inherits, key by key:

=====================  =================================================================================
it says                and then
=====================  =================================================================================
``key: {a: 1}``        an inherited mapping keeps its other keys, and these are merged in by the same rules
``key: {}``            an inherited mapping is emptied: ``words: {}`` has no words, ``recipe: {}`` the defaults
``key: null``          the inherited key is taken away: its default holds, or a task or word is not there
``key: [a]``, or text  takes the place of what was inherited; lists are not merged
=====================  =================================================================================

A benchmark of another kind replaces the inherited one as a whole. ``null`` where nothing is inherited is refused,
unless null is a value of that key (``quantization: null``); so is ``null`` for a key that a study must have.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from registry.refusal import Refused, unknown
from registry.study import Study
from registry.studymistakes import brief, line_of, validated
from registry.yamltext import read_yaml

__all__ = ["load_studies", "load_study", "study_names"]

STUDIES = Path(__file__).parent / "studies"


def study_names() -> list[str]:
    """Names of the studies that come with the project."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def load_study(study: str, **overrides: Any) -> Study:
    """Load one study; see :func:`load_studies`.

    Raises
    ------
    Refused
        Also if the file holds several and none is named.
    """
    found = load_studies(study, **overrides)
    if len(found) > 1:
        names = [f"{study}:{variant}" for variant in _read(_find(study)).variants]
        raise Refused(f"study {study!r} is a comparison; name one of its variants: {', '.join(names)}")
    return found[0]


def load_studies(study: str, **overrides: Any) -> list[Study]:
    """Load a study by its name under ``registry/studies`` or by the path of its YAML file; its variants, if it has any.

    Parameters
    ----------
    study
        With ``:<variant>`` behind it, that variant alone.
    overrides
        Fields that take the place of the file's, None meaning not given; ``data`` replaces ``benchmark.path``, a
        relative folder starting where the caller is.

    Raises
    ------
    Refused
        If there is no such study, or the file says something that a study does not know, with its line.
    """
    name, _, wanted = study.rpartition(":") if ":" in study and not Path(study).is_file() else (study, "", "")
    file = _read(_find(name))
    if wanted and wanted not in file.variants:
        raise (
            unknown("variant", wanted, file.variants, where=name)
            if file.variants
            else Refused(f"study {name!r} has no variants, so there is no {wanted!r}")
        )
    whole = file.study()
    chosen = [wanted] if wanted else list(file.variants)
    found = [file.study(variant) for variant in chosen] or [whole]
    given = {key: value for key, value in overrides.items() if value is not None}
    return [_overridden(one, dict(given)) for one in found] if given else found


@dataclass(frozen=True)
class _File:
    """A study file.

    Attributes
    ----------
    content
        What it says, with what it extends, short forms written out.
    variants
        Name of each variant, and what it says otherwise.
    """

    path: Path
    text: str
    content: dict[str, Any]
    variants: dict[str, dict[str, Any]]

    def study(self, variant: str | None = None) -> Study:
        """Return the study without its variants, or one of them."""
        if variant is None:
            return validated(self.content, where=str(self.path), text=self.text)
        content = _merged(self.content, _expand(self.variants[variant]))
        content["name"] = f"{self.content['name']}-{variant}"
        return validated(content, where=str(self.path), text=self.text, inside=("variants", variant))


def _find(study: str) -> Path:
    path = Path(study)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise Refused(f"there is no study file {study!r} (looked from {Path.cwd()})")
    if study in study_names():
        return STUDIES / f"{study}.yaml"
    raise unknown("study", study, study_names(), where="study")


def _read(path: Path, extending: tuple[Path, ...] = ()) -> _File:
    """Read a file and those it extends; ``extending`` are the files that led here."""
    text, content = _parsed(path)
    variants, parent = content.pop("variants", {}), content.pop("extends", None)
    content = _expand(content)
    if parent is not None:
        content = _merged(_inherited(parent, path, (*extending, path.resolve())), content)
    content.setdefault("name", path.stem)
    return _File(path, text, content, _checked_variants(variants, path, text))


def _inherited(parent: object, path: Path, extending: tuple[Path, ...]) -> dict[str, Any]:
    """Return what a file takes from the study it extends: everything but its name and variants."""
    if not isinstance(parent, str):
        raise Refused(f"{path}: extends is the name or path of one study (got {brief(parent)})")
    beside = path.parent / parent
    found = beside if beside.suffix in (".yaml", ".yml") and beside.is_file() else _find(parent)
    if found.resolve() in extending:
        raise Refused(f"{path}: extends leads back to {found.name}; one of these files must stand alone")
    file = _read(found, extending)
    file.study()  # its mistakes are told with its own lines
    return {key: value for key, value in file.content.items() if key != "name"}


def _checked_variants(given: object, path: Path, text: str) -> dict[str, dict[str, Any]]:
    where = f"{path}:{line_of(('variants',), text)}: variants"
    if not isinstance(given, dict) or not all(isinstance(part, dict | None) for part in given.values()):
        raise Refused(f"{where}: give names and what each has otherwise, such as {{r64: {{recipe: …}}}}")
    variants = {str(name): dict(part or {}) for name, part in given.items()}
    named = [name for name, part in variants.items() if "name" in part]
    if named:
        raise Refused(f"{where}.{named[0]}: a variant is named by its key; leave name out")
    return variants


def _merged(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a study's content with changes, by the rules above; neither is changed itself.

    A null that takes nothing away stays, for the validation to judge: of some keys it is a value.
    """
    result = dict(content)
    for key, value in changes.items():
        former = result.get(key)
        if value is None and key in result:
            del result[key]
        elif (
            value and isinstance(former, dict) and isinstance(value, dict) and not _of_another_kind(key, former, value)
        ):
            result[key] = _merged(former, value)
        else:
            result[key] = value
    return result


def _of_another_kind(key: str, former: dict[str, Any], value: dict[str, Any]) -> bool:
    return key == "benchmark" and former.get("kind") != value.get("kind", former.get("kind"))


def _parsed(path: Path) -> tuple[str, dict[str, Any]]:
    text, content = read_yaml(path)
    if not isinstance(content, dict):
        raise Refused(f"{path}: a study is a mapping of names to values, such as 'name: demo'")
    _refuse_twice(yaml.compose(text, Loader=yaml.SafeLoader), path)
    return text, content


def _refuse_twice(node: yaml.Node | None, path: Path) -> None:
    """Refuse a key that stands twice in one mapping; YAML readers silently take the last."""
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _refuse_twice(child, path)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, child in node.value:
            line = key.start_mark.line + 1
            if key.value in lines:
                raise Refused(f"{path}:{line}: {key.value} already stands in line {lines[key.value]}; keep one of them")
            lines[key.value] = line
            _refuse_twice(child, path)


def _expand(content: dict[str, Any]) -> dict[str, Any]:
    """Write the short forms out: ``benchmark: demo``, a model given by its name alone, a list of choices."""
    content = dict(content)
    if isinstance(content.get("benchmark"), str):
        content["benchmark"] = {"kind": content["benchmark"]}
    if isinstance(content.get("models"), list):
        content["models"] = [{"name": model} if isinstance(model, str) else model for model in content["models"]]
    tune = content.get("tune")
    if isinstance(tune, dict) and isinstance(tune.get("space"), dict):
        space = {name: {"choices": one} if isinstance(one, list) else one for name, one in tune["space"].items()}
        content["tune"] = tune | {"space": space}
    return content


def _overridden(study: Study, given: dict[str, Any]) -> Study:
    """Return the study with what was given beside the file, checked as if it stood there."""
    content = study.resolved()
    data = given.pop("data", None)
    if data is not None:
        if study.benchmark.kind == "demo":
            raise Refused(f"data={data}: the study {study.name!r} uses the built-in grid and reads no folder")
        content["benchmark"]["path"] = str(Path(data).expanduser().absolute())
    return validated(_expand(content | given), where=f"study {study.name}, as given")
