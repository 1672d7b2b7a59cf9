"""Recommendations: against equations written out in full, against refits without a source, and on planted truth."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.stats import spearmanr

from analysis.corrected.effects import shrink
from analysis.corrected.noise import NoiseTable, measured_noise
from analysis.measures.answers import RunKey, collect
from analysis.published.linguistic import LanguageVectors
from analysis.reading.frame import Frame
from analysis.reading.observations import cell_names
from analysis.reading.outcomes import RunAnswers, StoredOutcomes, study_outcomes
from analysis.reading.packed import PackedAnswers
from analysis.recommend import components
from analysis.recommend.components import components_of, stored_noise
from analysis.recommend.error import COLUMNS, EVERYWHERE, HERE, leave_one_source_out, trust
from analysis.recommend.expectation import expectation
from analysis.recommend.prediction import EffectPredictor
from analysis.recommend.recommendation import MEASURED, NEW, OTHER_BASES, recommend
from registry.cells import Cell, Regime
from registry.errors import Refused
from tests.analysis.synthetic import MODELS, synthetic_frame

BLOCK = ["model", "target_task", "target_language"]
VARIANCES = {
    "model": 0.3, "source": 0.6, "target": 0.5, "model:source": 0.2, "model:target": 0.4, "source:target": 0.3,
    "residual": 0.8,
}  # fmt: skip
MODEL = MODELS[0][0]


def _noise(cells: pd.DataFrame, seed: int = 0) -> NoiseTable:
    random = np.random.default_rng(seed)
    table = cells[BLOCK].drop_duplicates().reset_index(drop=True)
    v = random.uniform(0.3, 1.5, len(table))
    return NoiseTable(table.assign(n_sources=6, n_questions=400, v=v, c=v * random.uniform(0, 0.8, len(table))), "made")


def _design(cells: pd.DataFrame) -> np.ndarray:
    return np.stack([(cells["regime"] == str(regime)) for regime in Regime], axis=1).astype(float)


def _same(cells: pd.DataFrame, others: pd.DataFrame) -> dict[str, np.ndarray]:
    keys = {
        "model": lambda c: c["model"],
        "source": lambda c: cell_names(c, "source"),
        "target": lambda c: cell_names(c, "target"),
    }
    return {name: of(cells).to_numpy()[:, None] == of(others).to_numpy()[None, :] for name, of in keys.items()}


def _effects(cells: pd.DataFrame, others: pd.DataFrame, variances: Mapping[str, float]) -> np.ndarray:
    """Covariance of true effects, written out."""
    same = _same(cells, others)
    parts = [
        v * np.prod([same[part] for part in name.split(":")], axis=0)
        for name, v in variances.items()
        if name != "residual"
    ]
    return sum(parts) + variances["residual"] * np.prod(list(same.values()), axis=0)


def _dense(cells: pd.DataFrame, noise: NoiseTable, queries: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Universal kriging with every matrix in full: means of the queries, and the covariance of their errors."""
    found = cells.merge(noise.table, on=BLOCK, how="left")
    same = _same(cells, cells)
    sampling = np.where(same["model"] & same["target"], found["c"].to_numpy()[:, None], 0.0)
    np.fill_diagonal(sampling, found["v"])
    inverse = np.linalg.inv(_effects(cells, cells, VARIANCES) + sampling)
    x, x0, k = _design(cells), _design(queries), _effects(cells, queries, VARIANCES)
    information = np.linalg.inv(x.T @ inverse @ x)
    delta = cells["delta"].to_numpy()
    b = information @ x.T @ inverse @ delta
    off = x0 - k.T @ inverse @ x
    covariance = _effects(queries, queries, VARIANCES) - k.T @ inverse @ k + off @ information @ off.T
    return x0 @ b + k.T @ inverse @ (delta - x @ b), covariance


@pytest.fixture(scope="module")
def cells() -> pd.DataFrame:
    return synthetic_frame(3, 2, 3, seed=3, missing=0.15)


