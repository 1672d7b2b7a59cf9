"""Sources ranked by what they are expected to give, with the risk to what is to be protected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.corrected.by_cell import QUESTIONS
from analysis.corrected.noise import NoiseTable
from analysis.measures.levels import TAILS
from analysis.measures.numerals import aligned, fixed, pp
from analysis.published.linguistic import LanguageVectors
from analysis.reading.frame import Frame
from analysis.reading.observations import cell_names
from analysis.reading.observations import cells as averaged
from analysis.recommend.error import leave_one_source_out, trust
from analysis.recommend.expectation import Expectation, expectation
from analysis.recommend.prediction import ExpectedEffects
from registry.cells import HARM_PP, Cell, regime_of
from registry.errors import Refused, unknown
from registry.files.outputs import staged

__all__ = [
    "COLUMNS", "MEASURED", "NEW", "OTHER_BASES", "PARTLY", "Recommendation", "SourceCandidate", "candidates",
    "recommend",
]  # fmt: skip

_FILES = ("recommend.csv", "recommend_errors.csv", "recommend.txt")

Array = NDArray[np.float64]

#: Gains, effects and measured deltas in pp, risks as probabilities; ``low`` and ``high`` bound 95%.
COLUMNS = [
    "rank", "source", "basis", "gain", "low", "high", "p_gain", "measured", "regime_mean", "risk", "worst_protected",
    "worst_effect", "worst_risk", "versions",
]  # fmt: skip

_DRAWS = 2_000


@dataclass(frozen=True)
class Recommendation:
    """What to take or to train.

    Attributes
    ----------
    table
        `COLUMNS`, the highest expected gain first. ``gain`` is the mean true effect on the wanted targets, ``measured``
        the mean delta there (NaN unless all were measured), ``risk`` the probability that any protected target is
        harmed, that is at or below −1 pp; ``worst_protected`` the one likeliest harmed.
    errors
        Of :func:`analysis.recommend.error.leave_one_source_out`.
    notes
        What a reader must know: how the noise is known, what predictions are worth.
    """

    model: str
    want: tuple[Cell, ...]
    protect: tuple[Cell, ...]
    table: pd.DataFrame
    errors: pd.DataFrame
    notes: tuple[str, ...]

    def text(self, rows: int = 20) -> str:
        """Write the first rows of the table, and the notes."""
        shown = self.table.head(rows)
        columns = {
            "": shown["rank"].astype(str),
            "source": shown["source"],
            "gain, pp": shown["gain"].map(pp),
            "95%": [f"{pp(low)} to {pp(high)}" for low, high in zip(shown["low"], shown["high"], strict=True)],
            "measured": shown["measured"].map(pp),
            "regime mean": shown["regime_mean"].map(pp),
        }
        if self.protect:
            columns["risk of harm"] = [f"{fixed(100 * risk, 0)}%" for risk in shown["risk"]]
            columns["likeliest harmed"] = [
                f"{name} {pp(effect)} ({fixed(100 * risk, 0)}%)"
                for name, effect, risk in zip(
                    shown["worst_protected"], shown["worst_effect"], shown["worst_risk"], strict=True
                )
            ]
        columns |= {"basis": shown["basis"], "adapters": shown["versions"]}
        lines = aligned([list(columns), *zip(*columns.values(), strict=True)])
        more = len(self.table) - len(shown)
        return "\n".join([lines, *([f"… and {more} more"] if more else []), "", *self.notes])

    def write(self, folder: Path) -> tuple[Path, ...]:
        """Write the table, its errors and the text into a folder, made if absent; return the files."""
        with staged(folder, "recommend", is_former=_is_former) as staging:
            files = [staging.folder / name for name in _FILES]
            self.table.to_csv(files[0], index=False)
            self.errors.to_csv(files[1], index=False)
            files[2].write_text(self.text(len(self.table)) + "\n", encoding="utf-8")
        return tuple(folder / name for name in _FILES)


def _is_former(file: Path) -> bool:
    """Whether a file was written before a list of them was kept: then all of them are there."""
    return all((file.parent / name).is_file() for name in _FILES)


def recommend(
    frame: Frame,
    measured: NoiseTable | None = None,
    *,
    model: str = "",
    want: Sequence[Cell],
    protect: Sequence[Cell] = (),
    vectors: LanguageVectors | None = None,
    questions: int | Mapping[str, int] = QUESTIONS,
    cache: Path | None = None,
) -> Recommendation:
    """Rank a base's trained and untrained sources by their expected gain on the wanted targets.

    Parameters
    ----------
    frame
        The study as recorded.
    measured
        Sampling noise measured over the outcomes of questions; without it it is assumed, which the notes say.
    model
        The base; may be left out where there is one.
    want, protect
        Targets; one that is wanted is not protected besides.
    vectors, questions, cache
        See :func:`analysis.recommend.expectation.expectation`.

    Raises
    ------
    Refused
        If the base or a target is not in the study, or nothing is wanted.
    """
    cells = averaged(frame.observations)
    model = _base(model, cells)
    wanted, protected = _targets(cells, want, protect)
    expected = expectation(cells, measured, vectors=vectors, questions=questions, cache=cache)
    found = candidates(expected.cells, frame.observations, model=model, targets=(*wanted, *protected))
    effects = expected.of(model, [candidate.source for candidate in found], (*wanted, *protected))
    observed = _AsMeasured(expected.cells[expected.cells["model"] == model])
    rows = [
        _row(candidate, of_source, wanted, protected) | observed.on(candidate.source, wanted)
        for candidate, of_source in zip(found, effects, strict=True)
    ]
    table = pd.DataFrame(rows).sort_values(["gain", "source"], ascending=[False, True], ignore_index=True)
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    errors = leave_one_source_out(expected, model)
    notes = (*expected.notes, *_said(expected, protected), *trust(errors))
    return Recommendation(model, wanted, protected, table[COLUMNS], errors, notes)


def _base(model: str, cells: pd.DataFrame) -> str:
    models = sorted(map(str, cells["model"].unique()))
    if not model and len(models) == 1:
        return models[0]
    if not model:
        raise Refused(f"the study has {len(models)} bases; add -P model= with one of {', '.join(models)}")
    if model not in models:
        raise unknown("evaluated base", model, models)
    return model


def _targets(
    cells: pd.DataFrame, want: Sequence[Cell], protect: Sequence[Cell]
) -> tuple[tuple[Cell, ...], tuple[Cell, ...]]:
    if not want:
        raise Refused("nothing is wanted; name targets with -P want=<task>/<language>, several by commas")
    known = set(cell_names(cells, "target"))
    for target in (*want, *protect):
        if str(target) not in known:
            raise unknown("evaluated target", str(target), known)
    wanted = tuple(dict.fromkeys(want))
    return wanted, tuple(target for target in dict.fromkeys(protect) if target not in wanted)


def _row(
    candidate: SourceCandidate, effects: ExpectedEffects, wanted: Sequence[Cell], protected: Sequence[Cell]
) -> dict[str, object]:
    """Return one row of the table, without its rank and what was measured."""
    count = len(wanted)
    gain = float(effects.mean[:count].mean())
    sd = float(np.sqrt(max(effects.covariance[:count, :count].mean(), 0.0)))
    half = float(stats.norm.ppf(TAILS[1])) * sd
    row = {"source": str(candidate.source), "basis": candidate.basis, "versions": ", ".join(candidate.versions)}
    numbers = {"gain": gain, "low": gain - half, "high": gain + half, "p_gain": _above(gain, sd)}
    return row | numbers | _risk(effects, protected, count)


def _above(mean: float, sd: float) -> float:
    """Return the probability that a normal effect is above 0."""
    return float(stats.norm.sf(-mean / sd)) if sd > 0 else float(mean > 0)


class _AsMeasured:
    """What was measured of a base: its cells' deltas, and the means of its regimes."""

    def __init__(self, cells: pd.DataFrame) -> None:
        pairs = zip(cell_names(cells, "source"), cell_names(cells, "target"), strict=True)
        self._deltas = dict(zip(pairs, cells["delta"], strict=True))
        self._means = {str(regime): float(mean) for regime, mean in cells.groupby("regime")["delta"].mean().items()}

    def on(self, source: Cell, wanted: Sequence[Cell]) -> dict[str, float]:
        """Return the mean delta of a source on the wanted targets, and that of their regimes."""
        deltas = [self._deltas.get((str(source), str(target)), np.nan) for target in wanted]
        means = [self._means.get(str(regime_of(source, target)), np.nan) for target in wanted]
        return {"measured": float(np.mean(deltas)), "regime_mean": float(np.mean(means))}


