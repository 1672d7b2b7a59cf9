"""Secrets kept out of what is printed and recorded: passwords in addresses, tokens, and those in the environment.

An address can hold a password before its host, in its query or fragment, and percent-encoded within a value. Libraries
repeat addresses, and parts of them, in their errors.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any, cast
from urllib.parse import quote, unquote, unquote_plus

__all__ = ["HIDDEN", "has_secret", "mask", "mask_uri", "masked_output"]

HIDDEN = "***"

#: An address in a text: up to a space, a quotation mark or a bracket.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'`<>]+")

#: Names of values that are secrets, by a part of them or as a whole; `passfile` and `sslkey` name files.
_SECRET_PART = re.compile(
    r"passw|passphrase|pwd|secret|token|credential|api[-_]?key|access[-_]?key|private[-_]?key|account[-_]?key|signature"
)
_SECRET_NAMES = {"pass", "pw", "auth", "authorization", "sig", "jwt", "sslpass"}

#: ``name=value`` outside of addresses, as in libpq's connection strings and in ODBC's.
_ASSIGNED = re.compile(r"(?i)(?<![\w-])(password|passwd|pwd|sslpassword)(\s*=\s*)('[^']*'|\"[^\"]*\"|[^\s;,&'\"<*]+)")

#: Tokens that are recognised by their form, and what stands in a header.
_TOKEN = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|dapi[0-9a-f]{32})\b"
)
_HEADER = re.compile(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{16,}")

_VARIABLES = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|ACCESS_KEY|API_KEY|PRIVATE_KEY")
_ADDRESS_VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_BACKEND_STORE_URI")
_SHORTEST = 6  # characters of a secret that is looked for in texts: shorter ones occur by chance

#: What may hold a secret at all; most texts do not, and are let through at once.
_SUSPECT = re.compile(r"(?i)://|passw|pwd|bearer|basic|hf_|gh[pousr]_|github_pat|glpat|dapi")


def mask_uri(uri: str) -> str:
    """Return an address with every secret in it hidden, the rest as it was."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    login, at, place = _split_login(scheme, rest)
    return f"{scheme}://{_mask_login(login)}{at}{_mask_values(place)}"


def mask(text: str, *, of_environment: bool = True) -> str:
    """Return a text with the secrets hidden that are in its addresses, assignments and headers.

    Parameters
    ----------
    of_environment
        Hide what this process's environment holds as a password or token too, wherever it occurs. Not for what is
        recorded: a password that is also a word would falsify names.
    """
    if _SUSPECT.search(text):
        text = _ADDRESS.sub(lambda found: mask_uri(found[0]), text)
        text = _ASSIGNED.sub(rf"\1\2{HIDDEN}", text)
        text = _HEADER.sub(rf"\1\2{HIDDEN}", text)
        text = _TOKEN.sub(HIDDEN, text)
    for secret in _known_secrets() if of_environment else ():
        if secret in text:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    return text


def has_secret(text: str) -> bool:
    """Whether a value that a user gave holds a password or a token."""
    shown = _ADDRESS.sub(lambda found: mask_uri(found[0]), mask_uri(text))
    return shown != text or bool(_TOKEN.search(text)) or bool(_ASSIGNED.search(text))


@contextmanager
def masked_output() -> Iterator[None]:
    """Hide secrets in all that this process prints inside, and in the traceback of an error that ends it."""
    former = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(Any, _Masked(stream)) for stream in former)
    sys.excepthook, threading.excepthook = _print_error, _print_threads_error
    try:
        yield
    finally:
        sys.stdout, sys.stderr = former


class _Masked:
    """A text stream that hides secrets."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(mask(text))
        return len(text)

    def writelines(self, lines: Iterator[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _print_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(mask("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def _print_threads_error(given: threading.ExceptHookArgs) -> None:
    if given.exc_value is not None and not isinstance(given.exc_value, SystemExit):
        _print_error(given.exc_type, given.exc_value, given.exc_traceback)


def _split_login(scheme: str, rest: str) -> tuple[str, str, str]:
    """Split what follows ``://`` into user and password, the sign ``@`` and the place.

    In databases' addresses a password may hold ``/``, ``?`` and ``#`` as they are, as SQLAlchemy reads them.
    """
    kind = scheme.lower().partition("+")[0]
    if kind in ("sqlite", "file"):
        return "", "", rest
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" not in authority and ":" in authority and not re.fullmatch(r"(\[.*\]|[^:]*):\d*", authority):
        before_query = re.split(r"\?", rest, maxsplit=1)[0] if "/" in rest.partition("?")[0] else rest
        if "@" in before_query:
            authority = before_query.rpartition("@")[0] + "@"
    if "@" not in authority:
        return "", "", rest
    login = authority.rpartition("@")[0]
    return login, "@", rest[len(login) + 1 :]


def _mask_login(login: str) -> str:
    name, separator, password = login.partition(":")
    encoded = re.search(r"(?i)%3a", name)
    if encoded:
        return f"{name[: encoded.start()]}:{HIDDEN}"
    if separator:
        return f"{name}:{HIDDEN}" if password else login
    return HIDDEN if _TOKEN.search(name) or len(name) >= 24 else name


def _mask_values(place: str) -> str:
    """Hide the secret values among ``name=value`` in a query or fragment."""
    head, mark, query = re.match(r"([^?#]*)([?#]?)(.*)", place, re.DOTALL).groups()  # type: ignore[union-attr]
    if not mark:
        return place
    parts = re.split(r"([&;#?])", query)
    return head + mark + "".join(_mask_value(part) for part in parts)


def _mask_value(part: str) -> str:
    name, separator, value = part.partition("=")
    if not separator or not value:
        return part
    key = unquote_plus(name).strip().lower()
    if key in _SECRET_NAMES or _SECRET_PART.search(key):
        return f"{name}={HIDDEN}"
    decoded = unquote_plus(value)
    inner = _ASSIGNED.sub(rf"\1\2{HIDDEN}", _ADDRESS.sub(lambda found: mask_uri(found[0]), decoded))
    return part if inner == decoded else f"{name}={quote(inner, safe='*')}"


def _known_secrets() -> list[str]:
    """Return the secrets that this process's environment holds, the longest first."""
    found: set[str] = set()
    for name, value in os.environ.items():
        if name in _ADDRESS_VARIABLES:
            found |= _passwords(value)
        elif _VARIABLES.search(name) and not name.endswith(("FILE", "PATH")):
            found |= {value, unquote(value)}
    return sorted((secret for secret in found if len(secret) >= _SHORTEST), key=len, reverse=True)


def _passwords(uri: str) -> set[str]:
    """Return the password before an address's host, as it is, decoded, and in the parts that errors may quote."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return set()
    login, _, place = _split_login(scheme, rest)
    password = login.partition(":")[2]
    parts = {password, unquote(password), *re.split(r"[@:/?#]", password)}
    shown = f"{scheme} {login.partition(':')[0]} {place}"
    return {part for part in parts if part and part not in shown}
