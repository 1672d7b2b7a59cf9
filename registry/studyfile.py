"""Study files: YAML read into a :class:`registry.study.Study`, mistakes told with their line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from registry.refusal import Refused, unknown
from registry.study import BaseSpec, BenchmarkSpec, FilesTask, LoraSpec, Recipe, SplitSpec, Study

__all__ = ["load_study", "study_names"]

STUDIES = Path(__file__).parent / "studies"

#: Keys and list positions that lead to a value: ("models", 0, "name").
Location = tuple[str | int, ...]

# What a study may hold at each level; * stands for a position in a list or a name of the user's.
_LEVELS: dict[Location, Any] = {
    (): Study,
    ("benchmark",): BenchmarkSpec,
    ("benchmark", "tasks", "*"): FilesTask,
    ("models", "*"): BaseSpec,
    ("split",): SplitSpec,
    ("recipe",): Recipe,
    ("recipe", "lora"): LoraSpec,
}

# Findings that pydantic words for programmers.
_WORDING = {
    "tuple_type": "a list is needed, such as [a, b]",
    "dict_type": "a mapping is needed, such as {a: b}",
    "dataclass_type": "a mapping is needed, such as {a: b}",
    "string_pattern_mismatch": "a name is letters, digits, '_', '-' and '.', the first a letter or digit",
}


def study_names() -> list[str]:
    """Names of the studies that come with the project."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def load_study(study: str, **overrides: Any) -> Study:
    """Load a study by its name under ``registry/studies`` or by the path of its YAML file.

    Parameters
    ----------
    overrides
        Fields that take the place of the file's, None meaning not given; ``data`` replaces ``benchmark.path``, a
        relative folder starting where the caller is.

    Raises
    ------
    Refused
        If there is no such study, or the file says something that a study does not know, with its line.
    """
    path = _find(study)
    text, content = _read(path)
    content.setdefault("name", path.stem)
    loaded = _validated(_expand(content), where=str(path), text=text)
    given = {key: value for key, value in overrides.items() if value is not None}
    return _overridden(loaded, given) if given else loaded


def _find(study: str) -> Path:
    path = Path(study)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise Refused(f"there is no study file {study!r} (looked from {Path.cwd()})")
    if study in study_names():
        return STUDIES / f"{study}.yaml"
    raise unknown("study", study, study_names(), where="study")


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Refused(f"{path} is not YAML: {error}") from None
    except UnicodeDecodeError:
        raise Refused(f"{path} is not UTF-8; save it as UTF-8") from None
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
    """Write the short forms out: ``benchmark: demo`` and a model given by its name alone."""
    content = dict(content)
    if isinstance(content.get("benchmark"), str):
        content["benchmark"] = {"kind": content["benchmark"]}
    if isinstance(content.get("models"), list):
        content["models"] = [{"name": model} if isinstance(model, str) else model for model in content["models"]]
    return content


def _overridden(study: Study, given: dict[str, Any]) -> Study:
    """Return the study with what was given beside the file, checked as if it stood there."""
    content = study.resolved()
    data = given.pop("data", None)
    if data is not None:
        if study.benchmark.kind != "files":
            raise Refused(f"data={data}: the study {study.name!r} uses the built-in grid and reads no folder")
        content["benchmark"]["path"] = str(Path(data).expanduser().absolute())
    return _validated(_expand(content | given), where=f"study {study.name}, as given")


def _validated(content: dict[str, Any], *, where: str, text: str | None = None) -> Study:
    try:
        return TypeAdapter(Study).validate_python(content)
    except ValidationError as error:
        found = error.errors()
    # A list whose entries are wrong is also told to be too short; the entries are the story.
    inner = {problem["loc"][:depth] for problem in found for depth in range(len(problem["loc"]))}
    raise Refused("\n".join(_explain(problem, where, text) for problem in found if problem["loc"] not in inner))


def _explain(problem: Any, where: str, text: str | None) -> str:
    """Turn one of pydantic's findings into file, line, key and remedy."""
    location = tuple(part for part in problem["loc"] if part != "[key]")
    if text is not None:
        where = f"{where}:{_line(location, text)}"
    if problem["type"] == "unexpected_keyword_argument":
        place = f" in {_dotted(location[:-1])}" if location[:-1] else ""
        return str(unknown("key", str(location[-1]), _keys_at(location[:-1]), where=where + place))
    key = _dotted(location) or "the study"
    if problem["type"] == "missing":
        return f"{where}: {key} is missing"
    message = _WORDING.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    given = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
    return f"{where}: {key}: {message[:1].lower()}{message[1:]}{given}{_remedy(problem['input'])}"


def _remedy(value: object) -> str:
    if isinstance(value, bool):  # Norwegian is the classic: [en, no] holds False
        return "; YAML reads no, yes, on and off as truth values: quote the text, such as 'no'"
    return ""


def _dotted(location: Location) -> str:
    """Write a location as ``models[0].name``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")


def _line(location: Location, text: str) -> int:
    """Return the line (from 1) on which a location, or the nearest thing around it, stands in the YAML text."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    line = node.start_mark.line if node is not None else 0
    for part in location:
        child = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, child = key.start_mark.line, value
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            child = node.value[part]
            line = child.start_mark.line
        node = child
    return line + 1


def _keys_at(location: Location) -> list[str]:
    """Keys that a study may hold at a location."""
    for pattern, owner in _LEVELS.items():
        fits = (one in ("*", other) for one, other in zip(pattern, location, strict=False))
        if len(pattern) == len(location) and all(fits):
            return list(owner.__dataclass_fields__)
    raise KeyError(location)
