"""Strategies of hostile input: broken YAML and JSON, values of the wrong kind, and names that would do harm."""

from __future__ import annotations

import json
from typing import Any

import yaml
from hypothesis import strategies as st

__all__ = ["NAMES", "VALUES", "bent", "broken", "document"]

#: Names and texts that break what takes them for more than text.
NAMES = st.sampled_from(
    [
        "../../witness",
        "/etc/passwd",
        "..",
        "a/../../b",
        "~root",
        "a\0b",
        "a\nb",
        "\x1b[2J",
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "{0.__class__}",
        "{question.__class__.__mro__}",
        "%s%n",
        "$(touch witness)",
        "'; DROP TABLE runs; --",
        "\u202e",
        "\ud800",
        "",
        " ",
        "x" * 5000,
        "__import__('os')",
        "!!python/object/apply:os.system [touch witness]",
        "CON",
        "models:/x/1",
        "no",
        "1e999",
    ]
)

#: Plain values of every kind that YAML and JSON have, and what their readers stumble over.
_SCALARS = st.one_of(
    NAMES,
    st.text(max_size=20),
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**30, -(10**400), float("inf"), float("-inf"), float("nan"), 1e308, -0.0]),
    st.floats(),
    st.dates(),
    st.binary(max_size=8),
)
VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | NAMES | st.integers(), inner, max_size=4)
    ),
    max_leaves=8,
)

#: YAML that PyYAML, Python's parsers of numbers and dates, or a reader that follows aliases may trip over.
BROKEN_YAML = [
    "name: 2001-99-99",
    "name: 2001-02-30 25:61:61",
    "seeds: [0b_, 0x_]",
    "seeds: [" + "9" * 5000 + "]",
    "a: &a [*a]",
    "&a name: *a",
    "a: &a {b: *a}",
    "models: &m [*m, *m]",
    "[" * 3000,
    "{a: " * 3000,
    "- " * 3000 + "x",
    "? [a, b]\n: c",
    "? {a: b}\n: c",
    "!!python/object/apply:os.system ['touch witness']",
    "name: !!python/name:os.system",
    "name: !!python/object/new:subprocess.Popen [['touch', 'witness']]",
    "!<tag:yaml.org,2002:python/module:os> ''",
    "name: !!binary '@@@'",
    "name: !!timestamp x",
    "name: !!int x",
    "name: !!float x",
    "name: !!bool x",
    "name: !!set {a, b}",
    "name: !!omap [a: 1]",
    "name: !!pairs [a: 1, a: 2]",
    "%TAG ! tag:x,2000:\n--- !x\na: b",
    "--- a\n--- b",
    "name: x\n...\nname: y",
    "<<: {name: x}",
    "<<: [1]",
    "a: 1\n<<: *nothing",
    "\ufeffname: x",
    "\x00",
    "name: \x07",
    "\t- x",
    "name: 190:20:30",
    "name: 1:60:99999999999999999999999999",
    "name: =",
    "a: &a [x,x]\nb: &b [*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c]\n"
    "e: &e [*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f]\nname: [*g,*g,*g,*g,*g,*g]",
]


def bent(content: Any) -> st.SearchStrategy[Any]:
    """Return a document with one of its parts exchanged, taken away or added to."""

    @st.composite
    def draw_one(draw: Any) -> Any:
        changed = json.loads(json.dumps(content))
        for _ in range(draw(st.integers(1, 3))):
            changed = _bend(draw, changed)
        return changed

    return draw_one()


def _bend(draw: Any, node: Any) -> Any:
    """Walk down to a random place and change what stands there."""
    if isinstance(node, dict | list) and node and draw(st.integers(0, 4)):
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = draw(st.sampled_from(keys))
        action = draw(st.integers(0, 9))
        if action == 0:
            del node[key]
        elif action == 1 and isinstance(node, dict):
            node[draw(st.text(max_size=8) | NAMES)] = node[key]
        else:
            node[key] = _bend(draw, node[key])
        return node
    return draw(VALUES)


def document(content: Any) -> st.SearchStrategy[str]:
    """Return YAML: known to be broken, bent from a good document, or cut and spliced at random."""
    whole = yaml.safe_dump(content, allow_unicode=True)
    return st.one_of(
        st.sampled_from(BROKEN_YAML),
        st.builds(lambda text: f"{whole}\n{text}", st.sampled_from(BROKEN_YAML)),
        bent(content).map(_dumped),
        bent(content).map(_dumped),
        broken(whole.encode()).map(lambda raw: raw.decode("utf-8", "replace")),
    )


def _dumped(content: Any) -> str:
    try:
        return str(yaml.safe_dump(content, allow_unicode=True))
    except UnicodeEncodeError:
        return "\ud800"


def broken(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return a file with bytes cut out, put in, or repeated."""

    def spliced(start: int, length: int, put: bytes, times: int) -> bytes:
        return whole[:start] + put * times + whole[start + length :]

    places, lengths = st.integers(0, len(whole)), st.sampled_from([0, 0, 1, 2, 30])
    puts = st.one_of(
        st.binary(max_size=4),
        st.sampled_from(
            [b"\0", b"\xff\xfe", b'"', b"\r", b"\t", b",", b"\n", b"{", b"[", b"&a *a", b"!!python/name:os "]
        ),
    )
    return st.builds(spliced, places, lengths, puts, st.sampled_from([1, 1, 1, 2, 200]))
