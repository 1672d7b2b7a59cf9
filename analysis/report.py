"""The report: one HTML file that needs no network, no script and no other file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis.figures import Drawing, LeftOut
from analysis.figures.style import GRID, INK, MUTED, PAPER
from analysis.findings import findings
from analysis.frame import Frame
from analysis.numerals import counted, fixed, pp
from analysis.pareto import by_source_task
from analysis.roles import side_by_side

__all__ = ["write_report"]

_SHOWN = 10  # rows of a ranking that the report spells out; the CSV has all

#: The figures' own colours become the page's, so that they follow it into the dark.
_THEMED = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", PAPER: "var(--card)"}


def write_report(
    path: Path,
    frame: Frame,
    tables: Mapping[str, pd.DataFrame],
    drawings: Sequence[Drawing],
    left_out: Sequence[LeftOut],
    downloads: Sequence[str],
) -> Path:
    """Write the report of an analysis.

    Parameters
    ----------
    path
        File to write.
    frame
        The study as recorded.
    tables
        ``regimes``, ``contrasts``, ``roles`` and ``pareto`` as computed by the modules of those names.
    drawings, left_out
        The figures, and what this grid did not allow.
    downloads
        Addresses, relative to the report, of the files that lie beside it.
    """
    # StrictUndefined: a name misspelt in the template is an error here, not a hole in the report.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(pp=pp, fixed=fixed)
    points = tables["pareto"]
    html = environment.get_template("report.html.j2").render(
        study=frame.study,
        facts=_facts(frame),
        findings=findings(tables["regimes"], tables["contrasts"], tables["roles"]),
        regimes=_records(tables["regimes"]),
        contrasts=_records(tables["contrasts"]),
        figures={drawing.name: {"drawing": drawing, "svg": _inline(drawing)} for drawing in drawings},
        roles={factor: _records(side_by_side(tables["roles"], factor)) for factor in ("language", "task")},
        by_task=_records(by_source_task(points)),
        front=_records(points[points["on_front"]].sort_values("mt_cl_mean", ascending=False)),
        **_extremes(points),
        below_chance=_below_chance(frame.baselines),
        n_baselines=len(frame.baselines),
        one_model=frame.observations["model"].nunique() == 1,
        notes=frame.notes,
        left_out=left_out,
        downloads=downloads,
    )
    path.write_text(html, encoding="utf-8")
    return path


def _facts(frame: Frame) -> list[tuple[str, str]]:
    """Say what was run, as pairs of a term and its value."""
    seen = frame.observations
    models = seen[["model", "model_size_b"]].drop_duplicates().sort_values(["model_size_b", "model"])["model"]
    tasks = sorted({*seen["source_task"], *seen["target_task"]})
    languages = sorted({*seen["source_language"], *seen["target_language"]})
    seeds = sorted(seen["seed"].unique())
    adapters = seen["run_id"].nunique()
    targets = seen[["target_task", "target_language"]].drop_duplicates()
    sources = seen[["source_task", "source_language"]].drop_duplicates()
    return [
        ("Study", frame.study),
        ("Protocol", ", ".join(sorted({name or "not recorded" for name in seen["protocol"]}))),
        (counted(len(models), "base model"), ", ".join(models)),
        (counted(len(tasks), "task"), ", ".join(tasks)),
        (counted(len(languages), "language"), ", ".join(languages)),
        (counted(len(seeds), "seed"), ", ".join(map(str, seeds))),
        (
            "Adapters",
            f"{adapters:,}, from {counted(len(sources), 'source cell')}, on {counted(len(targets), 'target cell')}",
        ),
        ("Store", frame.store),
    ]


def _extremes(points: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Return the adapters with the highest and the lowest mean over all transfer targets, none of them twice."""
    ranked = points.dropna(subset=["transfer_mean"]).sort_values("transfer_mean", ascending=False, kind="stable")
    shown = min(_SHOWN, len(ranked) // 2)
    return {"best": _records(ranked.head(shown)), "worst": _records(ranked.tail(shown).iloc[::-1])}


def _below_chance(baselines: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the baselines below chance, the furthest below first."""
    flagged = baselines[baselines["below_chance"]]
    return _records(flagged.loc[(flagged["score"] - flagged["chance"]).sort_values(kind="stable").index])


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _inline(drawing: Drawing) -> Markup:
    """Return a figure's SVG for embedding: the page's colours, ids of its own, no prologue, comments or metadata.

    Its labels, which may hold names from users, are glyph outlines by then; the comments that repeat them go.
    """
    svg = drawing.svg.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{drawing.name}-", svg)
    svg = re.sub(r'(<svg\b[^>]*?) width="([0-9.]+)pt" height="[^"]*"', r'\1 style="--width: \2pt"', svg, count=1)
    for colour, variable in _THEMED.items():
        svg = svg.replace(colour, variable)
    label = Markup(' role="img" aria-label="{}"').format(drawing.alt)
    return Markup(svg.replace("<svg", f"<svg{label}", 1))  # matplotlib's output, without any text of a user
