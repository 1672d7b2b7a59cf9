"""From recorded runs to tables, figures and a report."""

from analysis.analysis import Analysis, analyze
from analysis.corrected.regimes import regimes_as_text
from analysis.figures import LeftOut
from analysis.frame import EmptyStudyError, Frame, load
from analysis.observations import cells
from analysis.record import record_analysis
from analysis.recorded import InconsistentRunError

__all__ = [
    "Analysis",
    "EmptyStudyError",
    "Frame",
    "InconsistentRunError",
    "LeftOut",
    "analyze",
    "cells",
    "load",
    "record_analysis",
    "regimes_as_text",
]
