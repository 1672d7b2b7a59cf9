"""Write the MLproject from the parsers of the entry points: ``make mlproject``."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator

import yaml

from entrypoints.commands import ENTRY_POINTS, load_command
from registry.paths import PROJECT

__all__ = ["main", "mlproject"]

_WIDTH = 120
_HEADER = """\
# Made by `make mlproject` from the parsers in entrypoints/; do not edit.
# mlflow run . -e ENTRY_POINT -P name=value ...      what each parameter means: python -m entrypoints.ENTRY_POINT --help
# (of import: python -m entrypoints.import_results --help, since `import` cannot name a Python module)
name: donors-recipients

conda_env: conda.yaml

entry_points:
"""


def mlproject() -> str:
    """Return the text of the MLproject."""
    return _HEADER + "\n".join("\n".join(_entry_point(name)) + "\n" for name in ENTRY_POINTS)


def main() -> None:
    """Write the file."""
    (PROJECT / "MLproject").write_text(mlproject(), encoding="utf-8")


def _entry_point(name: str) -> Iterator[str]:
    parser = load_command(name).command_line()
    found = parser.parameters
    yield textwrap.fill(
        " ".join(str(parser.description).split()), _WIDTH, initial_indent="  # ", subsequent_indent="  # "
    )
    yield f"  {name}:"
    yield "    parameters:"
    for parameter in found:
        yield f"      {parameter.dest}: {{{_declaration(parameter.default)}}}"
    yield "    command: >-"
    options = [f"--{parameter.dest.replace('_', '-')} {{{parameter.dest}}}" for parameter in found]
    pieces = [f"python -m entrypoints.{ENTRY_POINTS[name]}", *options]
    # An option stays on one line with its value.
    words = " ".join(piece.replace(" ", "\0") for piece in pieces)
    margin = " " * 6
    lines = textwrap.wrap(words, _WIDTH - len(margin), break_on_hyphens=False)
    yield from (margin + line.replace("\0", " ") for line in lines)


def _declaration(default: object) -> str:
    """Return type and default as MLflow declares them; what is no number is a string."""
    if isinstance(default, int | float) and not isinstance(default, bool):
        return f"type: float, default: {default:g}"
    text = "" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
    plain = text.isidentifier() and yaml.safe_load(text) == text
    return f"type: string, default: {text if plain else json.dumps(text)}"


if __name__ == "__main__":
    main()
