"""How every figure looks, and how it is saved: the same bytes for the same data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = [
    "GRID",
    "INK",
    "MARKERS",
    "MUTED",
    "PAPER",
    "STYLE",
    "Drawing",
    "colours",
    "save",
    "short_model",
    "zero_lines",
]

#: Colours of text, secondary text and frame, grid lines and ground. The report exchanges them for its own.
INK, MUTED, GRID, PAPER = "#1b1f24", "#5f6b7a", "#d9dee5", "#fffffe"

# Typed loosely: matplotlib's own type of its settings is a union of three hundred names.
STYLE: Final[dict[Any, Any]] = {
    "svg.hashsalt": "donors-recipients",
    "svg.fonttype": "path",
    "text.parse_math": False,  # names come from users: a dollar sign is a dollar sign
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "figure.facecolor": PAPER,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.title_fontsize": 8.5,
}

# Okabe and Ito's colours for all kinds of colour vision, the darker first; black (ink) and yellow (too faint) left out.
_CATEGORIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

#: Marker shapes, the most distinct first.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "h", "d")


def colours(names: Sequence[str]) -> dict[str, str]:
    """Give every name a colour: colour-blind safe for up to six names, spread over the colour wheel beyond."""
    if len(names) <= len(_CATEGORIES):
        return dict(zip(names, _CATEGORIES, strict=False))
    wheel = mpl.colormaps["turbo"](np.linspace(0.06, 0.94, len(names)))
    return {name: mpl.colors.to_hex(colour) for name, colour in zip(names, wheel, strict=True)}


def short_model(name: str) -> str:
    """Return a model's name without its owner."""
    return name.rpartition("/")[2]


def zero_lines(axes: Axes) -> None:
    """Draw dashed lines at zero on both axes."""
    axes.axhline(0, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axes.axvline(0, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG, without dates or versions, so that equal data give equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    with mpl.rc_context(STYLE):
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
        figure.set_layout_engine("none")  # keeps what was laid out, which takes as long as the drawing
        figure.savefig(png, dpi=160, metadata={"Software": None})
    return [png, svg]


# --- a figure as saved, with what is said of it


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