@pytest.mark.parametrize("left", ["nothing", "of this base", "of every base"])
def test_expectation_of_a_source_is_the_full_equations(cells: pd.DataFrame, left: str) -> None:
    source = Cell("global_mmlu", "de")
    whole = synthetic_frame(3, 2, 3, seed=3)
    queries = whole[(whole["model"] == MODEL) & (cell_names(whole, "source") == str(source))]
    of_source = cell_names(cells, "source") == str(source)
    gone = {
        "nothing": of_source & False,
        "of this base": of_source & (cells["model"] == MODEL),
        "of every base": of_source,
    }
    kept = cells[~gone[left]].reset_index(drop=True)
    noise = _noise(cells)
    mean, covariance = _dense(kept, noise, queries)
    effects = EffectPredictor(kept, VARIANCES, noise, _design(kept))
    other = "arc_challenge/ar"  # several sources at once do not touch each other
    targets = list(cell_names(queries, "target"))
    _, found = effects.expected(MODEL, [other, str(source)], targets, [_design(queries)] * 2)
    assert found.mean == pytest.approx(mean, abs=1e-9)
    assert found.covariance == pytest.approx(covariance, abs=1e-9)


def test_what_was_measured_is_expected_as_shrinkage_says(cells: pd.DataFrame) -> None:
    expected = expectation(cells)
    noise = _assumed(cells)
    posterior = shrink(cells, components_of(cells, noise), noise, means_by="regime")
    mine = (cells["model"] == MODEL) & (cell_names(cells, "source") == "arc_challenge/de")
    targets = [Cell.parse(name) for name in cell_names(cells[mine], "target")]
    (found,) = expected.of(MODEL, [Cell("arc_challenge", "de")], targets)
    assert found.mean == pytest.approx(posterior.mean[mine], rel=1e-12, abs=1e-12)
    assert np.sqrt(np.diag(found.covariance)) == pytest.approx(posterior.sd[mine], rel=1e-12, abs=1e-12)


def _assumed(cells: pd.DataFrame) -> NoiseTable:
    from analysis.corrected.noise import assumed_noise

    return assumed_noise(cells, n_questions=400)


# --- errors


def test_leaving_a_source_out_is_a_refit_without_it(cells: pd.DataFrame) -> None:
    noise = _noise(cells)
    effects = EffectPredictor(cells, VARIANCES, noise, _design(cells))
    sources = cell_names(cells, "source")
    for group in (sources == "global_mmlu/de", (sources == "global_mmlu/de") & (cells["model"] == MODEL)):
        assert group.sum() > 4
        kept = cells[~group].reset_index(drop=True)
        mean, _ = _dense(kept, noise, cells[group])
        assert effects.left_out(group.to_numpy()) == pytest.approx(mean, abs=1e-9)


def test_means_that_the_rest_does_not_tell_have_no_prediction() -> None:
    cells = synthetic_frame(2, 2, 2, seed=1)
    one = cells[cell_names(cells, "source") == "arc_challenge/ar"].reset_index(drop=True)
    effects = EffectPredictor(one, VARIANCES, _noise(one), _design(one))
    assert np.isnan(effects.left_out(np.ones(len(one), dtype=bool))).all()


def test_error_table_against_brute_force() -> None:
    cells = synthetic_frame(2, 2, 3, seed=5)
    expected = expectation(cells)
    table = leave_one_source_out(expected, MODEL).set_index(["left_out", "predictor"])
    own = cells[cells["model"] == MODEL].reset_index(drop=True)
    sources, targets = cell_names(own, "source"), cell_names(own, "target")
    noise, components = _assumed(cells), components_of(cells, _assumed(cells))
    for left_out in (HERE, EVERYWHERE):
        predicted, mean = np.zeros(len(own)), np.zeros(len(own))
        for source in sources.unique():
            gone = cell_names(cells, "source") == source
            kept = cells[~(gone & (cells["model"] == MODEL)) if left_out == HERE else ~gone].reset_index(drop=True)
            rows = own[sources == source]
            model = EffectPredictor(kept, components, noise, _design(kept))
            (found,) = model.expected(MODEL, [source], list(cell_names(rows, "target")), [_design(rows)])
            predicted[rows.index] = found.mean
            others = own[sources != source].groupby("regime")["delta"].mean()
            mean[rows.index] = others[rows["regime"]]
        row = table.loc[(left_out, "effects")]
        assert row["rmse"] == pytest.approx(math.sqrt(np.mean((predicted - own["delta"]) ** 2)), abs=1e-9)
        assert row["rank_correlation"] == pytest.approx(spearmanr(predicted, own["delta"]).statistic, abs=1e-9)
        row = table.loc[(left_out, "regime mean")]
        assert row["rmse"] == pytest.approx(math.sqrt(np.mean((mean - own["delta"]) ** 2)), abs=1e-9)
        if left_out == HERE:
            within = [
                spearmanr(predicted[targets == target], own.loc[targets == target, "delta"]).statistic
                for target in targets.unique()
            ]
            found = table.loc[(left_out, "effects"), "rank_within_targets"]
            assert found == pytest.approx(np.mean(within), abs=1e-9)


