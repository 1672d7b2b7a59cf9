"""What the report says of each published analysis, and what to beware of."""

from __future__ import annotations

from typing import Final

__all__ = [
    "ABLATION",
    "CONSISTENCY",
    "CONSTRUCTION",
    "HARM",
    "LINGUISTIC",
    "MATRICES",
    "PARETO",
    "ROLES",
    "UPLIFT",
    "VARIANCE",
    "VARIANCE_WARNINGS",
]

UPLIFT: Final = (
    "Mean and median Δ, and the shares of cells above 0 (positive) and at or below −1 pp (harm). Transfer is the "
    "three regimes other than MT-ML.",
)

HARM: Final = ("The cells of the same task in another language (MT-CL), one way of dividing them at a time.",)

CONSTRUCTION: Final = (
    "By construction type: whether people or machines translated the items of a task. That is known of the paper's "
    "four tasks only.",
)

PARETO: Final = (
    "Every adapter by what it gives its own task in other languages and what it does to other tasks. The front, which"
    " is not in the paper, links the adapters that no other beats in one without losing in the other.",
    "The ends of a ranking are partly luck: expect its first and last adapters nearer the middle if measured again.",
)

ROLES: Final = (
    "A donor score is what a language or task gives as source, a recipient score what it gets as target: the mean "
    "within each base model, then over models. Languages are scored on MT-CL cells, tasks on CT-ML cells. The "
    "standard error (SE) is that over models, where there are several; it leaves out the choice of partners, so the "
    "real uncertainty is larger, and it says nothing about models other than those run.",
    "A family's score is the mean of its languages' scores: Romance, Germanic and Indic; any other language stands "
    "alone.",
)

MATRICES: Final = ("Mean Δ from each source to each target, over everything else.",)

VARIANCE: Final = (
    "How much of the differences between cells goes with the base model, the source, the target, and none of them, in"
    " percent: a mixed model with an intercept alone, fitted by REML with statsmodels, groups being base models. That"
    " library can be asked for it in two ways, and both are here; without model intercept there is no Model share.",
)

VARIANCE_WARNINGS: Final = (
    "Source here is source plus model:source, and Target is target plus model:target: both components are nested in "
    "the base model. In a simulation in which no source effect was common to the models, this fit still reported 15.7"
    " % for Source. So it cannot tell “some donors are good for every model” from “every model has its own donors”.",
    "The standard error of the grand mean from this fit is 26–29 % too small, so none is shown.",
)

CONSISTENCY: Final = (
    "Do models agree on whom a source helps most? For each source cell, Kendall's τ-b between every two models over "
    "the recipients that both have (three at least), averaged over pairs; shown are median and quartiles over source "
    "cells. Recipients are languages (MT-CL), tasks (CT-ML) or cells (CT-CL). Families and size buckets stand for "
    "models where it says so.",
    "Noise lowers this index: in simulations two models with the very same true profile reached a median of 0.37 to "
    "0.63 only, with 0.9 pp of noise per cell.",
)

LINGUISTIC: Final = (
    "Mean MT-CL Δ of each ordered pair of languages against the cosine distance of their typological vectors.",
    "These p-values take the pairs for independent, though each language is in many. In simulations without any "
    "relation p fell below 0.05 in 22 % of the cases.",
)

ABLATION: Final = (
    "The cells (base model, source, target) that two variants or studies share: correlation of Δ, share of cells with"
    " the same sign, and the first's Δ minus the second's.",
)
