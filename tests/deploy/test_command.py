"""The entry point, from a finished study to the lines that use the folder."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from registry.runner.session import prospect, run_study
from tests.deploy.conftest import logits
from tests.deploy.upload_hub import upload_hub


def test_from_a_finished_study_to_a_folder_a_model_and_the_hub(
    command, uri, small_study, base, tmp_path: Path, monkeypatch
) -> None:
    run_study(prospect(small_study(("seeds: [17, 42]", "seeds: [17]\nsources: [pair/tr]")), workers=1))
    cell = ("--model", "tiny", "--task", "pair", "--language", "tr")
    code, output, _ = command("pull", *cell, "--output", tmp_path / "adapter")
    assert code == 0
    assert "pulled: models:/tiny--pair--tr/1\n" in output
    assert "base model tiny, source pair/tr, seed 17" in output
    serve = next(line.strip() for line in output.splitlines() if "vllm serve" in line)
    wanted = f"vllm serve {base} --dtype float32 --enable-lora --lora-modules tiny--pair--tr={tmp_path / 'adapter'}"
    assert shlex.split(serve) == [*wanted.split(), "--max-lora-rank", "8"]

    code, output, _ = command("pull", "--best-for", "pair/tr", "--output", tmp_path / "whole", "--merged", "true")
    assert code == 0
    assert "rank 1 of 1 evaluated adapters of this base" in output
    assert f"vllm serve {tmp_path / 'whole'} --dtype float32 --served-model-name tiny--pair--tr" in output
    lines = [line[4:] for line in output.splitlines() if line.startswith("    ") and "vllm" not in line]
    told: dict[str, object] = {}
    exec("\n".join(lines), told)
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(told["model"]), logits(peft), rtol=0, atol=1e-4)

    with upload_hub(tmp_path / "cache") as hub:
        monkeypatch.setenv("HF_TOKEN", hub.token)
        code, output, _ = command("pull", *cell, "--output", tmp_path / "adapter", "--push", "me/tiny")
    assert code == 0
    assert "already there: models:/tiny--pair--tr/1" in output
    assert f"pushed: {hub.address}/me/tiny/commit/" in output
    assert set(hub.repositories["me/tiny"]) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "name an adapter: -P name="),
        (("--name", "../x"), "'../x' is no registered name"),
        (("--name", "x", "--push", "nowhere"), "push=nowhere is no repository: write owner/name"),
        (("--name", "x", "--dtype", "int8"), "there is no data type 'int8'"),
        (("--name", "x", "--seed", "one"), "'one' is not a whole number"),
    ],
    ids=str,
)
def test_a_mistake_is_answered_without_a_traceback(command, uri, arguments: tuple[str, ...], told: str) -> None:
    code, output, errors = command("pull", *arguments)
    assert (code, output) == (2, "")
    assert told in errors
    assert "Traceback" not in errors
