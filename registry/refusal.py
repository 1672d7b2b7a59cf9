"""Input that cannot be used, refused before any work: what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
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
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5) or names
    shown = ", ".join(near[:12]) + (f" and {len(near) - 12} more" if len(near) > 12 else "")
    place = f"{where}: " if where else ""
    label = "nearest" if len(near) < len(names) else "there are" if len(names) > 1 else "there is only"
    return Refused(f"{place}there is no {kind} {name!r}; {label}: {shown or 'none'}")
