"""The report: one HTML file that needs no network, no script and no other file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis.corrected import Corrected
from analysis.measures.numerals import fixed, pp
from analysis.published import Published
from analysis.reading.frame import Frame
from analysis.reading.observations import StudyOrigin, copy_cautions, cut_cautions
from analysis.report.corrected import parts as corrected_parts
from analysis.report.figures.draw import Drawing, LeftOut
from analysis.report.figures.style import GRID, INK, MUTED, PAPER
from analysis.report.findings import cautions, facts, findings
from analysis.report.published import parts as published_parts
from analysis.report.tables import ReportPart, headline_tables
from registry.tracking.columns import ADAPTER, INDISTINCT

__all__ = ["write_report"]

#: The figures' own colours become the page's, so that they follow it into the dark.
_THEMED = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", PAPER: "var(--card)"}


def write_report(
    path: Path,
    frame: Frame,
    published: Published,
    corrected: Corrected,
    origin: StudyOrigin,
    adapters: pd.DataFrame,
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
    published, corrected
        The two layers.
    origin, adapters
        Where the study was read from, and its adapters with their runs, of `analysis.reading.observations`.
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
    html = environment.get_template("page.html.j2").render(
        study=frame.study,
        facts=facts(frame, origin),
        experiment=origin.experiment_url(),
        findings=findings(corrected),
        cautions=[*copy_cautions(frame.notes), *cut_cautions(frame.notes), *cautions(corrected)],
        headline=headline_tables(corrected),
        figures={drawing.name: {"drawing": drawing, "svg": _inline(drawing)} for drawing in drawings},
        corrected=_shown(corrected_parts(corrected), drawings),
        published=_shown(published_parts(published), drawings),
        below_chance=_below_chance(frame.baselines),
        n_baselines=len(frame.baselines),
        indistinct=_indistinct(frame.baselines),
        adapters=_listed(adapters),
        notes=(*frame.notes, *corrected.notes),
        left_out=left_out,
        downloads=downloads,
    )
    path.write_text(html, encoding="utf-8")
    return path


def _listed(adapters: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one row per (model, source), with the runs of its seeds."""
    rows = []
    for (model, task, language), group in groupby(_records(adapters), key=itemgetter(*ADAPTER)):  # they come sorted
        seeds = list(group)
        known = [one["transfer_mean"] for one in seeds if np.isfinite(one["transfer_mean"])]
        mean = fmean(known) if known else float("nan")
        rows.append({"model": model, "source": f"{task}/{language}", "transfer_mean": mean, "seeds": seeds})
    return rows


def _shown(found: Sequence[ReportPart], drawings: Sequence[Drawing]) -> list[ReportPart]:
    """Return the parts that have a table with rows or a figure that was drawn."""
    drawn = {drawing.name for drawing in drawings}
    return [part for part in found if drawn & set(part.figures) or any(table.rows for table in part.tables)]


def _below_chance(baselines: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the baselines below chance, the furthest below first; ``q`` in words, since older runs have none."""
    flagged = baselines[baselines["below_chance"]]
    q = flagged["chance_q"] if "chance_q" in flagged else pd.Series(np.nan, flagged.index)
    flagged = flagged.assign(q=["not tested" if np.isnan(value) else f"{value:.2g}" for value in q])
    return _records(flagged.loc[(flagged["score"] - flagged["chance"]).sort_values(kind="stable").index])


def _indistinct(baselines: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the baselines with options that are the same tokens, the largest shares of questions first."""
    if INDISTINCT not in baselines:  # of an import, which does not say
        return []
    flagged = baselines[baselines[INDISTINCT] > 0]
    return _records(flagged.sort_values(INDISTINCT, ascending=False, kind="stable"))


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
