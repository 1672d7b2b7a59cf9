"""The look of every figure, its labels, and how it is saved: the same bytes for the same data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "GRID", "INK", "MARKERS", "MUTED", "PAPER", "STYLE", "Drawing", "colours", "place_labels", "save",
    "short_model", "zero_lines",
]  # fmt: skip

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


# --- a saved figure


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


# --- labels of points that cover neither each other nor a point


_RINGS = (6.0, 11.0, 18.0, 27.0, 38.0, 52.0)  # distances from the point to try, in points
_NEAR = 11.0  # to keep off a line, a label goes no further than this
_LEADER_FROM = 15.0  # a label further away than this is tied to its point by a line
_DIRECTIONS = np.deg2rad([20, 160, 340, 200, 90, 270, 55, 125, 305, 235, 0, 180])


def place_labels(
    axes: Axes,
    points: ArrayLike,
    names: Sequence[str],
    *,
    others: ArrayLike = (),
    errors: ArrayLike | None = None,
    size: float = 8.5,
    radius: float = 4.0,
) -> list[str]:
    """Label points without overlaps, nearest free place first.

    Parameters
    ----------
    axes
        Axes whose limits, size and position are final but for the figure's layout, which is computed here.
    points
        Data coordinates of the points to label, n × 2.
    names
        The n labels.
    others
        Data coordinates of further points that no label may cover, m × 2.
    errors
        Half lengths of the points' error bars in data units, n × 2. Where there is a choice, labels keep off these bars
        and off the zero lines.
    size, radius
        Size of the text and radius of a point's marker, in points (1/72 inch).

    Returns
    -------
    list of str
        Names for which no place was free; they stay unlabelled.
    """
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("axes to be labelled must belong to a figure")
    figure.draw_without_rendering()  # fixes the layout, so that data coordinates can be turned into pixels
    scale = figure.dpi / 72
    at = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    pixels = axes.transData.transform(at)
    covered = axes.transData.transform(np.concatenate([at, np.asarray(others, dtype=np.float64).reshape(-1, 2)]))
    taken = np.hstack([covered - radius * scale, covered + radius * scale])
    lines = _lines(axes, at, np.zeros_like(at) if errors is None else np.asarray(errors, dtype=np.float64))
    unplaced = []
    for point, name in zip(pixels, names, strict=True):
        places = list(_candidates(point, _extent(name, size, scale), scale))
        near = [place for place in places if place[1] <= _NEAR]
        found = _free_place(near, np.concatenate([taken, lines]), axes.bbox) or _free_place(places, taken, axes.bbox)
        if found is None:
            unplaced.append(name)
            continue
        box, distance = found
        taken = np.concatenate([taken, [box.extents]])
        _write(axes, point, box, name, size=size, scale=scale, leader=distance > _LEADER_FROM)
    return unplaced


def _extent(text: str, size: float, scale: float) -> tuple[float, float]:
    """Return width and height of a line of text in pixels."""
    outline = TextPath((0, 0), text, prop=FontProperties(family="DejaVu Sans", size=size), usetex=False)
    return float(outline.get_extents().width) * scale, size * 1.15 * scale


def _lines(axes: Axes, at: NDArray[np.float64], errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return error bars and zero lines as boxes in pixels: x0, y0, x1, y1."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    across, up = errors * [1, 0], errors * [0, 1]
    starts = np.concatenate([at - across, at - up, [(left, 0.0), (0.0, bottom)]])
    ends = np.concatenate([at + across, at + up, [(right, 0.0), (0.0, top)]])
    return np.hstack([axes.transData.transform(starts), axes.transData.transform(ends)])


def _free_place(
    places: Sequence[tuple[Bbox, float]], taken: NDArray[np.float64], within: Bbox
) -> tuple[Bbox, float] | None:
    """Return the first place (box in pixels, distance) that lies within the axes and overlaps nothing taken."""
    for box, distance in places:
        inside = box.x0 >= within.x0 and box.x1 <= within.x1 and box.y0 >= within.y0 and box.y1 <= within.y1
        overlaps = (taken[:, 0] < box.x1) & (taken[:, 2] > box.x0) & (taken[:, 1] < box.y1) & (taken[:, 3] > box.y0)
        if inside and not overlaps.any():
            return box, distance
    return None


def _candidates(point: NDArray[np.float64], extent: tuple[float, float], scale: float) -> Iterator[tuple[Bbox, float]]:
    """Yield boxes around a point, ring by ring; the side of the box that faces the point touches the ring."""
    width, height = extent
    for distance in _RINGS:
        for angle in _DIRECTIONS:
            dx, dy = np.cos(angle), np.sin(angle)
            x0 = point[0] + distance * scale * dx - width * (1 - dx) / 2
            y0 = point[1] + distance * scale * dy - height * (1 - dy) / 2
            yield Bbox.from_bounds(x0 - scale, y0 - scale, width + 2 * scale, height + 2 * scale), distance


def _write(
    axes: Axes, point: NDArray[np.float64], box: Bbox, name: str, *, size: float, scale: float, leader: bool
) -> None:
    """Write a label into its box, as an offset from its point so that it survives a change of resolution."""
    centre = np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2])
    label = axes.annotate(
        name,
        xy=tuple(axes.transData.inverted().transform(point)),
        xytext=tuple((centre - point) / scale),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=size,
        color=INK,
        zorder=5,
        arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.5, "linestyle": ":", "shrinkA": 0, "shrinkB": 3}
        if leader
        else None,
    )
    label.set_in_layout(False)
