"""What a reader sees of a study in MLflow's UI."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from registry.cells import Cell, Regime
from registry.tracking import metric_names, names
from registry.tracking.names import Kind

pytestmark = pytest.mark.slow

EVALUATION = "evaluate tiny pair/tr seed 42"
SCREENSHOTS = Path(__file__).parent / "screenshots"
FINETUNE = "finetune tiny pair/tr seed 42"


@pytest.fixture
def expect():
    """Playwright's assertions, which wait until they hold."""
    from playwright.sync_api import expect

    expect.set_options(timeout=20_000)
    return expect


def section(name: str, charts: int) -> re.Pattern[str]:
    """Match the heading of a section of charts; the space before their number is not an ordinary one."""
    return re.compile(rf"^{name}\s*\({charts}\)")


def followed(page, link: str):
    """Follow a link of a description, unfolded where it is long; MLflow opens it in a page of its own."""
    wanted = page.get_by_role("link", name=link, exact=True)
    wanted.wait_for()
    if page.get_by_text("Show more").count():
        page.get_by_text("Show more").click()
    with page.context.expect_page() as opened:
        wanted.click()
    return opened.value


def test_the_table_is_filtered_by_the_source_language(visit, shown, expect) -> None:
    page = visit(f"#/experiments/{shown.experiment}/runs")
    expect(page.get_by_text("19 matching runs")).to_be_visible()  # what is typed before is lost
    search = page.get_by_placeholder("metrics.rmse")
    search.fill("tags.source_language = 'tr'")
    search.press("Enter")
    expect(page.get_by_text("8 matching runs")).to_be_visible()
    for kind in ("finetune", "evaluate"):
        for cell in ("kind/tr", "pair/tr"):
            for seed in (17, 42):
                expect(page.get_by_role("link", name=f"{kind} tiny {cell} seed {seed}", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name=re.compile("^(finetune|evaluate) tiny [a-z]+.en "))).to_have_count(0)


def test_the_table_is_filtered_by_what_a_regime_gains(visit, shown, expect) -> None:
    runs = shown.client.search_runs([shown.experiment], "tags.kind = 'evaluate'")
    means = sorted(run.data.metrics[metric_names.delta_mean(Regime.MT_CL)] for run in runs)
    middle = (means[3] + means[4]) / 2
    above = sum(mean > middle for mean in means)
    page = visit(f"#/experiments/{shown.experiment}/runs")
    expect(page.get_by_text("19 matching runs")).to_be_visible()  # what is typed before is lost
    search = page.get_by_placeholder("metrics.rmse")
    search.fill(f"tags.kind = 'evaluate' and metrics.\"delta_mean/MT-CL\" > {middle}")
    search.press("Enter")
    expect(page.get_by_text(re.compile(rf"^{above} matching run"))).to_be_visible()


def test_an_evaluation_reads_by_itself_and_leads_to_what_it_came_from(visit, shown, expect) -> None:
    run = shown.run(Kind.EVALUATE, EVALUATION)
    page = visit(shown.page_of(run))
    expect(page.get_by_role("heading", name=EVALUATION)).to_be_visible()
    for regime in Regime:
        mean, positive, harmed = (
            run.data.metrics[quantity(regime)]
            for quantity in (metric_names.delta_mean, metric_names.positive_rate, metric_names.harm_rate)
        )
        row = f"{regime} 1 {mean:+.2f} {positive:.0f} {harmed:.0f}"
        expect(page.get_by_role("row", name=row, exact=True)).to_be_attached()
    for label in ("fine-tune", "baseline", "version 2 of tiny--pair--tr", "Reports of the study"):
        expect(page.get_by_role("link", name=label, exact=True)).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "an_evaluation.png")
    for link, heading in (("fine-tune", FINETUNE), ("evaluation", EVALUATION), ("baseline", "baseline tiny")):
        page = followed(page, link)
        expect(page.get_by_role("heading", name=heading)).to_be_visible()


def test_an_evaluations_charts_are_grouped_by_regime(visit, shown, expect) -> None:
    page = visit(shown.page_of(shown.run(Kind.EVALUATE, EVALUATION), "/model-metrics"))
    page.get_by_placeholder("Search metric charts").fill("^delta")
    for regime, cell in (
        (Regime.MT_ML, "pair"),
        (Regime.MT_CL, "pair"),
        (Regime.CT_ML, "kind"),
        (Regime.CT_CL, "kind"),
    ):
        expect(page.get_by_text(section(f"delta.{regime}.{cell}", 1)).first).to_be_visible()
    expect(page.get_by_text(section("delta_mean", 4)).first).to_be_visible()
    expect(page.locator(".js-plotly-plot").first).to_be_visible()


def test_a_fine_tune_shows_its_curves(visit, shown, expect) -> None:
    page = visit(shown.page_of(shown.run(Kind.FINETUNE, FINETUNE), "/model-metrics"))
    page.get_by_placeholder("Search metric charts").fill("loss")
    expect(page.get_by_text(section("train", 2)).first).to_be_visible()
    expect(page.get_by_text(section("validation", 1)).first).to_be_visible()
    expect(page.locator(".js-plotly-plot .scatterlayer .trace").first).to_be_visible()


def test_the_report_is_shown_among_the_artifacts(visit, shown, expect) -> None:
    run = shown.run(Kind.ANALYZE)
    page = visit(shown.page_of(run))
    page = followed(page, "report")
    frame = page.frame_locator("iframe")
    expect(frame.get_by_role("heading").first).to_be_visible()
    expect(frame.locator("img, svg").first).to_be_visible()
    expect(page.get_by_text("report.html").first).to_be_visible()
    expect(page.get_by_text("figures", exact=True)).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "the_report.png")


def test_a_registered_model_lists_its_versions_by_seed(visit, shown, expect) -> None:
    page = visit("#/models/tiny--pair--tr")
    expect(page.get_by_text("a version for each seed and recipe")).to_be_visible()
    for version, seed in (("1", 17), ("2", 42)):
        expect(page.get_by_role("link", name=f"Version {version}", exact=True)).to_be_visible()
        expect(page.get_by_text(re.compile(rf"^Seed {seed}: MT-ML"))).to_be_visible()
    expect(page.get_by_text("champion")).to_be_visible()


def test_a_version_leads_to_its_model_with_the_evaluations_metrics(visit, shown, expect) -> None:
    page = visit("#/models/tiny--pair--tr/versions/2")
    expect(page.get_by_role("link", name=FINETUNE)).to_be_visible()
    expect(page.get_by_role("link", name="evaluation", exact=True)).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "a_version.png")
    model = shown.run(Kind.FINETUNE, FINETUNE).data.tags[names.Tag.MODEL_ID]
    page = visit(f"#/experiments/{shown.experiment}/models/{model}")
    expect(page.get_by_role("heading", name="tiny--pair--tr")).to_be_visible()
    expect(page.get_by_text("Not registered")).to_have_count(0)
    expect(page.get_by_text("v2", exact=True).first).to_be_visible()
    metric = metric_names.delta(Regime.MT_ML, Cell("pair", "tr"))
    expect(page.get_by_text(metric, exact=True)).to_be_visible()
    expect(page.get_by_role("link", name=EVALUATION).first).to_be_visible()
