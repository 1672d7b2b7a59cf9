"""The findings in words, generated from the numbers and no stronger than they are."""

from __future__ import annotations

import math

import pandas as pd

from analysis.clusters import FEW_CLUSTERS
from analysis.numerals import fixed, pp
from analysis.regimes import TRANSFER
from analysis.roles import DONOR, RECIPIENT, side_by_side
from registry.cells import Regime

__all__ = ["findings"]

_CLEAR = 2.0  # standard errors from zero at which a sentence stops saying "not clearly"

_MEANING = {
    Regime.MT_CL: "on the same task in other languages",
    Regime.CT_ML: "on other tasks in the same language",
    Regime.CT_CL: "on other tasks in other languages",
}


def findings(regimes: pd.DataFrame, contrasts: pd.DataFrame, roles: pd.DataFrame) -> list[str]:
    """Return the sentences of the report's first paragraph; parts that were not measured have none."""
    by_regime = regimes.set_index("regime")
    sentences = [_overall(by_regime.loc[TRANSFER]), _own_cell(by_regime.loc[str(Regime.MT_ML)]), _order(by_regime)]
    sentences += [_contrasts(contrasts), _languages(side_by_side(roles, "language"))]
    return [sentence for sentence in sentences if sentence]


def _overall(row: pd.Series) -> str:
    if not row["n"]:
        return "No cell counts as transfer: every adapter was evaluated on its own cell only."
    return (
        f"Over {row['n']:,} transfer cells the mean Δ is {pp(row['mean'])} pp{_se(row['se'])} and the median "
        f"{pp(row['median'])} pp; {row['positive_pct']:.1f} % of the cells gain and {row['harm_pct']:.1f} % are harmed "
        "(Δ ≤ −1 pp)."
    )


def _own_cell(row: pd.Series) -> str:
    return (
        f"On the very cell it was trained on, an adapter changes the score by {pp(row['mean'])} pp on average."
        if row["n"]
        else ""
    )


def _order(by_regime: pd.DataFrame) -> str:
    measured = {
        meaning: by_regime.loc[str(regime), "mean"]
        for regime, meaning in _MEANING.items()
        if by_regime.loc[str(regime), "n"]
    }
    if len(measured) < 2:
        return ""
    best, worst = max(measured, key=measured.__getitem__), min(measured, key=measured.__getitem__)
    return f"Transfer is highest {best} ({pp(measured[best])} pp) and lowest {worst} ({pp(measured[worst])} pp)."


def _contrasts(table: pd.DataFrame) -> str:
    """Compare MT-CL with the off-task regimes in one sentence."""
    measured = table[table["contrast"].str.startswith(str(Regime.MT_CL)) & (table["n"] > 0)]
    parts = [
        f"{row['contrast']} is {pp(row['difference'])} pp{_se(row['se'])}, {_strength(row)}"
        for _, row in measured.iterrows()
    ]
    return f"Compared within the same adapters, {'; '.join(parts)}." if parts else ""


def _strength(row: pd.Series) -> str:
    """Say how far from zero a difference is, in standard errors, and how far to trust those."""
    if math.isnan(row["se"]):
        return "for which this grid allows no standard error"
    if abs(row["difference"]) < _CLEAR * row["se"]:
        return "within two standard errors of zero"
    doubt = " (which so few sources make too small)" if row["n_sources"] < FEW_CLUSTERS else ""
    return f"more than two standard errors{doubt} from zero"


def _languages(scores: pd.DataFrame) -> str:
    donors, recipients = scores.dropna(subset=[DONOR]), scores.dropna(subset=[RECIPIENT])
    if len(donors) < 2 or len(recipients) < 2:
        return ""
    best, last = donors.iloc[0], donors.iloc[-1]
    most = recipients.loc[recipients[RECIPIENT].idxmax()]
    # In quotes: "it", "is" and "no" are languages too.
    return (
        f"As a donor “{best['name']}” scores highest ({pp(best[DONOR])} pp) and “{last['name']}” lowest "
        f"({pp(last[DONOR])} pp); as a recipient, “{most['name']}” scores highest ({pp(most[RECIPIENT])} pp). "
        "Neighbours in these rankings are rarely distinguishable."
    )


def _se(value: float) -> str:
    return "" if math.isnan(value) else f" (SE {fixed(value)})"
