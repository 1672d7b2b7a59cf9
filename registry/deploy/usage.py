"""The lines that use a pulled folder: with transformers and PEFT, and with vLLM."""

from __future__ import annotations

import json

from registry.deploy.base_model import auto_class, held_dtype, imports, load_arguments
from registry.deploy.pull import Pulled
from registry.deploy.vllm import cautions, objections, serve_adapter, serve_merged

__all__ = ["usage"]


def usage(pulled: Pulled) -> list[str]:
    """Return lines of Python and of the shell."""
    folder, facts = str(pulled.folder), pulled.facts
    if facts.merged:
        python = [
            f"from transformers import {auto_class(facts.serving)}, AutoTokenizer",
            f'model = {auto_class(facts.serving)}.from_pretrained({folder!r}, dtype="{facts.merged}")',
            f"tokenizer = AutoTokenizer.from_pretrained({folder!r})",
        ]
        return _both(python, serve_merged(folder, facts.name, facts.merged))
    place, revision = pulled.base, pulled.base_revision
    pinned = f", revision={revision!r}" if revision else ""
    python = [
        "from peft import PeftModel",
        imports(facts.serving),
        f"base = {auto_class(facts.serving)}.from_pretrained({place!r}{load_arguments(facts.serving, revision)})",
        f"model = PeftModel.from_pretrained(base, {folder!r})",
        f"tokenizer = AutoTokenizer.from_pretrained({place!r}{pinned})",
    ]
    why_not = objections(pulled.folder)
    if why_not:
        return _both(python, f"does not load it: {'; '.join(why_not)}. Pull it with -P merged=true")
    config = json.loads((pulled.folder / "adapter_config.json").read_text(encoding="utf-8"))
    dtype = held_dtype(facts.serving)
    lines = _both(python, serve_adapter(place, revision, facts.name, folder, config["r"], dtype))
    return [*lines, *(f"    # {caution}" for caution in cautions(dtype))]


def _both(python: list[str], shell: str) -> list[str]:
    return ["  Python:", *(f"    {line}" for line in python), "  vLLM:", f"    {shell}"]
