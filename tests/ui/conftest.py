"""MLflow's UI on a small finished study with its analysis, in a real browser.

Chromium is Debian's (`apt-get install chromium`), driven by Playwright (`pip install -e '.[ui]'`, without its own
browsers). Each test leaves what it saw in `tests/ui/screenshots`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from analysis.record import record_analysis
from registry.runner.session import prospect, run_study
from registry.tracking.names import Kind
from registry.tracking.store import all_runs, experiment_id, open_store
from tests.mlflow_process import MlflowProcess

SCREENSHOTS = Path(__file__).parent / "screenshots"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# MLflow opens an assistant beside every page, and its view of traces; both are remembered by the browser.
_REMEMBERED = """
localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
localStorage.setItem('mlflow.workflowType_v1', '"machine_learning"');
"""


@dataclass(frozen=True)
class Shown:
    """A study in MLflow's UI."""

    address: str
    client: MlflowClient
    experiment: str

    def run(self, kind: Kind, name: str = "") -> Run:
        """Return the one run of a kind with this name, or the only one."""
        runs = all_runs(self.client, [self.experiment], f"tags.kind = '{kind}'")
        (run,) = [run for run in runs if name in ("", run.info.run_name)]
        return run

    def page_of(self, run: Run, part: str = "") -> str:
        """Address of a run's page."""
        return f"#/experiments/{self.experiment}/runs/{run.info.run_id}{part}"


@pytest.fixture(scope="session")
def shown(new_store, small_study, tmp_path_factory) -> Iterator[Shown]:
    """The small study, run and analysed, and MLflow's UI on it."""
    uri, study = new_store(), small_study(("epochs: 1", "epochs: 3"), ("validation: 0\n", "validation: 0.2\n"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        assert run_study(prospect(study, workers=1)) == []
        client = open_store(uri)
        record_analysis(client, study.name, tmp_path_factory.mktemp("report"), mixed_models=False)
        client.set_registered_model_alias("tiny--pair--tr", "champion", "2")
        arguments = ["ui", "--backend-store-uri", uri, "--workers", "1"]
        with MlflowProcess(arguments, tmp_path_factory.mktemp("ui") / "log") as server:
            yield Shown(f"{server.address}/", client, experiment_id(client, study.name))
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium; without it, or without Playwright, what to install is said."""
    playwright = pytest.importorskip("playwright.sync_api", reason="run: python -m pip install -e '.[ui]'")
    program = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("there is no browser; run: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(_FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def page(browser, shown: Shown, request) -> Iterator[Any]:
    """A page of the UI; what is on it at the end of the test is kept as a picture."""
    context = browser.new_context(viewport={"width": 1500, "height": 1300})
    context.set_default_timeout(20_000)
    context.add_init_script(_REMEMBERED)
    page = context.new_page()
    SCREENSHOTS.mkdir(exist_ok=True)
    yield page
    page.screenshot(path=SCREENSHOTS / f"{request.node.name.removeprefix('test_')}.png")
    context.close()


@pytest.fixture
def visit(page, shown: Shown) -> Callable[[str], Any]:
    """Go to a place in the UI, and return the page."""

    def go(place: str) -> Any:
        page.goto(shown.address + place)
        return page

    return go
