"""What a careful reader should believe: analyses that stand beside the published ones, never in their place."""

from analysis.corrected.correct import Corrected, correct, uncorrected

__all__ = ["Corrected", "correct", "uncorrected"]
