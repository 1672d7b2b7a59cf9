"""What the report says of each corrected analysis, and what to beware of."""

from __future__ import annotations

from typing import Final

__all__ = ["CELLS", "CONSISTENCY", "CONTRASTS", "LINGUISTIC", "POWER", "RATES", "ROLES", "VARIANCE"]

CELLS: Final = (
    "Every cell is tested by its questions: for each, the adapters' correctness, averaged over seeds, minus the "
    "baseline's; a t test clustered by question, and by seed too where seeds disagree by more than their questions "
    "explain. q is p adjusted over all transfer cells of the study (Benjamini and Hochberg), so that of the cells with "
    "q ≤ 0.05 about one in twenty is there by chance.",
    "The shrunken estimate of a cell draws its Δ towards what its model, source and target make likely, by as much as "
    "its noise asks for.",
)

RATES: Final = (
    "How many cells gain (Δ above 0) and how many are harmed (Δ at or below −1 pp). Noise alone moves cells over both "
    "limits: “by chance” is what a study without any transfer would show, “corrected” is the mean probability that a "
    "cell's true effect is beyond the limit. Below are the sources with the highest corrected harm.",
)

CONTRASTS: Final = (
    "Regimes compared at equal models, sources and targets, by least squares with an effect for each of them. Errors "
    "are clustered by model and by pair of source and target, and the interval has models − 1 degrees of freedom, so "
    "that it holds for models at large.",
)

VARIANCE: Final = (
    "Seven components and the sampling noise, fitted by restricted maximum likelihood with every interaction, so that "
    "a source that is good for every model (source) is told from one that each model finds for itself (model:source). "
    "Estimates are not cut off at zero: one below it is no sign of the component.",
)

ROLES: Final = (
    "The scores of the published layer, with 95 % intervals by a bootstrap over models and partners at once. Ranks "
    "follow from simultaneous comparisons of every two names: all intervals of ranks hold together with 95 % "
    "confidence. Where they overlap, this study does not know the order.",
)

CONSISTENCY: Final = (
    "The published Consistency Index beside its ceiling: the index that raters with one and the same true profile "
    "would reach with noise like this study's.",
)

LINGUISTIC: Final = (
    "The published correlations, with p-values by permuting languages (QAP), which take into account that each "
    "language is in many pairs, beside the plain ones, which do not.",
)

POWER: Final = (
    "The smallest true effects that a study of this size would find four times out of five, at the level 0.05. What is "
    "smaller may be there and not be found: that a difference is not significant here is no sign that there is none.",
)
