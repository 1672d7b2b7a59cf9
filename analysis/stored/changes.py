"""What is known of runs, and what a store says has changed since."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from analysis.recorded import Record
from registry.tracking.names import Kind, Tag

__all__ = ["KINDS", "Changes", "Known", "Stated", "digest", "own_tags"]

#: The kinds of runs that an analysis reads whole.
KINDS: Final = (Kind.BASELINE, Kind.EVALUATE)

#: Tags that say how a run was made and nothing of what it found; MLflow's own start with ``mlflow.``.
_PROCESS_TAGS = frozenset({Tag.HEARTBEAT, Tag.WORKER})


@dataclass(frozen=True, slots=True)
class Known:
    """A finished run that was read before: when it ended, and its state then."""

    kind: Kind
    ended: int
    state: str


@dataclass(frozen=True, slots=True)
class Stated:
    """A finished run as just read: where its artifacts are, and a digest of all that may be edited in it."""

    kind: Kind
    record: Record
    ended: int
    artifacts: str
    state: str


@dataclass(frozen=True)
class Changes:
    """Runs that are there no more or no longer finished, and runs to take instead of or beside the known."""

    gone: frozenset[str] = frozenset()
    read: tuple[Stated, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.gone or self.read)


def own_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that say what a run found."""
    return {name: value for name, value in tags.items() if not name.startswith("mlflow.") and name not in _PROCESS_TAGS}


def digest(*parts: object) -> str:
    """Return a digest of values by how Python prints them, which for numbers is exact."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
