"""A figure as saved, with what is said of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Drawing"]


@dataclass(frozen=True)
class Drawing:
    """A figure as saved: its name, caption, text alternative and files.

    ``table`` is the address, relative to the report, of the numbers behind it. ``others`` are further versions of the
    figure, which the report links to: what each shows, its PNG and its SVG.
    """

    name: str
    title: str
    caption: str
    alt: str
    png: Path
    svg: Path
    table: str = ""
    others: tuple[tuple[str, Path, Path], ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the figure."""
        return (self.png, self.svg, *(path for _, *paths in self.others for path in paths))
