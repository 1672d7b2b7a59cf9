"""The JSON schema and the reference of study files: up to date, complete, and in agreement with what is accepted."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry.config.files import load_studies
from registry.config.names import STUDIES
from registry.config.schema import GENERATED, REFERENCE, SCHEMA, meanings, reference, schema, sections

RENEW = "run `python -m registry.config.schema`"
FILES = sorted(STUDIES.glob("*.yaml"))
EXAMPLES = re.findall(r"```yaml\n(.*?)```", REFERENCE.read_text(encoding="utf-8"), re.DOTALL)


def problems(content: Any) -> list[str]:
    """Return what the schema finds wrong with a study file's content."""
    jsonschema = pytest.importorskip("jsonschema")
    made = schema()
    jsonschema.Draft202012Validator.check_schema(made)
    plain = json.loads(json.dumps(content, default=str))  # YAML of Python makes dates, that of editors texts
    return [error.message for error in jsonschema.Draft202012Validator(made).iter_errors(plain)]


def test_the_schema_is_up_to_date() -> None:
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == schema(), RENEW


def test_the_reference_is_up_to_date() -> None:
    assert REFERENCE.read_text(encoding="utf-8").partition(f"{GENERATED}\n\n")[2] == reference(), RENEW


@pytest.mark.parametrize("spec", dict(sections()).values(), ids=dict(sections()))
def test_every_key_has_a_meaning(spec: type) -> None:
    assert {field.name for field in fields(spec)} == {name for name, text in meanings(spec).items() if name and text}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_study_names_the_schema_and_fits_it(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named is not None
    assert (file.parent / named[1]).samefile(SCHEMA)
    assert load_studies(str(file))
    assert problems(yaml.safe_load(text)) == []


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_reference_is_a_study_and_fits(example: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(example, encoding="utf-8")
    assert load_studies(str(tmp_path / "my.yaml"))
    assert problems(yaml.safe_load(example)) == []


@pytest.mark.parametrize(
    "content",
    [
        {"extends": "paper", "recipe": {"lora": {"dropout": None}}, "split": None, "chat_template_date": "2025-01-31"},
        {"extends": "xcopa", "benchmark": {"tasks": {"xcopa": {"columns_from": None}}}},
        {"models": [{"name": "demo-wide"}], "tune": {"space": {"rank": [4, 8], "epochs": {"low": 1, "high": 3}}}},
        {"extends": "demo", "variants": {"r4": {"recipe": {"lora": {"rank": 4}}}, "plain": None}},
    ],
)
def test_what_a_file_may_say_fits(content: dict[str, Any]) -> None:
    assert problems(content) == []


@pytest.mark.parametrize(
    "content",
    [
        {"benchmark": "demo"},
        {"models": ["demo-wide"], "recipes": {}},
        {"models": ["demo-wide"], "recipe": {"lora": {"rank": 0}}},
        {"models": ["demo-wide"], "recipe": {"precision": "fp8"}},
        {"models": [{"path": 3}]},
        {"extends": "demo", "variants": {"other": {"name": "mine"}}},
    ],
)
def test_what_a_file_may_not_say_does_not(content: dict[str, Any]) -> None:
    assert problems(content) != []
