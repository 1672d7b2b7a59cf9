"""Lists and mappings that a data set holds as the text Python or numpy printed: read without running any of it."""

from __future__ import annotations

import ast

__all__ = ["listed", "unprinted"]


def unprinted(text: str) -> object:
    """Read a printed value: texts, numbers, lists, tuples, mappings and ``array([...], dtype=...)`` around them.

    Parameters
    ----------
    text
        Such as ``"{'choices': array(['a', 'b'], dtype=object), 'labels': array([1, 0])}"``.

    Raises
    ------
    ValueError
        If the text is anything else; nothing in it is looked up, called or computed.
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{_short(repr(text))} is no printed list or mapping ({type(error).__name__})") from None


def listed(value: object, column: str) -> list[object]:
    """Return a column's list, which may lie there as a printed one.

    Raises
    ------
    ValueError
        If it is no list.
    """
    found = unprinted(value) if isinstance(value, str) else value
    if isinstance(found, list):
        return found
    raise ValueError(f"column {column!r} holds no list but {_short(repr(value))}")


def _value(node: ast.expr) -> object:
    """Return what a node of the printed grammar stands for."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
        if isinstance(node.value, str):
            node.value.encode()  # an escape may name half of a surrogate pair, which is no character
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(element) for element in node.elts]
    if isinstance(node, ast.Dict):
        return {_key(key): _value(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.Call):
        return _array(node)
    raise ValueError(f"{_short(ast.unparse(node))} has no place in a printed list or mapping")


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError("the keys of a printed mapping are texts")


def _array(node: ast.Call) -> object:
    """Return the list inside ``array([...])``; the dtype it names says nothing that the values do not."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    keywords = [keyword.arg for keyword in node.keywords]
    if name == "array" and len(node.args) == 1 and isinstance(node.args[0], ast.List) and keywords in ([], ["dtype"]):
        return _value(node.args[0])
    raise ValueError(f"{_short(ast.unparse(node))} has no place in a printed list or mapping")


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