def test_donors_that_are_stable_across_bases_are_predicted_better_than_the_regime_mean() -> None:
    cells = synthetic_frame(5, 2, 5, seed=2, effects={"source": 2.0, "residual": 0.5})
    errors = leave_one_source_out(expectation(cells), MODEL)
    here = errors[errors["left_out"] == HERE].set_index("predictor")
    assert here.loc["effects", "rmse"] < 0.6 * here.loc["regime mean", "rmse"]
    assert here.loc["effects", "rank_within_targets"] > 0.8
    assert "better than the regime mean" in trust(errors)[0]
    assert "NO BETTER" not in trust(errors)[0]


def test_where_sources_do_not_differ_predictions_are_as_good_as_the_regime_mean() -> None:
    ratios = []
    for seed in range(6):
        cells = synthetic_frame(2, 2, 3, seed=seed, effects={"residual": 2.0})
        errors = leave_one_source_out(expectation(cells), MODEL).set_index(["left_out", "predictor"])["rmse"]
        ratios.append(errors[EVERYWHERE, "effects"] / errors[EVERYWHERE, "regime mean"])
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize(
    ("rmse", "within", "said"),
    [
        (1.3, 0.5, "predictions are NO BETTER than the regime mean: error (RMSE, pp) 1.30 against 1.20"),
        (1.2, 0.5, "predictions are NO BETTER than the regime mean"),
        (1.1, 0.1, "closer than the regime mean, but rank sources NO BETTER"),
        (1.1, 0.5, "predictions are better than the regime mean"),
        (math.nan, math.nan, "nothing here allows a comparison"),
    ],
)
def test_it_says_when_predictions_are_no_better(rmse: float, within: float, said: str) -> None:
    rows = [(HERE, "effects", 4, 16, rmse, 0.4, within), (HERE, "regime mean", 4, 16, 1.2, 0.1, 0.2)]
    (sentence,) = trust(pd.DataFrame(rows, columns=COLUMNS))
    assert said in sentence
    assert sentence.startswith("Sources trained on other bases alone")


# --- recommendations


def _frame(cells: pd.DataFrame) -> Frame:
    names = cells["model"].str.replace("/", "-") + "--" + cells["source_task"] + "--" + cells["source_language"]
    observations = cells.drop(columns=["delta_sd", "n_seeds"]).assign(
        seed=17, run_id=names, model_version=names + "/1", protocol="paper"
    )
    baselines = pd.DataFrame(columns=["model", "task", "language", "score", "chance", "below_chance"])
    return Frame("made", "sqlite:///runs.db", observations, baselines, ())


@pytest.fixture(scope="module")
def planted() -> tuple[Frame, pd.DataFrame]:
    """Bases that agree on their donors; one source was not trained on the first base, and one on none."""
    whole = synthetic_frame(5, 2, 4, seed=4, effects={"source": 2.0, "target": 0.5, "residual": 0.4})
    source = cell_names(whole, "source")
    first = (whole["model"] == MODEL) & (source == "arc_challenge/en")
    return _frame(whole[~first & (source != "global_mmlu/en")].reset_index(drop=True)), whole


