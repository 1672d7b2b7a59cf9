"""Whatever a study file holds, it is a study or refused with words; no tag of YAML runs code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given

from registry.config.files import load_studies
from registry.config.study import Study
from registry.errors import Refused
from tests.fuzz.conftest import tried
from tests.fuzz.hostile import BROKEN_YAML, document

WHOLE: dict[str, Any] = {
    "name": "my",
    "extends": "demo",
    "description": "One.",
    "benchmark": {
        "kind": "files", "path": "/data/my", "languages": ["en", "sw"],
        "tasks": {"topic": {
            "train": "{language}/train.tsv", "test": "{language}/test.tsv", "id": "item",
            "question": "{sentence} What?", "choices": ["a", "b"], "answer": "label", "answer_is": "text",
            "words": {"sentence": {"x": {"en": "X", "sw": "Y"}}},
        }},
    },
    "tasks": ["topic"],
    "languages": ["en"],
    "sources": ["topic/en"],
    "models": ["Qwen/Qwen2.5-0.5B-Instruct", {"name": "mine", "path": "/models/mine", "size_b": 1.5}],
    "seeds": [17, 42],
    "split": {"train": 30, "test": {"topic": 40}},
    "recipe": {"learning_rate": 5e-5, "epochs": 3, "precision": "bf16", "lora": {"rank": 32, "alpha": 64}},
    "tune": {"trials": 3, "space": {"rank": [4, 8], "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}}},
    "variants": {"small": {"recipe": {"lora": {"rank": 8}}}, "none": None},
}  # fmt: skip


def read(folder: Path, text: str) -> None:
    file = folder / "my.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        studies = load_studies(str(file))
    except Refused as error:
        assert str(error).strip()
        assert len(str(error)) < 100_000
    else:
        assert all(isinstance(study, Study) for study in studies)


def test_the_whole_file_is_a_study(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump(WHOLE))
    assert {study.name for study in load_studies(str(file))} == {"my-small", "my-none"}


@pytest.mark.parametrize("text", BROKEN_YAML, ids=lambda text: text[:40].encode("ascii", "replace").decode())
def test_known_to_be_broken(watched: Path, text: str) -> None:
    read(watched, text)


@tried(50)
@given(text=document(WHOLE))
def test_a_bent_study(watched: Path, text: str) -> None:
    read(watched, text)


@pytest.mark.slow
@tried(800)
@given(text=document(WHOLE))
def test_many_bent_studies(watched: Path, text: str) -> None:
    read(watched, text)
