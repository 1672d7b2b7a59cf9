"""Whatever results from elsewhere hold, they are imported or refused with words; nothing is written elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import Refused
from registry.imports import read_source
from registry.imports.published import COLUMNS
from tests.fuzz.conftest import tried
from tests.fuzz.hostile import BROKEN_YAML, bent, broken, document

MANIFEST: dict[str, Any] = {
    "runs": [
        {"folder": "base", "model": "lab/other", "source": None},
        {"folder": "de-17", "model": "lab/other", "source": "arc_challenge/de", "seed": 17},
    ],
    "models": {"lab/other": {"family": "Other", "size_b": 1.5}},
    "tasks": {"my_{language}": "my"},
    "protocol": "mine",
}
DATE = "2025-01-01T00-00-00.000000"
RESULTS: dict[str, Any] = {
    "results": {"arc_de": {"alias": "x", "acc,none": 1.0, "acc_norm,none": 1.0, "acc_stderr,none": 0.1}},
    "configs": {"arc_de": {"task": "arc_de", "target_delimiter": " ", "doc_to_choice": "x", "metadata": {}}},
    "config": {"model": "hf", "model_args": "pretrained=lab/other", "model_num_parameters": 1},
    "versions": {"arc_de": 1.0}, "n-shot": {"arc_de": 0}, "n-samples": {"arc_de": {"original": 2, "effective": 2}},
    "task_hashes": {"arc_de": "aa"}, "model_name": "lab/other",
}  # fmt: skip
SAMPLE: dict[str, Any] = {
    "doc_id": 0, "doc": {"id": "q"}, "target": "0", "acc": 1.0, "filter": "none",
    "arguments": {"gen_args_0": {"arg_0": "Q", "arg_1": " a"}, "gen_args_1": {"arg_0": "Q", "arg_1": " b"}},
    "filtered_resps": [["-1.0", "False"], ["-2.0", "False"]],
}  # fmt: skip


def write(folder: Path, manifest: str, results: bytes, sample: bytes) -> None:
    (folder / "manifest.yaml").write_bytes(manifest.encode("utf-8", "surrogatepass"))
    for name in ("base", "de-17"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / f"results_{DATE}.json").write_bytes(results)
        (folder / name / f"samples_arc_de_{DATE}.jsonl").write_bytes(sample)


def read(folder: Path, source: Path) -> None:
    staging = folder / "staging"
    staging.mkdir(exist_ok=True)
    try:
        imported = read_source(source, staging=staging)
    except Refused as error:
        assert str(error).strip()
        assert len(str(error)) < 100_000
    else:
        assert len(imported.observations) > 0
        assert imported.observations["delta"].notna().all()


@st.composite
def evaluations(draw: Any) -> tuple[str, bytes, bytes]:
    """A manifest, a file of results and its samples, one of them hostile."""
    parts = [yaml.safe_dump(MANIFEST), json.dumps(RESULTS).encode(), json.dumps(SAMPLE).encode()]
    which = draw(st.integers(0, 2))
    if which == 0:
        parts[0] = draw(document(MANIFEST))
    else:
        content = RESULTS if which == 1 else SAMPLE
        as_json = bent(content).map(lambda changed: json.dumps(changed, default=str).encode("utf-8", "replace"))
        parts[which] = draw(as_json | broken(json.dumps(content).encode()))
    return parts[0], parts[1], parts[2]  # type: ignore[return-value]


def test_the_whole_evaluations_are_imported(tmp_path: Path) -> None:
    write(tmp_path, yaml.safe_dump(MANIFEST), json.dumps(RESULTS).encode(), json.dumps(SAMPLE).encode())
    (tmp_path / "staging").mkdir()
    imported = read_source(tmp_path, staging=tmp_path / "staging")
    assert imported.observations["delta"].tolist() == [0.0]
    assert imported.outcomes is not None


@pytest.mark.parametrize("text", BROKEN_YAML, ids=lambda text: text[:40].encode("ascii", "replace").decode())
def test_known_to_be_broken(watched: Path, text: str) -> None:
    write(watched, text, b"{}", b"{}")
    read(watched, watched / "manifest.yaml")


@tried(80)
@given(parts=evaluations())
def test_hostile_evaluations(watched: Path, parts: tuple[str, bytes, bytes]) -> None:
    write(watched, *parts)
    read(watched, watched)


@pytest.mark.slow
@tried(600)
@given(parts=evaluations())
def test_many_hostile_evaluations(watched: Path, parts: tuple[str, bytes, bytes]) -> None:
    write(watched, *parts)
    read(watched, watched)


PUBLISHED = (
    ",".join(COLUMNS) + "\n" + ",".join(["Qwen2.5-0.5B", "0.5", "arc", "de", "arc", "de"] + ["0.5"] * 20)
).encode()


@tried(40)
@given(content=broken(PUBLISHED))
def test_a_hostile_table(watched: Path, content: bytes) -> None:
    (watched / "cells.csv").write_bytes(content)
    read(watched, watched / "cells.csv")


@pytest.mark.slow
@tried(700)
@given(content=broken(PUBLISHED))
def test_many_hostile_tables(watched: Path, content: bytes) -> None:
    (watched / "cells.csv").write_bytes(content)
    read(watched, watched / "cells.csv")
