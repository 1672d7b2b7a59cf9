"""Promotion on a small recorded study with planted answers: every reason to refuse, on its own, and every move."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import false_discovery_control, ttest_1samp

from analysis.reading.study import StudyStore
from analysis.recommend.evidence import version_evidence
from registry.cells import Cell
from registry.deploy.promotion import carriers, promote, with_section
from registry.deploy.resolve import VersionQuery, choose
from registry.errors import Refused
from registry.tracking import names
from registry.tracking.adapters import RegisteredAdapter
from registry.tracking.names import Tag
from registry.tracking.store import all_runs
from tests.deploy.planted import CHANGES, GRID, POLICY, SOURCE, Recorded, answers_of


def test_a_version_that_passes_carries_the_alias_with_all_its_numbers(study: Recorded, command) -> None:
    adapter = study.adapter(study.baseline())
    policy = "promotion: {champion: {want: [kind/tr], protect: [pair/en, kind/en], min_gain: 10.0}}"  # exactly its gain
    code, output, errors = command("promote", "--study", study.policy(policy), "--name", adapter.name)
    assert (code, errors) == (0, "")
    assert f"set: alias champion on {adapter.uri}" in output
    assert study.aliases(adapter) == {"champion": "1"}
    (run,) = study.promotions()
    tags, metrics = run.data.tags, run.data.metrics
    assert (run.info.status, tags[Tag.VERDICT], tags[Tag.ALIAS_BEFORE]) == ("FINISHED", "passed", "")
    assert tags[Tag.MODEL_VERSION] == f"{adapter.name}/1"
    # The tests, from the planted answers.
    found = {}
    for name in ("pair/en", "kind/en"):
        change = answers_of(*CHANGES[name]).astype(int) - answers_of(0, 0).astype(int)
        found[name] = ttest_1samp(change, 0).pvalue
        assert metrics[f"promote/p/{name}"] == pytest.approx(found[name], rel=1e-9)
        assert metrics[f"promote/delta/{name}"] == pytest.approx(100 * change.mean())
    for name, q in zip(found, false_discovery_control(list(found.values())), strict=True):
        assert metrics[f"promote/q/{name}"] == pytest.approx(q, rel=1e-9)
    assert metrics["promote/delta/kind/tr"] == pytest.approx(10.0)
    assert "promote/q/kind/tr" not in metrics
    version = study.client.get_model_version(adapter.name, "1")
    assert version.tags[names.promotion("champion")].startswith("passed (")
    assert version.description.startswith("Made.\n\n### Alias `champion`: passed")
    for text in (version.description, tags["mlflow.note.content"]):
        assert "| kind/tr | MT-CL | 50.0 % | 50.0 % | 60.0 % | +10.00 |" in text
        assert "measured over questions" in text
    file = study.client.download_artifacts(run.info.run_id, "verdict.json", str(study.folder))
    told = json.loads(Path(file).read_text())
    assert told["passed"] and len(told["targets"]) == 4
    assert told["targets"]["kind/tr"]["q"] is None
    assert told["adapter_sha256"] == version.tags[Tag.DIGEST]


def test_no_version_is_refused_for_what_is_kept_on_this_machine(study: Recorded, tmp_path: Path, caplog) -> None:
    adapter = study.adapter(study.baseline())
    store = StudyStore(study.client, "small", tmp_path / "kept")
    frame = store.frame()
    version = f"{adapter.name}/{adapter.version}"
    expected = version_evidence(store, frame, version, family=[])
    frame.observations["delta"] += 1.0  # as a damaged file would have it
    found = version_evidence(store, frame, version, family=[])
    pd.testing.assert_frame_equal(found.table, expected.table, check_exact=True)
    assert "is deleted and the store is read again" in caplog.text
    with pytest.raises(Refused, match="give other deltas than were recorded"):
        version_evidence(StudyStore(study.client, "small"), frame, version, family=[])


SINGLE_REASONS = {
    "gain": ("want: [kind/tr], protect: [kind/en], min_gain: 10.5", "gain on wanted targets: delta kind/tr +10.00"),
    "lower limit": ("want: [kind/tr], min_gain: 7.0, gain_by: low", "lower limit of delta kind/tr +"),
    "shrunken": ("want: [kind/tr], min_gain: 9.99, gain_by: shrunken", "shrunken estimate kind/tr +"),
    "harm": ("want: [kind/tr], protect: [pair/tr]", "no significant harm: pair/tr -8.00 pp (q 0.00013)"),
    "baseline": ("want: [kind/tr], protect: ['*/en']", "below chance or not known: pair/en 50.0 % against 55.0 %"),
}


def test_a_policy_refuses_for_one_reason(study: Recorded, command) -> None:
    baseline = study.baseline(chance={"pair/en": 0.55})
    adapter = study.adapter(baseline)
    study.adapter(baseline, dict.fromkeys(CHANGES, (3, 9)), seed=42)  # the estimate is of all seeds
    for asked, told in SINGLE_REASONS.values():
        policy = study.policy(f"promotion: {{champion: {{{asked}}}}}")
        code, output, _ = command("promote", "--study", policy, "--name", adapter.name, "--version", "1")
        _refused(study, adapter, code, output, told)
    # What the policy does not name may be below chance.
    policy = study.policy("promotion: {champion: {want: [kind/tr], protect: [kind/en]}}")
    assert command("promote", "--study", policy, "--name", adapter.name, "--version", "1")[0] == 0


@pytest.mark.parametrize(("level", "code"), [(0.55, 0), (0.65, 1)])  # 1.4 and 4.4 standard errors above the score
def test_a_baseline_that_luck_explains_is_not_below_chance(study: Recorded, command, level: float, code: int) -> None:
    policy = study.policy("promotion: {champion: {want: [kind/tr], protect: [pair/en]}}")
    adapter = study.adapter(study.baseline(chance={"pair/en": level}, tested=True), seed=round(100 * level))
    told = command("promote", "--study", policy, "--name", adapter.name, "--version", adapter.version, "--dry-run")
    assert told[0] == code, told
    fine = "none of the base's is below chance (exact one-sided tests, q ≤ 0.05); the least margin is -5.0 pp"
    assert (fine if code == 0 else "pair/en 50.0 % against 65.0 % by guessing (q = ") in told[1]


def _refused(study: Recorded, adapter: RegisteredAdapter, code: int, output: str, told: str) -> None:
    """Refused for the one reason, which is recorded, and the alias not set."""
    assert code == 1
    assert [line for line in output.splitlines() if line.startswith("  NO ")], output
    assert sum(line.startswith("  NO ") for line in output.splitlines()) == 1, output
    assert study.aliases(adapter) == {}
    run = max(study.promotions(), key=lambda run: run.info.start_time)
    assert (run.info.status, run.data.tags[Tag.VERDICT]) == ("FINISHED", "refused")
    tag = study.client.get_model_version(adapter.name, adapter.version).tags[names.promotion("champion")]
    assert tag.startswith("refused: ")
    assert told in tag


def test_an_evaluation_that_lacks_a_target_refuses(study: Recorded, command) -> None:
    changes = {name: change for name, change in CHANGES.items() if name != "pair/tr"}
    adapter = study.adapter(study.baseline(), changes)
    code, output, _ = command("promote", "--study", study.policy(), "--name", adapter.name)
    _refused(study, adapter, code, output, "evaluation complete: 3 of 4 targets")


def test_other_weights_than_were_recorded_refuse(study: Recorded, command, stored) -> None:
    adapter = study.adapter(study.baseline())
    (file,) = stored("adapter_model.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    code, output, _ = command("promote", "--study", study.policy(), "--name", adapter.name)
    _refused(study, adapter, code, output, "weights intact")


def test_without_answers_the_noise_is_assumed_and_that_is_recorded(study: Recorded, command) -> None:
    adapter = study.adapter(study.baseline(answers=False), answers=False)
    code, output, _ = command("promote", "--study", study.policy(), "--name", adapter.name)
    assert code == 0
    assert "ASSUMED, not measured" in output
    assert "16 questions" in output  # the study's own number of test items
    assert "ASSUMED" in study.client.get_model_version(adapter.name, "1").description


# --- moves


def test_history_keeps_every_move_and_demotion_takes_the_alias_alone(study: Recorded, command) -> None:
    baseline, policy = study.baseline(), study.policy()
    first, second = study.adapter(baseline), study.adapter(baseline, seed=42)
    for version in ("1", "2"):
        assert command("promote", "--study", policy, "--name", first.name, "--version", version)[0] == 0
    assert study.aliases(first) == {"champion": "2"}
    code, _, errors = command("promote", "--study", policy, "--name", first.name, "--version", "1", "--demote", "true")
    assert code == 2
    assert "version 1 does not carry the alias 'champion'; version 2 does" in errors
    assert command("promote", "--study", policy, "--name", first.name, "--demote", "true", "--dry-run", "true")[0] == 0
    assert study.aliases(first) == {"champion": "2"}
    code, output, _ = command("promote", "--study", policy, "--name", first.name, "--demote", "true")
    assert code == 0
    assert study.aliases(first) == {}
    last, moved, begun = [line for line in output.splitlines() if " champion " in line and "run" in line][-3:]
    assert f"champion taken from {second.name}/2, by " in last
    assert f"champion moved from {first.name}/1 to {first.name}/2, by " in moved
    assert f"champion moved from none to {first.name}/1, by " in begun
    version = study.client.get_model_version(first.name, "2")
    assert version.tags[names.promotion("champion")].startswith("demoted (")
    assert version.description.count("### Alias `champion`") == 1


def test_a_dry_run_changes_and_records_nothing(study: Recorded, command) -> None:
    adapter = study.adapter(study.baseline())
    code, output, _ = command("promote", "--study", study.policy(), "--name", adapter.name, "--dry-run", "true")
    assert code == 0
    assert "champion: allowed for" in output
    assert study.aliases(adapter) == {}
    assert study.promotions() == []
    version = study.client.get_model_version(adapter.name, "1")
    assert (version.description, names.promotion("champion") in version.tags) == ("Made.", False)


def test_the_best_for_a_target_is_one_adapter_of_the_base(study: Recorded, command) -> None:
    baseline = study.baseline()
    former = study.adapter(baseline)
    policy = study.policy("promotion: {best: {protect: ['*/en'], min_gain: 1.0}}")
    assert command("promote", "--study", policy, "--best-for", "kind/tr")[0] == 0
    assert study.aliases(former) == {"best-kind-tr": "1"}
    better = study.adapter(baseline, CHANGES | {"kind/tr": (60, 2)}, source=Cell("pair", "en"))
    code, output, _ = command("promote", "--study", policy, "--best-for", "kind/tr")
    assert code == 0
    assert (study.aliases(former), study.aliases(better)) == ({}, {"best-kind-tr": "1"})
    assert f"moved from {former.name}/1 to {better.name}/1" in output


def _verdict(study: Recorded, adapter: RegisteredAdapter):
    from entrypoints.promote import _evidence
    from registry.config.files import load_study
    from registry.deploy.policy import judge, terms_of

    loaded = load_study(str(study.policy()))
    chosen = choose(study.client, VersionQuery(name=adapter.name, version=adapter.version))
    terms = terms_of(loaded.promotion, "champion", GRID.cells, study="small")
    return chosen, judge(terms, _evidence(study.client, loaded, chosen, terms))


def test_an_alias_that_moved_meanwhile_is_left_alone(study: Recorded) -> None:
    baseline = study.baseline()
    adapter, other = study.adapter(baseline), study.adapter(baseline, seed=42)
    chosen, verdict = _verdict(study, adapter)
    before = carriers(study.client, "champion", name=adapter.name)
    study.client.set_registered_model_alias(adapter.name, "champion", other.version)
    with pytest.raises(Refused, match=r"'champion' moved meanwhile, from no version to tiny--kind--en/2"):
        promote(study.client, study.experiment, chosen, verdict, before)
    _as_it_was(study, adapter, {"champion": "2"})


def test_what_fails_half_way_is_undone(study: Recorded, monkeypatch) -> None:
    adapter = study.adapter(study.baseline())
    chosen, verdict = _verdict(study, adapter)
    before = carriers(study.client, "champion", name=adapter.name)

    def failing(*_: object) -> None:
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(study.client, "set_registered_model_alias", failing)
    with pytest.raises(ConnectionError):
        promote(study.client, study.experiment, chosen, verdict, before)
    _as_it_was(study, adapter, {})


def _as_it_was(study: Recorded, adapter: RegisteredAdapter, aliases: dict[str, str]) -> None:
    assert study.aliases(adapter) == aliases
    (run,) = study.promotions()
    assert run.info.status == "FAILED"
    version = study.client.get_model_version(adapter.name, adapter.version)
    assert (version.description, names.promotion("champion") in version.tags) == ("Made.", False)


# --- other people on the store


def test_a_twin_with_invented_scores_is_named_and_refused_by_all(study: Recorded, command, tmp_path) -> None:
    baseline = study.baseline()
    adapter = study.adapter(baseline)
    (genuine,) = all_runs(study.client, [study.experiment], "tags.kind = 'evaluate'")
    twin = study.evaluation(adapter, baseline, CHANGES | {"kind/tr": (99, 0)})
    for asked in (
        ("promote", "--study", study.policy(), "--name", adapter.name),
        ("recommend", "--study", "small", "--want", "kind/tr"),
        ("analyze", "--study", "small", "--output", tmp_path / "out", "--mixed-models", "false"),
        ("pull", "--best-for", "kind/tr", "--output", tmp_path / "adapter"),
    ):
        code, _, errors = command(*asked)
        assert (asked[0], code) == (asked[0], 2)
        assert f"evaluate runs {genuine.info.run_id} and {twin} share a fingerprint" in errors
        assert "score/kind/tr 0.6 and 0.995" in errors
    assert study.aliases(adapter) == {}
    code, output, errors = command("pull", "--name", adapter.name, "--output", tmp_path / "adapter")
    assert code == 0, errors
    assert twin in output
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "None that can be believed" in card
    assert "| `kind/tr` |" not in card


def test_a_version_that_repeats_another_leads_to_it(study: Recorded, command) -> None:
    baseline = study.baseline()
    first = study.adapter(baseline)
    study.adapter(baseline)  # two runners began one job
    policy = study.policy()
    code, _, errors = command("promote", "--study", policy, "--name", first.name, "--version", "2")
    assert code == 2
    assert f"repeats {first.name}/1, which was evaluated first: -P name={first.name} -P version=1" in errors
    code, output, errors = command("promote", "--study", policy, "--name", first.name)
    assert (code, study.aliases(first)) == (0, {"champion": "1"}), errors
    assert "version 2 repeats version 1, which counts" in output
    assert "Counted once: 1 run with the fingerprint and the results of an earlier one" in output


def test_runs_that_do_not_count_are_said_on_the_terminal_in_the_run_and_in_the_report(
    study: Recorded, command, tmp_path
) -> None:
    baseline = study.baseline()
    adapter = study.adapter(baseline)
    again = study.evaluation(adapter, baseline)
    strange = study.evaluation(adapter, baseline, seed=3)
    study.client.set_tag(strange, Tag.SEED, "first")
    asked = ("--study", "small", "--output", tmp_path / "out", "--mixed-models", "false", "--corrected", "false")
    code, output, errors = command("analyze", *asked)
    assert code == 0, errors
    (run,) = all_runs(study.client, [study.experiment], "tags.kind = 'analyze'")
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for place in (output, run.data.tags[Tag.RUNS_LEFT_OUT], report):
        for told in (again, strange, "Counted once: 1 run", "Left out: 1 run"):
            assert told in place


def test_swapped_answers_are_refused_by_analyze_and_recommend(study: Recorded, command, tmp_path, stored) -> None:
    adapter = study.adapter(study.baseline())
    asked = ("--study", "small", "--output", tmp_path / "out", "--mixed-models", "false")
    assert command("recommend", "--study", "small", "--want", "kind/tr")[0] == 0  # what it keeps must not hide the swap
    (run,) = all_runs(study.client, [study.experiment], "tags.kind = 'evaluate'")
    file = next(path for path in stored("outcomes.parquet") if run.info.run_id in str(path))
    (other,) = (path for path in stored("outcomes.parquet") if path != file)
    file.write_bytes(other.read_bytes())
    for command_line in (("analyze", *asked), ("recommend", "--study", "small", "--want", "kind/tr")):
        code, _, errors = command(*command_line)
        assert (command_line[0], code) == (command_line[0], 2)
        assert f"run {run.info.run_id}: score 0.5 on kind/en, recorded 0.65" in errors
    assert command("promote", "--study", study.policy(), "--name", adapter.name)[0] == 2


# --- mistakes


@pytest.mark.parametrize(
    ("policy", "arguments", "told"),
    [
        ("promotion: {champion: {want: [kind/rt]}}", (), "no language 'rt'; nearest: tr"),
        ("promotion: {champion: {want: [kidn/tr]}}", (), "promotion.champion.want, kidn/tr: there is no task 'kidn'"),
        ("promotion: {champion: {protect: [kind]}}", (), "'kind' is no target: write task/language"),
        ("promotion: {champion: {wants: [kind/tr]}}", (), "no key 'wants'; nearest: want"),
        ("promotion: {champion: {min_gain: 1.0}}", (), "promotion.champion: asks for nothing"),
        ("promotion: {best: {want: [kind/tr]}}", (), "promotion.best: wants the target that the alias names"),
        ("promotion: {latest: {want: [kind/tr]}}", (), "promotion.latest: an alias is"),
        (POLICY, ("--alias", "champoin"), "no policy for alias 'champoin'"),
        (POLICY, ("--best-for", "kind/de"), "best_for, kind/de: there is no language 'de'"),
        ("", (), "promotion: there is none, so no version can be promoted"),
    ],
)
def test_a_mistake_is_answered_before_any_work(
    study_file, command, tmp_path, monkeypatch, policy: str, arguments: tuple[str, ...], told: str
) -> None:
    store = tmp_path / "nothing" / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    file = study_file(("seeds: [17, 42]", f"seeds: [17, 42]\n{policy}"))
    code, output, errors = command("promote", "--study", file, "--name", "tiny--kind--en", *arguments)
    assert (code, output) == (2, "")
    assert told in errors
    assert not store.exists()


def test_a_version_without_an_evaluation_is_refused(study: Recorded, command) -> None:
    study.adapter(study.baseline())
    adapter = study.register(42, source=SOURCE)
    code, _, errors = command("promote", "--study", study.policy(), "--name", adapter.name, "--version", "2")
    assert code == 2
    assert "has no evaluation of tiny--kind--en/2 that counts" in errors


def test_sections_of_a_description_replace_their_own_alone() -> None:
    text = with_section("Made.", "best-a-b", "### Alias `best-a-b`: passed\n\none")
    text = with_section(text, "best-a", "### Alias `best-a`: passed\n\ntwo")
    text = with_section(text, "best-a-b", "### Alias `best-a-b`: refused\n\nthree")
    assert text == "Made.\n\n### Alias `best-a`: passed\n\ntwo\n\n### Alias `best-a-b`: refused\n\nthree"


# --- recommend, as it is typed


def test_recommend_ranks_what_was_recorded(study: Recorded, command, tmp_path) -> None:
    baseline = study.baseline()
    study.adapter(baseline)
    study.adapter(baseline, dict.fromkeys(CHANGES, (4, 9)), source=Cell("pair", "en"))
    asked = ("--study", "small", "--want", "kind/tr", "--protect", "pair/*", "--output", tmp_path / "out")
    for _ in range(2):  # the second time from what was kept
        code, output, errors = command("recommend", *asked)
        assert (code, errors) == (0, "")
        table = pd.read_csv(tmp_path / "out" / "recommend.csv").set_index("source")
        assert set(table.index) == set(map(str, GRID))
        assert table.loc["kind/en", "measured"] == pytest.approx(10.0)
        assert table.loc["kind/en", "gain"] > table.loc["pair/en", "gain"]
        assert table.loc["kind/en", "versions"] == "tiny--kind--en/1"
        assert table.loc["kind/tr", "basis"] == "predicted, trained on no base"
        assert "measured over questions" in output
    code, _, errors = command("recommend", "--study", "small", "--want", "kind/rt")
    assert code == 2
    assert "no language 'rt'; nearest: tr" in errors
