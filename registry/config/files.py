"""Study files: YAML read into a :class:`registry.config.study.Study`, mistakes reported with their line.

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

import logging
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from registry.config.messages import brief, line_of, validated, worded
from registry.config.names import StudyPlace, comparison, find_study, is_path, no_variants, study_names
from registry.config.study import Study
from registry.config.tuning import TuneSpec
from registry.config.yaml_text import read_yaml
from registry.errors import Refused, unknown

__all__ = ["OBJECTIVES", "load_studies", "load_study", "spec_of", "study_names"]

log = logging.getLogger(__name__)


def load_study(study: str, **overrides: Any) -> Study:
    """Load one study; see :func:`load_studies`.

    Raises
    ------
    Refused
        Also if the file holds several and none is named.
    """
    found = load_studies(study, **overrides)
    if len(found) > 1:
        place = find_study(study)
        raise comparison(study, _read(place.file).variants if place else [one.name for one in found])
    return found[0]


def load_studies(study: str, **overrides: Any) -> list[Study]:
    """Load a study given by name or path, see ``registry/config/names.py``; its variants, if it has any.

    Parameters
    ----------
    study
        With ``:<variant>`` behind it, that variant alone. A name that no file has is looked for in the store: its
        newest run tells the whole study.
    overrides
        Fields that take the place of the file's, None meaning not given; ``data`` replaces ``benchmark.path``, a
        relative folder starting where the caller is.

    Raises
    ------
    Refused
        If there is no such study, or the file says something that a study does not know, with its line.
    """
    place = find_study(study)
    found = _of_file(study, place) if place else [_of_store(study)]
    given = {key: value for key, value in overrides.items() if value is not None}
    return [_overridden(one, dict(given)) for one in found] if given else found


def _of_file(study: str, place: StudyPlace) -> list[Study]:
    file, wanted = _read(place.file), place.variant
    if wanted and wanted not in file.variants:
        name = study.removesuffix(f":{wanted}")
        raise unknown("variant", wanted, file.variants, where=name) if file.variants else no_variants(name, wanted)
    whole = file.study()
    chosen = [wanted] if wanted else list(file.variants)
    return [file.study(variant) for variant in chosen] or [whole]


def _of_store(name: str) -> Study:
    """Load a study from its newest run on record; nothing is written to the store."""
    from registry.tracking.recordedstudy import recorded_study  # MLflow takes seconds

    with tempfile.TemporaryDirectory() as folder:
        found = recorded_study(name, Path(folder))
        if found is None:
            raise unknown("study", name.partition(":")[0], study_names(), where="study")
        study = _read(found.file).study()
    if study.trust_remote_code:
        raise Refused(
            f"study {name!r} is known from run {found.run_id} alone and runs code from a model's repository;\n"
            "give the path of its file, which you can read first: -P study=<path>.yaml"
        )
    log.warning("no file has the name %r: the study is taken as run %s recorded it", name, found.run_id)
    return study


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
    if is_path(parent) and beside.is_file():
        found = beside
    else:
        place = find_study(parent)
        if place is None:
            raise unknown("study", parent, study_names(), where=f"{path}: extends")
        found = place.file
    if found.resolve() in extending:
        raise Refused(f"{path}: extends leads back to {found.name}; one of these files must stand alone")
    file = _read(found, extending)
    file.study()  # its mistakes are reported with its own lines
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


# --- what a search looks for, as a study file and the command say it; light, so that mistakes are reported at once


#: Objective → the direction in which Optuna goes.
OBJECTIVES = {"validation_loss": "minimize", "transfer": "maximize"}


def spec_of(study: Study, **given: Any) -> TuneSpec:
    """Return a study's ``tune`` section, what was given beside it (None meaning not given) taking its place.

    Raises
    ------
    Refused
        If a value is out of its range, or there is no such objective; worded as for a study file.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    if chosen.get("objective", "transfer") not in OBJECTIVES:
        raise unknown("objective", chosen["objective"], OBJECTIVES)
    try:
        return replace(study.tune or TuneSpec(), **chosen)
    except ValidationError as error:
        raise Refused("\n".join(f"tune.{found['loc'][0]}: {worded(found)}" for found in error.errors())) from None