def test_the_order_is_that_of_the_truth_and_says_what_it_rests_on(planted: tuple[Frame, pd.DataFrame]) -> None:
    frame, whole = planted
    want = [Cell("arc_challenge", "de"), Cell("arc_challenge", "bn")]
    found = recommend(frame, model=MODEL, want=want, protect=[Cell("global_mmlu", "de")])
    table = found.table.set_index("source")
    assert list(found.table["gain"]) == sorted(found.table["gain"], reverse=True)
    assert table.loc["arc_challenge/en", "basis"] == OTHER_BASES
    assert table.loc["global_mmlu/en", "basis"] == NEW
    assert set(table.drop(["arc_challenge/en", "global_mmlu/en"])["basis"]) == {MEASURED}
    assert table.loc["arc_challenge/de", "versions"] == "lab-llama-1b--arc_challenge--de/1"
    assert table.loc["arc_challenge/en", "versions"] == ""
    mine = whole[(whole["model"] == MODEL) & cell_names(whole, "target").isin(list(map(str, want)))]
    truth = mine.groupby(cell_names(mine, "source"))["delta"].mean().drop("global_mmlu/en")
    gains = table["gain"].reindex(truth.index)
    assert spearmanr(gains, truth).statistic > 0.8
    assert (
        (gains.idxmax(), gains.idxmin()) == (truth.idxmax(), truth.idxmin()) == ("global_mmlu/de", "arc_challenge/en")
    )
    # What is known least has the widest interval.
    width = table["high"] - table["low"]
    assert width["global_mmlu/en"] > width["arc_challenge/en"] > width["arc_challenge/de"]
    assert table.loc["arc_challenge/en", "low"] < truth["arc_challenge/en"] < table.loc["arc_challenge/en", "high"]
    assert math.isnan(table.loc["arc_challenge/en", "measured"])


def test_risk_is_that_of_the_harmful_source(planted: tuple[Frame, pd.DataFrame]) -> None:
    frame, whole = planted
    protect = [Cell("global_mmlu", language) for language in ("ar", "bn", "de", "en")]
    table = recommend(frame, model=MODEL, want=[Cell("arc_challenge", "de")], protect=protect).table.set_index("source")
    mine = whole[(whole["model"] == MODEL) & cell_names(whole, "target").isin(list(map(str, protect)))]
    least = mine.groupby(cell_names(mine, "source"))["delta"].min()
    least = least.drop(["global_mmlu/en", "arc_challenge/en"])
    assert (table.loc[least[least < -2].index, "risk"] > 0.8).all()
    assert (table.loc[least[least > 0.5].index, "risk"] < 0.2).all()
    assert (table["risk"] >= table["worst_risk"]).all()


def test_without_outcomes_the_noise_is_assumed_and_that_is_said(planted: tuple[Frame, pd.DataFrame]) -> None:
    found = recommend(planted[0], model=MODEL, want=[Cell("arc_challenge", "de")])
    assert "ASSUMED, not measured" in found.text()
    noise = _noise(planted[1])
    told = recommend(planted[0], noise, model=MODEL, want=[Cell("arc_challenge", "de")]).text()
    assert "ASSUMED" not in told and "noise made" in told


def test_distance_tells_apart_sources_that_no_base_was_trained_on() -> None:
    languages = ("ar", "bn", "de", "en", "es", "fr")
    angles = dict(zip(languages, np.linspace(0, 1.2, 6), strict=True))
    places = {"S_A": {n: math.cos(a) for n, a in angles.items()}, "S_B": {n: math.sin(a) for n, a in angles.items()}}
    vectors = LanguageVectors({"syntax": pd.DataFrame(places)}, "made")
    cells = synthetic_frame(3, 2, 6, seed=6, effects={"residual": 0.3})
    far = [
        1 - math.cos(angles[a] - angles[b])
        for a, b in zip(cells["source_language"], cells["target_language"], strict=True)
    ]
    cells["delta"] -= 8 * np.array(far)
    trained = cells[~cells["source_language"].isin(["bn", "fr"])].reset_index(drop=True)
    found = recommend(_frame(trained), model=MODEL, want=[Cell("arc_challenge", "ar")], vectors=vectors)
    gain = found.table.set_index("source")["gain"]
    assert gain["arc_challenge/bn"] - gain["arc_challenge/fr"] == pytest.approx(
        8 * (math.cos(angles["bn"]) - math.cos(angles["fr"])), abs=0.8
    )
    assert "Means depend on linguistic distance too (made)" in found.text()
    without = recommend(_frame(trained), model=MODEL, want=[Cell("arc_challenge", "ar")]).table.set_index("source")[
        "gain"
    ]
    assert without["arc_challenge/bn"] == pytest.approx(without["arc_challenge/fr"])