def _risk(effects: ExpectedEffects, protected: Sequence[Cell], start: int) -> dict[str, object]:
    """Return how likely any protected target is harmed, and which is likeliest."""
    if not protected:
        return {"risk": np.nan, "worst_protected": "", "worst_effect": np.nan, "worst_risk": np.nan}
    mean, covariance = effects.mean[start:], effects.covariance[start:, start:]
    sd = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    each = np.where(sd > 0, stats.norm.cdf((HARM_PP - mean) / np.where(sd > 0, sd, 1.0)), mean <= HARM_PP)
    worst = int(np.argmax(each))
    return {
        "risk": float(each[0]) if len(protected) == 1 else _any(mean, covariance, float(each[worst])),
        "worst_protected": str(protected[worst]),
        "worst_effect": float(mean[worst]),
        "worst_risk": float(each[worst]),
    }


def _any(mean: Array, covariance: Array, least: float) -> float:
    """Return the probability that one effect or more is harm, by draws of them jointly; at least that of the worst."""
    values, vectors = np.linalg.eigh(covariance)
    standard = np.random.default_rng(0).standard_normal((_DRAWS, len(mean)))  # the same for every source
    drawn = mean + (standard * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return max(float((drawn.min(axis=1) <= HARM_PP).mean()), least)


def _said(expected: Expectation, protected: Sequence[Cell]) -> list[str]:
    """Say what the columns are."""
    said = [f"Gain: expected true effect, shrunken from all cells of the study; noise {expected.noise}."]
    if protected:
        said.append(
            f"Risk of harm: the probability that the true effect on any of {len(protected)} protected targets is "
            f"{HARM_PP:g} pp or less."
        )
    return said


# --- which sources there are to choose from for a base: trained on it, on other bases, or on none


#: What an expectation rests on.
MEASURED, PARTLY = "measured", "partly measured"
OTHER_BASES, NEW = "predicted from other bases", "predicted, trained on no base"


@dataclass(frozen=True)
class SourceCandidate:
    """A source cell; ``versions`` are its registered adapters of the base, as ``name/version``."""

    source: Cell
    basis: str
    versions: tuple[str, ...]


def candidates(
    cells: pd.DataFrame, observations: pd.DataFrame, *, model: str, targets: Sequence[Cell]
) -> list[SourceCandidate]:
    """Return every source of a study, and every target as a source that may be trained.

    Parameters
    ----------
    cells
        Of all bases.
    observations
        Of all bases, for the versions that were measured.
    targets
        Those that are asked for; a source is ``measured`` if all of them were.
    """
    sources, of_targets = cell_names(cells, "source"), cell_names(cells, "target")
    mine = (cells["model"] == model).to_numpy()
    measured = set(zip(sources[mine], of_targets[mine], strict=True))
    versions = _versions(observations[observations["model"] == model])
    found = []
    for name in sorted(set(sources) | set(of_targets)):
        there = sum((name, str(target)) in measured for target in targets)
        if there == len(targets):
            basis = MEASURED
        elif there or name in set(sources[mine]):
            basis = PARTLY
        else:
            basis = OTHER_BASES if name in set(sources) else NEW
        found.append(SourceCandidate(Cell.parse(name), basis, versions.get(name, ())))
    return found


def _versions(observations: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Return the versions by source, by seed."""
    named = observations.assign(source=cell_names(observations, "source"))
    one_each = named.drop_duplicates(["source", "model_version"])
    one_each = one_each[one_each["model_version"].astype(str) != ""].sort_values(["source", "seed", "model_version"])
    return {str(name): tuple(rows["model_version"]) for name, rows in one_each.groupby("source")}
