"""The findings in words, generated from the corrected numbers and no stronger than they are."""

from __future__ import annotations

import math

import pandas as pd

from analysis.corrected import Corrected
from analysis.corrected.regimes import ONE_MODEL, scoped_intervals
from analysis.measures.levels import SIGNIFICANT
from analysis.measures.numerals import fixed, interval, pp, quantity
from analysis.measures.transfer import TRANSFER
from analysis.published.roles import DONOR, RECIPIENT
from analysis.reading.frame import Frame
from analysis.reading.observations import StudyOrigin
from analysis.report.corrected import unidentified
from registry.cells import Regime
from registry.tracking.columns import SOURCE, TARGET

__all__ = ["adapter_count", "cautions", "facts", "findings"]


def findings(corrected: Corrected) -> list[str]:
    """Return the sentences of the report's first paragraph; parts that were not measured have none."""
    tables = corrected.tables
    by_regime = tables["regimes"].set_index("regime")
    transfer = by_regime.loc[TRANSFER]
    if not transfer["n"]:
        sentences = ["No cell counts as transfer: every adapter was evaluated on its own cell only."]
    else:
        sentences = [_overall(by_regime.loc[[TRANSFER]]), _rates(transfer), _single(tables["tests"])]
    sentences += [_own_cell(by_regime.loc[str(Regime.MT_ML)]), _contrasts(tables["contrasts"])]
    sentences.append(_languages(tables["roles"], tables["role_differences"]))
    return [sentence for sentence in sentences if sentence]


def _overall(table: pd.DataFrame) -> str:
    row = table.iloc[0]
    sentence = f"Over {row['n']:,} transfer cells the mean Δ is {pp(row['mean'])} pp"
    scopes = {scope: ends.iloc[0] for scope, ends in scoped_intervals(table).items()}
    known = {scope: (ends["low"], ends["high"]) for scope, ends in scopes.items() if ends.notna().all()}
    if not known:
        return f"{sentence}; this grid does not show whether that holds beyond these cells."
    widest, (low, high) = list(known.items())[-1]
    sure = "not significantly different from zero" if low <= 0 <= high else "significantly different from zero"
    said = ", ".join(f"{interval(*ends)} for {scope}" for scope, ends in known.items())
    return f"{sentence} (95%: {said}): for {widest}, that is {sure}."


def _rates(row: pd.Series) -> str:
    raw = f"As measured, {fixed(row['positive_pct'], 1)}% of them gain and {fixed(row['harm_pct'], 1)}% are harmed"
    if math.isnan(row["harm_posterior_pct"]):
        return f"{raw} (Δ ≤ −1 pp)."
    chance = f"{fixed(row['positive_by_chance_pct'], 1)}% and {fixed(row['harm_by_chance_pct'], 1)}%"
    return (
        f"{raw} (Δ ≤ −1 pp); noise alone, without any transfer, would show {chance}. Corrected for noise, "
        f"{_corrected(row, 'positive')} gain and {_corrected(row, 'harm')} are harmed."
    )


def _corrected(row: pd.Series, rate: str) -> str:
    ends = f"{fixed(row[f'{rate}_low_pct'], 1)} to {fixed(row[f'{rate}_high_pct'], 1)}"
    return f"{fixed(row[f'{rate}_posterior_pct'], 1)}% ({ends})"


def _single(tests: pd.DataFrame) -> str:
    row = tests[tests["regime"] == TRANSFER]
    if row.empty or not row["n_tested"].iloc[0]:
        return ""
    found = row.iloc[0]
    return (
        f"Of {found['n_tested']:,} cells tested one by one, {found['gains']:,} improved significantly and "
        f"{found['losses']:,} declined significantly (q ≤ 0.05)."
    )


def _own_cell(row: pd.Series) -> str:
    if not row["n"]:
        return ""
    said = f" ({interval(row['low'], row['high'])})" if not math.isnan(row["low"]) else ""
    return f"On the very cell it was trained on, an adapter changes the score by {pp(row['mean'])} pp{said} on average."


def _contrasts(table: pd.DataFrame) -> str:
    """Compare MT-CL with the off-task regimes in one sentence."""
    if table.empty:
        return ""
    measured = table[table["contrast"].str.startswith(str(Regime.MT_CL))].dropna(subset="estimate")
    said = [f"{row['contrast']} is {pp(row['estimate'])} pp, {_strength(row)}" for _, row in measured.iterrows()]
    return f"At equal models, sources and targets, {'; '.join(said)}." if said else ""


def _strength(row: pd.Series) -> str:
    """Say what is known of a difference."""
    if math.isnan(row["low"]):
        return "with no interval that this grid could estimate"
    p = "p < 0.001" if row["p"] < 0.001 else f"p {fixed(row['p'], 3)}"
    doubt = "" if row["p"] <= SIGNIFICANT else ", not significant"
    return f"{interval(row['low'], row['high'])}, {p}{doubt}"


def _languages(roles: pd.DataFrame, differences: pd.DataFrame) -> str:
    """Name the highest scores with their ranks' intervals, and how many pairs differ at all."""
    if roles.empty:
        return ""
    said = [_best(roles, role) for role in (DONOR, RECIPIENT)]
    if not all(said):
        return ""
    sentence = f"{said[0][:1].upper()}{said[0][1:]}; {said[1]}."
    counts = differences[(differences["factor"] == "language") & (differences["n_pairs"] > 0)]
    if counts.empty:
        return f"{sentence} This grid distinguishes no two of them."
    pairs = " and ".join(
        f"{row['n_different']} of {row['n_pairs']} pairs as {row['role']}s" for _, row in counts.iterrows()
    )
    return f"{sentence} Of the languages, {pairs} differ significantly (adjusted p ≤ 0.05)."


