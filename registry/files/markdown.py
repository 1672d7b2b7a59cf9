"""Markdown for model cards and MLflow's UI: tables, code, and texts that are shown as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["code_block", "code_span", "escaped", "markdown_table", "one_line"]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table; each ``|`` in a cell is escaped, unless it is already."""
    lines = [[re.sub(r"(?<!\\)\|", r"\\|", str(cell)) for cell in row] for row in (head, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], ["---"] * len(head), *lines[1:]))


def one_line(text: object) -> str:
    """Write a text in one line."""
    return " ".join(str(text).split())


def escaped(text: str) -> str:
    """Write a text so that nothing in it is taken for Markdown or HTML."""
    plain = one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]>|~#$])", r"\\\1", plain)


def code_span(text: object) -> str:
    """Write a text as code, in tables too; the fence is longer than any in the text."""
    plain = one_line(text).replace("|", "\\|") or " "
    fence = "`" * (_longest_fence(plain) + 1)
    return f"{fence}{plain}{fence}" if "`" not in plain else f"{fence} {plain} {fence}"


def code_block(text: str, language: str) -> str:
    """Write lines of code."""
    fence = "`" * max(3, _longest_fence(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _longest_fence(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
