"""YAML from a file of a user's, read into plain values; whatever it holds, it is read or refused with words.

The safe loader alone is not enough: it raises other errors than its own for impossible dates and numbers, and follows
aliases into themselves, or into a value that is huge once it is written out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from registry.errors import Refused

__all__ = ["read_yaml"]

#: Values in a document, those behind an alias counted wherever it stands; and levels of lists and mappings.
_MOST_VALUES = 100_000
_DEEPEST = 50

_LONGEST = 300  # characters of PyYAML's own words that are repeated


def read_yaml(path: Path) -> tuple[str, Any]:
    """Read a file in UTF-8; returns its text, and the plain values in it.

    Raises
    ------
    Refused
        If it cannot be read, or is not YAML of plain values.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise Refused(f"{path} is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from None
    try:
        _require_small(yaml.compose(text, Loader=yaml.SafeLoader), path)
        return text, yaml.safe_load(text)
    except RecursionError:
        raise Refused(f"{path} nests lists and mappings too deeply; {_DEEPEST} levels are read") from None
    except Refused:
        raise
    except yaml.YAMLError as error:
        raise Refused(f"{path} is not YAML: {error}") from None
    except (ValueError, KeyError, AttributeError, IndexError) as error:  # of dates and numbers that there are not
        reason = str(error)[:_LONGEST]
        raise Refused(f"{path} is not YAML of plain values ({reason}); quote what is meant as a text") from None


def _require_small(root: yaml.Node | None, path: Path) -> None:
    """Refuse aliases that lead back to themselves, or that make a small file a huge value."""
    left, count = [(root, 1)], 0
    while left:
        node, depth = left.pop()
        count += 1
        if depth > _DEEPEST:
            raise Refused(f"{path} nests lists and mappings over {_DEEPEST} levels deep, or an alias holds itself")
        if count > _MOST_VALUES:
            raise Refused(f"{path} holds over {_MOST_VALUES:,} values, its aliases written out; leave some out")
        if isinstance(node, yaml.SequenceNode):
            left += [(child, depth + 1) for child in node.value]
        elif isinstance(node, yaml.MappingNode):
            left += [(part, depth + 1) for pair in node.value for part in pair]
