"""A study's frame to a folder of tables, figures and a report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from analysis.corrected import Corrected, correct, uncorrected
from analysis.corrected.by_cell import QUESTIONS, UNKNOWN
from analysis.measures.answers import StudyOutcomes
from analysis.published import PublishedOptions, publish
from analysis.reading.frame import Frame
from analysis.reading.observations import StudyOrigin, adapters, cells
from analysis.report.figures.draw import RAW, SHOWN, Drawing, LeftOut, draw
from analysis.report.page import write_report
from registry.errors import unknown
from registry.tracking.columns import WITH_CHECKSUMS

__all__ = ["VARIANT", "Analysis", "analyze", "by_variant"]


@dataclass(frozen=True)
class Analysis:
    """What an analysis wrote.

    Attributes
    ----------
    output
        The folder; it can be moved or logged as a whole, its links are relative.
    report
        The report in it.
    files
        Every file written, the report last.
    regimes
        The headline table, of `analysis.corrected.regimes`.
    corrected
        The corrected layer.
    left_out
        Parts this grid did not allow, with reasons.
    notes
        What a reader must know about the data.
    noise_notes
        What a reader must know about the outcomes of questions.
    runs_left_out
        Those of the notes that say which runs of the study do not count.
    """

    output: Path
    report: Path
    files: tuple[Path, ...]
    regimes: pd.DataFrame
    corrected: Corrected
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    noise_notes: tuple[str, ...] = ()
    runs_left_out: tuple[str, ...] = ()

    @property
    def noise(self) -> str:
        """How the sampling noise is known."""
        if not self.corrected.computed:
            return "not analysed"
        known = sorted(set(self.corrected.cells["noise"]) - {UNKNOWN})
        return self.corrected.assumed or ", ".join(known) or UNKNOWN


def analyze(
    frame: Frame,
    output: Path,
    options: PublishedOptions | None = None,
    *,
    corrected: bool = True,
    outcomes: StudyOutcomes | None = None,
    questions: int = QUESTIONS,
    heatmaps: str = RAW,
    origin: StudyOrigin | None = None,
) -> Analysis:
    """Compute every table and figure the grid allows and write them, with the report, into a folder.

    Parameters
    ----------
    frame
        The study as recorded.
    output
        Folder to write to; made if absent. The files of an earlier analysis are replaced.
    options
        Of the published analyses.
    corrected
        Whether the corrected layer is computed; the published one is there in any case.
    outcomes
        Outcomes of single questions; without them the sampling noise is assumed.
    questions
        Test items per target that are assumed then.
    heatmaps
        What of the cells the heatmaps show, one of `analysis.report.figures.draw.SHOWN`.
    origin
        Where the study was read from, for links; by default the frame's store without links.

    Raises
    ------
    Refused
        If heatmaps cannot show that.
    """
    if heatmaps not in SHOWN:
        raise unknown("kind of heatmap", heatmaps, SHOWN)
    output.mkdir(parents=True, exist_ok=True)
    several = VARIANT in frame.observations.columns and frame.observations[VARIANT].nunique() > 1
    frame, options = by_variant(frame, options or PublishedOptions())
    origin = origin or StudyOrigin(frame.store)
    by_cell = cells(frame.observations)
    published = publish(by_cell, options)
    if corrected:
        layer = correct(
            by_cell,
            # Outcomes do not say of which variant they are.
            outcomes=None if several else outcomes,
            published_variance=published.tables["variance"],
            vectors=options.vectors,
            questions=questions,
        )
    else:
        layer = uncorrected(by_cell, published_variance=published.tables["variance"])
    listed = adapters(frame.observations, origin)
    written = _write_parquet(output, {"cells": layer.cells, "observations": frame.observations})
    written += _write(output, layer.tables)
    written += _write(output, {"baselines": frame.baselines, "adapters": listed})
    written += _write(output / "published", published.tables)
    drawings, not_drawn = draw(output / "figures", published, layer, heatmaps=heatmaps)
    left_out = (*not_drawn, *layer.left_out, *published.left_out)
    downloads = [path.relative_to(output).as_posix() for path in written]
    report = write_report(
        output / "report.html", frame, published, layer, origin, listed, drawings, left_out, downloads
    )
    files = (*written, *_files(drawings), report)
    notes = (*frame.notes, *layer.notes)
    regimes = layer.tables["regimes"]
    return Analysis(output, report, files, regimes, layer, left_out, notes, runs_left_out=frame.left_out)


def _files(drawings: list[Drawing]) -> list[Path]:
    return [path for drawing in drawings for path in drawing.files]


def _write_parquet(output: Path, frames: dict[str, pd.DataFrame]) -> list[Path]:
    """Write frames as Parquet; return the files."""
    for name, table in frames.items():
        table.to_parquet(output / f"{name}.parquet", index=False, **WITH_CHECKSUMS)
    return [output / f"{name}.parquet" for name in frames]


def _write(folder: Path, tables: dict[str, pd.DataFrame]) -> list[Path]:
    """Write the tables that have rows as CSV, and remove those of an earlier analysis that have none."""
    folder.mkdir(exist_ok=True)
    written = []
    for name, table in tables.items():
        path = folder / f"{name}.csv"
        if table.empty:
            path.unlink(missing_ok=True)
            continue
        table.to_csv(path, index=False)
        written.append(path)
    return written


# --- a frame that holds several variants of one study: one is analysed, the others are compared with it


#: The column of the observations that names variants, in frames that have any.
VARIANT = "variant"


def by_variant(frame: Frame, options: PublishedOptions) -> tuple[Frame, PublishedOptions]:
    """Return the frame of the variant with the most observations (ties: the first by name), and options to compare.

    A frame without the column, or with one variant, is returned as it is.
    """
    seen = frame.observations
    if VARIANT not in seen.columns or seen[VARIANT].nunique() < 2:
        return frame, options
    counts = seen[VARIANT].astype(str).value_counts()
    chosen = min(counts.index, key=lambda name: (-counts[name], name))
    others = sorted(name for name in counts.index if name != chosen)
    note = (
        f"The study holds the variants {', '.join(sorted(counts.index))}. All tables but the comparison of variants "
        f"are of {chosen!r}."
    )
    named = seen[VARIANT].astype(str)
    against = {name: cells(seen[named == name]) for name in others}
    main = replace(frame, observations=seen[named == chosen].reset_index(drop=True), notes=(*frame.notes, note))
    return main, replace(options, against={**options.against, **against}, name=chosen)