def _best(roles: pd.DataFrame, role: str) -> str:
    rows = roles[(roles["factor"] == "language") & (roles["role"] == role)]
    if len(rows) < 2:
        return ""
    best = rows.loc[rows["score"].idxmax()]
    ranks = "" if math.isnan(best["rank_low"]) else f", rank {best['rank_low']:.0f} to {best['rank_high']:.0f}"
    # In quotes: "it", "is" and "no" are languages too.
    return f"as a {role} “{best['name']}” scores highest ({pp(best['score'])} pp{ranks})"


def cautions(corrected: Corrected) -> list[tuple[str, str]]:
    """Return what to beware of before believing any number: a title and a sentence each."""
    tables = corrected.tables
    by_regime = tables["regimes"].set_index("regime")
    transfer = by_regime.loc[TRANSFER]
    found = []
    if corrected.assumed:
        found.append(("Sampling noise is assumed", _ASSUMED.format(corrected.assumed)))
    if _noise_dominates(transfer):
        chance, harm = fixed(transfer["harm_by_chance_pct"], 1), fixed(transfer["harm_pct"], 1)
        found.append(
            (
                "Noise dominates the raw rates",
                f"Of the transfer cells {harm}% are at or below −1 pp; without any transfer, noise alone would put "
                f"{chance}% there. Use the corrected rates, and check q before interpreting a single cell.",
            )
        )
    if ONE_MODEL in scoped_intervals(by_regime.loc[[TRANSFER]]):
        found.append(
            ("One model", "Every interval here holds for this model only and says nothing about other models.")
        )
    if lost := unidentified(tables["variance_components"]):
        said = (
            f"This grid does not identify the variance of {', '.join(lost)}; the notes in the table give the reasons."
        )
        found.append(("Components that are not identified", said))
    return found


_ASSUMED = (
    "No outcomes of single questions are recorded. Tests, shrunken estimates, corrected rates and the sampling share "
    "therefore depend on this assumption: {}."
)


def _noise_dominates(row: pd.Series) -> bool:
    """Whether noise alone would show at least half of the harm that was measured."""
    return bool(row["n"] and row["harm_pct"] > 0 and row["harm_by_chance_pct"] >= 0.5 * row["harm_pct"])


# --- what was run, in the words of the report's first table


def facts(frame: Frame, origin: StudyOrigin) -> list[tuple[str, str]]:
    """Say what was run, as pairs of a term and its value."""
    seen = frame.observations
    models = seen[["model", "model_size_b"]].drop_duplicates().sort_values(["model_size_b", "model"])["model"]
    models = models.drop_duplicates()
    tasks = sorted({*seen["source_task"], *seen["target_task"]})
    languages = sorted({*seen["source_language"], *seen["target_language"]})
    targets, sources = seen[TARGET].drop_duplicates(), seen[SOURCE].drop_duplicates()
    grid = f"from {quantity(len(sources), 'source cell')}, on {quantity(len(targets), 'target cell')}"
    found = [
        ("Study", frame.study),
        ("Protocol", ", ".join(sorted({name or "not recorded" for name in seen["protocol"]}))),
        (quantity(len(models), "base model"), ", ".join(models)),
        (quantity(len(tasks), "task"), ", ".join(tasks)),
        (quantity(len(languages), "language"), ", ".join(languages)),
        _seeds(frame),
        *_scores(frame),
        ("Adapters", f"{adapter_count(frame):,}, {grid}"),
    ]
    if origin.recipe:
        found.append(("Recipe", ", ".join(f"{name} {value}" for name, value in origin.recipe.items())))
    return [*found, ("Store", frame.store)]


def _scores(frame: Frame) -> list[tuple[str, str]]:
    """Say which accuracy is the score of each task, where the runs say it."""
    tasks: dict[str, list[str]] = {}
    for task, name in sorted(frame.headlines.items()):
        tasks.setdefault(name, []).append(task)
    shown = (name if len(tasks) == 1 else f"{name} ({', '.join(those)})" for name, those in sorted(tasks.items()))
    return [("Score", ", ".join(shown))] if tasks else []


def adapter_count(frame: Frame) -> int:
    """Return how many adapters were evaluated: distinct (model, source, seed)."""
    key = ["model", *SOURCE]
    if frame.seed_averaged:
        return int(frame.observations.groupby(key)["n_seeds"].max().sum())
    return len(frame.observations[[*key, "seed"]].drop_duplicates())


def _seeds(frame: Frame) -> tuple[str, str]:
    """Name the seeds, or say how many there were where only their mean is known."""
    if frame.seed_averaged:
        numbers = pd.Series(frame.observations["n_seeds"]).astype(int)
        most = f"{numbers.min()} to {numbers.max()}" if numbers.min() < numbers.max() else str(numbers.max())
        return ("Seeds", f"{most} per adapter, averaged before the import")
    seeds = sorted(frame.observations["seed"].unique())
    return (quantity(len(seeds), "seed"), ", ".join(map(str, seeds)))
