"""When a cell of a table is a text, when a text is empty, and when two texts are the same.

Decided here once, for tables of every format and for the hub's rows. Only comparisons use the normal forms: a model
gets the texts as the file has them.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable

__all__ = [
    "cell_id",
    "cell_text",
    "code_points",
    "emptiness",
    "find_text",
    "fold_text",
    "is_missing",
    "is_visible",
    "normalize_text",
]

#: Characters that are not drawn and change nothing that is: controls but for white space, what Unicode 16.0 calls
#: Default_Ignorable_Code_Point but for the next group, other format characters, and blanks that count as symbols.
_INVISIBLE = (
    "\\x00-\\x08\\x0e-\\x1b\\x7f-\\x84\\x86-\\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f"
    "\u202a-\u202e\u2060-\u206f\u2800\u3164\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d159"
    "\U0001d173-\U0001d17a\U000e0000-\U000e001f\U000e0080-\U000e00ff\U000e01f0-\U000e0fff"
)

#: Ignorable characters that change how their neighbours read: joiners (Persian, Indic scripts, emoji), variation
#: selectors, and the tags of flags.
_JOINING = "\u180b-\u180d\u180f\u200c\u200d\ufe00-\ufe0f\U000e0020-\U000e007f\U000e0100-\U000e01ef"

_SPACES = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"

_DROPPED = re.compile(f"[{_INVISIBLE}]")
_DROPPED_FROM_FOLDED = re.compile(f"[{_INVISIBLE}{_JOINING}]")
_DRAWN = re.compile(f"[^{_INVISIBLE}{_JOINING}{_SPACES}\\s]")
_SPACE = re.compile(f"[{_SPACES}]")


def is_missing(value: object) -> bool:
    """Whether a cell has no value: null, or the NaN that stands for it in JSON and data frames."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def cell_text(value: object, column: str) -> str:
    """Return a cell's value as text, without white space around it; what nobody can see is an empty text.

    Raises
    ------
    ValueError
        If the value is neither a text nor a finite number, or holds half of a surrogate pair.
    """
    if is_missing(value):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"column {column!r} holds a {type(value).__name__}; a text or a number is needed")
    if isinstance(value, float) and math.isinf(value):
        raise ValueError(f"column {column!r} holds Infinity; a text or a finite number is needed")
    text = str(value).strip()
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"column {column!r} holds half of a surrogate pair, which is no character; replace it")
    return text if is_visible(text) else ""


def cell_id(value: object, column: str) -> str:
    """Return an id or an answer: a cell's text, normalised, a whole number the same as 12 and as 12.0.

    Raises
    ------
    ValueError
        As :func:`cell_text`.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return normalize_text(cell_text(value, column))


def emptiness(value: object) -> str:
    """Say in brackets what an empty cell holds, where that is more than nothing."""
    if isinstance(value, str) and value.strip():
        return f" (it holds only what cannot be seen: {code_points(value.strip())})"
    return " (it holds NaN)" if isinstance(value, float) else " (it holds null)" if value is None else ""


def is_visible(text: str) -> bool:
    """Whether a text has a character that is drawn: no white space, control or format character, filler or blank."""
    return _DRAWN.search(text) is not None


def normalize_text(text: str) -> str:
    """Return the form in which options, answers, ids and columns are compared: the same for texts that look the same.

    That is NFC, without invisible characters that change nothing, every kind of space the same, none at the ends.
    Compatibility forms stay apart: x² is not x2.
    """
    if not (text.isascii() and text.isprintable()):
        text = _SPACE.sub(" ", unicodedata.normalize("NFC", _DROPPED.sub("", text)))
    return text.strip()


def fold_text(text: str) -> str:
    """Return the form in which questions are compared with others: NFKC, nothing invisible, one space for any white."""
    if not (text.isascii() and text.isprintable()):
        text = unicodedata.normalize("NFKC", _DROPPED_FROM_FOLDED.sub("", text))
    return " ".join(text.split())


def find_text(text: str, among: Iterable[str]) -> str | None:
    """Return the one of several texts that a text is, in comparable form if none is it to the letter."""
    known = tuple(among)
    if text in known:
        return text
    wanted = normalize_text(text)
    return next((one for one in known if normalize_text(one) == wanted), None)


def code_points(text: str, limit: int = 4) -> str:
    """Name a text's first characters by their code points."""
    named = [f"U+{ord(character):04X}" for character in text]
    return " ".join(named[:limit]) + (" …" if len(named) > limit else "")
