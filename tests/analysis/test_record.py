"""What an analysis stores: the files that it wrote, whatever else its folder holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.utils.file_utils import local_file_uri_to_path

from analysis.record import record_analysis
from registry.errors import Refused
from registry.files.outputs import MANIFEST

SECRETS = {".ssh/id_rsa": "a key", ".env": "TOKEN=1", "notes.txt": "mine"}


FORMER = {
    "report.html": "<!doctype html>\n<title>Donors and recipients: small</title>",
    "baselines.csv": "old",
    "figures/pareto.svg": "old",
}


def test_only_what_it_wrote_is_stored_and_others_files_stay(client, planted, output: Path, tmp_path: Path) -> None:
    """Files of an analysis that kept no list of them yet are replaced."""
    for name, text in (SECRETS | FORMER).items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(text)
    result, run_id = record_analysis(client, "small", output, mixed_models=False, corrected=False)
    stored = Path(local_file_uri_to_path(client.get_run(run_id).info.artifact_uri))
    names = {path.relative_to(stored).as_posix() for path in stored.rglob("*") if path.is_file()}
    assert names == {path.relative_to(output).as_posix() for path in result.files}
    assert {name: (output / name).read_text() for name in SECRETS} == SECRETS
    there = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert there == names | set(SECRETS) | {MANIFEST}
    assert all((output / name).read_text() != text for name, text in FORMER.items())
    assert result.report == output / "report.html"


def test_a_file_of_somebody_else_is_not_replaced_and_nothing_is_recorded(client, planted, output: Path) -> None:
    output.mkdir()
    (output / "baselines.csv").write_text("mine")
    experiment = client.get_experiment_by_name("small").experiment_id
    before = len(client.search_runs([experiment], "tags.kind = 'analyze'"))
    with pytest.raises(Refused, match=r"baselines\.csv was not written by analyze"):
        record_analysis(client, "small", output, mixed_models=False, corrected=False)
    assert [path.name for path in output.iterdir()] == ["baselines.csv"]
    assert len(client.search_runs([experiment], "tags.kind = 'analyze'")) == before
