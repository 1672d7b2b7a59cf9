"""TruthfulQA's primer: the six English questions with answers that the published evaluation puts before each question.

Its wording is lm-evaluation-harness's and is not repeated here.
"""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from registry.project import located
from registry.refusal import Refused

__all__ = ["read_primer"]

_FILE = Path("tasks", "okapi", "truthfulqa_multilingual", "utils.py")
_NAME = "QA_PROMPT"
_REMEDY = "install lm_eval==0.4.13, or write the primer to a text file and name that by benchmark.primer"


def read_primer(path: str | None) -> str:
    """Return the primer from a text file, or, where none is named, from the installed lm-evaluation-harness.

    Parameters
    ----------
    path
        A file in UTF-8; a relative one starts at the project's folder. Line breaks at its end do not count.

    Raises
    ------
    Refused
        If the file cannot be read or is empty, or none is named and the harness is not installed.
    """
    if path is None:
        return _harness_primer()
    file = located(path)
    try:
        text = file.read_text(encoding="utf-8-sig").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"benchmark.primer: {file} cannot be read as text in UTF-8: {error}") from None
    if not text.strip():
        raise Refused(f"benchmark.primer: {file} is empty; it holds what stands before every question of TruthfulQA")
    return text


def _harness_primer() -> str:
    """Read the primer out of the harness's source; importing it would bring half of its dependencies."""
    spec = importlib.util.find_spec("lm_eval")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    for file in (folder / _FILE for folder in folders):
        if file.is_file():
            return _constant(file)
    raise Refused(f"TruthfulQA is asked behind a primer that comes with lm-evaluation-harness; {_REMEDY}")


def _constant(file: Path) -> str:
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        named = isinstance(statement, ast.Assign) and [getattr(target, "id", "") for target in statement.targets]
        if isinstance(statement, ast.Assign) and named == [_NAME]:
            return str(ast.literal_eval(statement.value))
    raise Refused(f"{file} has no {_NAME}, the primer of TruthfulQA; {_REMEDY}")
