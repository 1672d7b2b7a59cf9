"""The corrected analyses, reported beside the published ones and never in their place."""

from analysis.corrected.correct import Corrected, correct, uncorrected

__all__ = ["Corrected", "correct", "uncorrected"]
