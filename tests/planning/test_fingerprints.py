"""Only bases that were computed wrongly before get other fingerprints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry.config.study import BaseSpec
from registry.models.base import Base, resolve_base
from registry.planning.fingerprints import changed_scoring, changed_training
from tests.architectures.tiny import VARIANTS, tiny_config, tiny_model


def saved(folder: Path, name: str, **fields: object) -> Base:
    kind, own = VARIANTS.get(name, (name, {}))
    tiny_model(tiny_config(kind, **(own | fields))).save_pretrained(folder)
    return resolve_base(BaseSpec(name="tiny", path=str(folder)))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3_text", "mistral", "opt"])
def test_a_base_that_was_read_right_keeps_its_fingerprints(kind: str, tmp_path: Path) -> None:
    base = saved(tmp_path, kind)
    assert changed_scoring(base, base.skeleton().config) == {}
    assert changed_training(base, base.skeleton().config, [512]) == {}


def test_a_limit_that_config_json_does_not_state_changes_scores(tmp_path: Path) -> None:
    base = saved(tmp_path, "gemma3_text", max_position_embeddings=131_072)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["max_position_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    base = resolve_base(BaseSpec(name="tiny", path=str(tmp_path)))
    assert changed_scoring(base, base.skeleton().config) == {"longest_input": 131_072}
    assert changed_training(base, base.skeleton().config, [512]) == {}, "texts of 512 tokens were never cut"
    assert changed_training(base, base.skeleton().config, [512, 4096]) == {"longest_input": 131_072}


def test_longrope_and_several_calls_of_attention_change_scores(tmp_path: Path) -> None:
    base = saved(tmp_path / "phi3", "phi3, LongRoPE")
    assert changed_scoring(base, base.skeleton().config) == {"rope_switches": [64]}
    assert changed_training(base, base.skeleton().config, [48]) == {}
    assert changed_training(base, base.skeleton().config, [128]) == {"rope_switches": [64]}
    base = saved(tmp_path / "diffllama", "diffllama")
    assert changed_scoring(base, base.skeleton().config) == {"attention": "by call"}
