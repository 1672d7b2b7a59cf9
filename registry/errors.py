"""Input that cannot be used, refused before any work: what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

__all__ = ["Refused", "unknown"]


class Refused(ValueError):
    """A mistake in what the user gave. Its message is the whole story, so entry points print it without a traceback."""


def unknown(kind: str, name: str, valid: Iterable[str], *, where: str = "") -> Refused:
    """Return the refusal of a name that does not exist, with the nearest names that do.

    Parameters
    ----------
    kind : str
        What the name was meant to be: "task", "language", "study", …
    where : str, optional
        File and line, or the parameter, that the name came from.
    """
    names = sorted(set(valid))
    folded = {unicodedata.normalize("NFKC", one): one for one in reversed(names)}
    close = difflib.get_close_matches(unicodedata.normalize("NFKC", name.lower()), folded, n=3, cutoff=0.5)
    near = [folded[one] for one in close] or names
    shown = ", ".join(near[:12]) + (f" and {len(near) - 12} more" if len(near) > 12 else "")
    place = f"{where}: " if where else ""
    label = "nearest" if len(near) < len(names) else "there are" if len(names) > 1 else "there is only"
    apart = _apart(name, near[0]) if close else ""
    return Refused(f"{place}there is no {kind} {name!r}; {label}: {shown or 'none'}{apart}")


def _apart(name: str, near: str, limit: int = 3) -> str:
    """Spell out where two names differ that an eye may take for one: by code points, unless all of them are ASCII."""
    parts = difflib.SequenceMatcher(None, name, near, autojunk=False).get_opcodes()
    pairs = [(name[a:b], near[c:d]) for kind, a, b, c, d in parts if kind != "equal"]
    if all((ours + theirs).isascii() and (ours + theirs).isprintable() for ours, theirs in pairs):
        return ""
    differences = [f"{_spelled(ours)} here is {_spelled(theirs)} there" for ours, theirs in pairs[:limit]]
    return f" ({', '.join(differences)}{', …' if len(pairs) > limit else ''})"


def _spelled(text: str) -> str:
    return " ".join(f"U+{ord(character):04X}" for character in text[:4]) or "nothing"
