"""A frame that holds several variants of one study: one is analysed, the others are compared with it."""

from __future__ import annotations

from dataclasses import replace

from analysis.frame import Frame
from analysis.observations import cells
from analysis.published import Options

__all__ = ["VARIANT", "by_variant"]

#: The column of the observations that names variants, in frames that have any.
VARIANT = "variant"


def by_variant(frame: Frame, options: Options) -> tuple[Frame, Options]:
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
