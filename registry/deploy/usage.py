"""The lines that use a pulled folder: with transformers and PEFT, and with vLLM."""

from __future__ import annotations

import json
from pathlib import Path

from registry.deploy.card import Facts
from registry.deploy.pull import Pulled
from registry.deploy.vllm import objections, serve_adapter, serve_merged
from registry.models import BUILT_IN
from registry.project import PROJECT

__all__ = ["usage"]


def usage(pulled: Pulled, *, base: str = "") -> list[str]:
    """Return lines of Python and of the shell.

    Parameters
    ----------
    base
        Folder of the base, where the user named one.
    """
    folder = str(pulled.folder)
    if pulled.facts.merged:
        python = [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            f'model = AutoModelForCausalLM.from_pretrained({folder!r}, dtype="auto")',
            f"tokenizer = AutoTokenizer.from_pretrained({folder!r})",
        ]
        return _both(python, serve_merged(folder, pulled.facts.name))
    place, revision = _base(pulled.facts, base)
    pinned = f", revision={revision!r}" if revision else ""
    python = [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        f"base = AutoModelForCausalLM.from_pretrained({place!r}{pinned})",
        f"model = PeftModel.from_pretrained(base, {folder!r})",
        f"tokenizer = AutoTokenizer.from_pretrained({place!r}{pinned})",
    ]
    why_not = objections(pulled.folder)
    if why_not:
        return _both(python, f"does not load it: {'; '.join(why_not)}. Pull it with -P merged=true")
    config = json.loads((pulled.folder / "adapter_config.json").read_text(encoding="utf-8"))
    return _both(python, serve_adapter(place, revision, pulled.facts.name, folder, config["r"]))


def _base(facts: Facts, given: str) -> tuple[str, str | None]:
    """Return what ``from_pretrained`` and vLLM are given for the base, and its revision."""
    if given:
        return str(Path(given).expanduser().absolute()), None
    if facts.hub_revision:
        return facts.base, facts.hub_revision
    if facts.serving["base"]["reference"] == BUILT_IN.get(facts.base):
        return str(PROJECT / BUILT_IN[facts.base]), None
    return f"<folder of {facts.base}>", None


def _both(python: list[str], shell: str) -> list[str]:
    return ["  Python:", *(f"    {line}" for line in python), "  vLLM:", f"    {shell}"]