def test_what_is_not_in_the_study_is_refused_with_near_names(planted: tuple[Frame, pd.DataFrame]) -> None:
    want = [Cell("arc_challenge", "de")]
    with pytest.raises(Refused, match="5 bases; add -P model="):
        recommend(planted[0], want=want)
    with pytest.raises(Refused, match=r"no evaluated base 'lab/llama-2b'; nearest: .*lab/llama-1b"):
        recommend(planted[0], model="lab/llama-2b", want=want)
    with pytest.raises(Refused, match=r"no evaluated target 'arc_challange/de'; nearest: arc_challenge/de"):
        recommend(planted[0], model=MODEL, want=[Cell("arc_challange", "de")])
    with pytest.raises(Refused, match="nothing is wanted"):
        recommend(planted[0], model=MODEL, want=[])


# --- noise of stored outcomes


def test_noise_of_stored_outcomes_is_that_of_their_frames_and_is_kept(tmp_path, monkeypatch) -> None:
    random = np.random.default_rng(0)
    grid = [Cell("kind", "en"), Cell("kind", "tr"), Cell("pair", "en")]
    asked = [(cell.task, cell.language, str(number)) for number in range(30) for cell in grid]  # targets interleaved
    questions = pa.table(dict(zip(("task", "language", "question"), map(list, zip(*asked, strict=True)), strict=True)))

    def answered(key: RunKey, targets: frozenset[Cell] | None) -> RunAnswers:
        return RunAnswers(
            key, str(key), targets, PackedAnswers("set", np.packbits(random.random(len(asked)) < 0.5).tobytes())
        )

    runs = [answered(RunKey("tiny"), None)]
    runs += [answered(RunKey("tiny", source, seed), frozenset(grid)) for source in grid for seed in (17, 42)]
    runs.append(answered(RunKey("tiny", Cell("pair", "tr"), 17), frozenset(grid[:2])))
    stored = StoredOutcomes(tuple(runs), {"set": questions}, ())
    slow = measured_noise(collect(stored, stored.headlines)).table
    pd.testing.assert_frame_equal(measured_noise(study_outcomes(stored)).table, slow)
    for _ in range(2):
        noise = stored_noise(stored, cache=tmp_path)
        pd.testing.assert_frame_equal(noise.table, slow)
        monkeypatch.setattr("analysis.recommend.components.measured_noise", lambda _: pytest.fail("measured again"))
    monkeypatch.undo()
    fewer = StoredOutcomes(stored.runs[:-1], stored.test_sets, ())
    assert len(stored_noise(fewer, cache=tmp_path).table) == 3
    assert stored_noise(fewer, cache=tmp_path).table["n_sources"].max() == 3
    assert stored_noise(StoredOutcomes((), {}, ())) is None


def test_components_are_fitted_once_and_anew_when_a_delta_changes(cells: pd.DataFrame, tmp_path, monkeypatch) -> None:
    fitted, noise = [], _assumed(cells)
    fit = components.regime_components
    monkeypatch.setattr(components, "regime_components", lambda *given, **how: fitted.append(1) or fit(*given, **how))
    first = components_of(cells, noise, cache=tmp_path)
    assert first == components_of(cells, noise)
    assert components_of(cells, noise, cache=tmp_path) == first
    assert len(fitted) == 2
    changed = cells.assign(delta=cells["delta"].where(cells.index > 0, cells["delta"] + 1e-9))
    assert components_of(changed, noise, cache=tmp_path) == components_of(changed, noise)
    other = NoiseTable(noise.table.assign(v=noise.table["v"] + 1e-9), noise.note)
    components_of(changed, other, cache=tmp_path)
    assert len(fitted) == 5
