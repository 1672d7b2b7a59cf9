"""An adapter's card: README.md with the hub's metadata, what it was made from, what it does and how to load it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from registry.cards.base_model import auto_class, base_dtype, imports, load_arguments
from registry.cards.licences import Licence, adapter_licence, base_licence, data_licence
from registry.cards.results import AdapterResults, TargetResult
from registry.cards.vllm import RANKS, cautions, max_lora_rank
from registry.cells import HARM_PP, Cell, Regime
from registry.files.markdown import code_block, code_span, escaped, markdown_table, one_line
from registry.models.base import hub_revision
from registry.tracking.names import Tag, headlines_of, registered_model

__all__ = ["Facts", "card"]

_HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
_LANGUAGE = re.compile(r"[a-z]{2,3}")

# What of a fine-tune's parameters a reader of the card asks for.
_RECIPE = (
    "lora.rank", "lora.alpha", "lora.dropout", "lora.targets", "learning_rate", "epochs", "batch_size", "max_length",
    "validation", "loss", "precision", "quantization", "chat_template",
    "chat_template_date", "adapted_modules", "adapted_share",
)  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What is recorded of an adapter.

    Attributes
    ----------
    tags
        Of its version.
    parameters
        Of the run that trained it.
    serving
        The metadata of its ``MLmodel``: base with name, reference and revision, source, prompt.
    benchmark
        Kind of the study's benchmark, ``demo``, ``hub`` or ``files``; empty where it is not known.
    merged
        Data type of the weights, where the card is that of a merged model; empty for an adapter's.
    """

    tags: Mapping[str, str]
    parameters: Mapping[str, str]
    serving: Mapping[str, Any]
    benchmark: str
    merged: str = ""

    @property
    def base(self) -> str:
        """Name of the base."""
        return self.tags[Tag.BASE_MODEL]

    @property
    def source(self) -> Cell:
        """Cell that the adapter was trained on."""
        return Cell(self.tags[Tag.SOURCE_TASK], self.tags[Tag.SOURCE_LANGUAGE])

    @property
    def name(self) -> str:
        """Registered name."""
        return registered_model(self.base, self.source)

    @property
    def hub_revision(self) -> str | None:
        """Commit of a base of the hub, None for one from a folder."""
        return hub_revision(str(self.serving["base"]["revision"]))


def card(facts: Facts, results: AdapterResults | None) -> str:
    """Write an adapter's card.

    Parameters
    ----------
    results
        None where no evaluation has finished yet.
    """
    base, data = base_licence(facts.base), data_licence(facts.benchmark, facts.source)
    parts = [
        f"---\n{_metadata(facts, base, data)}---",
        f"# {escaped(facts.name)}",
        _about(facts),
        "## How it was made",
        _made(facts),
        "## Results",
        _results(results) if results else "None: no evaluation had finished when this card was written.",
        "## How to load it",
        _loading(facts),
        "## Licences",
        f"- base {code_span(facts.base)}: {base.name}\n- training data: {data.name}"
        + (f" ({', '.join(map(code_span, data.data_sets))})" if data.data_sets else "")
        + "\n\nThe adapter is made from both, so both apply.",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(facts: Facts, base: Licence, data: Licence) -> str:
    licence, licence_name = adapter_licence(base, data)
    found: dict[str, Any] = {}
    if _HUB_ID.fullmatch(facts.base):  # the hub refuses cards whose base could be no repository
        found["base_model"] = facts.base
    found["base_model_relation"] = "merge" if facts.merged else "adapter"
    found["library_name"] = "transformers" if facts.merged else "peft"
    found["pipeline_tag"] = "text-generation"
    if _LANGUAGE.fullmatch(facts.source.language):
        found["language"] = [facts.source.language]
    found["license"] = licence
    if licence_name:
        found["license_name"] = licence_name
    if data.data_sets:
        found["datasets"] = list(data.data_sets)
    found["tags"] = ["lora", "cross-lingual-transfer", facts.source.task]
    text: str = yaml.safe_dump(found, sort_keys=False, allow_unicode=True)
    return text


def _about(facts: Facts) -> str:
    what = f"A LoRA adapter of {code_span(facts.base)}"
    if facts.merged:
        what = f"{code_span(facts.base)} with a LoRA adapter merged in (weights in {facts.merged}, rounded once)"
    return (
        f"{what}, fine-tuned on the cell {code_span(facts.source)}, that is on task {code_span(facts.source.task)} in "
        f"language {code_span(facts.source.language)}, with seed {code_span(facts.tags.get(Tag.SEED, ''))}, in study "
        f"{code_span(facts.tags.get(Tag.STUDY, ''))}."
    )


def _made(facts: Facts) -> str:
    rows = [("base", facts.base), ("base revision", facts.serving["base"]["revision"]), ("source", str(facts.source))]
    rows += [(name, facts.parameters[name]) for name in _RECIPE if facts.parameters.get(name) not in (None, "None", "")]
    rows.append(("SHA-256 of the adapter's weights", facts.tags.get(Tag.DIGEST, "")))
    table = markdown_table(("", ""), [(escaped(name), code_span(value)) for name, value in rows if value])
    prompt = dict(facts.serving.get("prompt", {}))
    if prompt and (headline := headlines_of(facts.tags).get(facts.source.task)):
        prompt["headline"] = headline  # as the version was last evaluated
    style = yaml.safe_dump(prompt, sort_keys=False, allow_unicode=True).rstrip()
    return f"{table}\n\nPrompt style (use the same, or expect other results):\n\n{code_block(style, 'yaml')}"


def _results(results: AdapterResults) -> str:
    """Write every target's result, the harmed ones named first."""
    left_out = "".join(f"\n\nNot taken into account: {escaped(note)}." for note in results.notes)
    if not results.targets:
        return f"None that can be believed.{left_out}"
    harmed = [result for result in results.targets if result.harmed]
    said = (
        f"{len(results.targets)} targets, evaluation run {code_span(results.run_id)} in study "
        f"{code_span(results.study)}. "
        "Delta is score minus the untouched base's, in percentage points: one measurement each, on finitely many "
        "questions."
    )
    scored = {result.target.task: results.headlines.get(result.target.task) for result in results.targets}
    for name in dict.fromkeys(filter(None, scored.values())):
        tasks = ", ".join(code_span(task) for task, headline in scored.items() if headline == name)
        said += f" The score of {tasks} is {code_span(name)}."
    if results.evaluations > 1:
        said += f" The newest of {results.evaluations} evaluations."
    known = "**Known harm** (delta at or below " + f"{HARM_PP:g} pp): " + (_listed(harmed) if harmed else "none.")
    below = sorted(results.below_chance)
    if below:
        known += f"\n\nThe untouched base is below chance on {', '.join(map(code_span, below))}: distrust these deltas."
    if results.indistinct:
        affected = ", ".join(f"{code_span(cell)} ({share:.0%})" for cell, share in sorted(results.indistinct.items()))
        known += (
            f"\n\nThe base's tokenizer makes the same tokens of different options in {affected} of the questions: no "
            "model can choose there, and these scores and deltas mean little."
        )
    rows = [
        (code_span(result.target), result.regime, f"{result.score:.3f}", f"{result.delta:+.2f}", "harm" * result.harmed)
        for result in results.targets
    ]
    table = markdown_table(("target", "regime", "score", "delta, pp", ""), rows)
    return f"{said}\n\n{known}\n\n{_regimes(results.targets)}\n\n{table}{left_out}"


def _listed(harmed: Sequence[TargetResult]) -> str:
    worst = sorted(harmed, key=lambda result: result.delta)
    return ", ".join(f"{code_span(result.target)} {result.delta:+.2f}" for result in worst) + "."


def _regimes(targets: Sequence[TargetResult]) -> str:
    rows = []
    for regime in Regime:
        found = [result for result in targets if result.regime is regime]
        if found:
            mean = sum(result.delta for result in found) / len(found)
            rows.append((regime, str(len(found)), f"{mean:+.2f}", str(sum(result.harmed for result in found))))
    meaning = "MT and CT: matched and cross task; ML and CL: matched and cross language; MT-ML is the source itself."
    return f"{meaning}\n\n{markdown_table(('regime', 'targets', 'mean delta, pp', 'harmed'), rows)}"


def _loading(facts: Facts) -> str:
    pinned = f", revision={facts.hub_revision!r}" if facts.hub_revision else ""
    base = facts.base if facts.hub_revision else f"<folder of {one_line(facts.base)}>"
    if facts.merged:
        code = [
            f"from transformers import {auto_class(facts.serving)}, AutoTokenizer",
            "",
            f'model = {auto_class(facts.serving)}.from_pretrained("<this folder>", dtype="{facts.merged}")',
            'tokenizer = AutoTokenizer.from_pretrained("<this folder>")',
        ]
        return (
            code_block("\n".join(code), "python")
            + "\n\n"
            + code_block(f"vllm serve <this folder> --dtype {facts.merged}", "console")
        )
    loader, arguments = auto_class(facts.serving), load_arguments(facts.serving, facts.hub_revision)
    code = [
        "from peft import PeftModel",
        imports(facts.serving),
        "",
        f"base = {loader}.from_pretrained({base!r}{arguments})",
        'model = PeftModel.from_pretrained(base, "<this folder>")',
        f"tokenizer = AutoTokenizer.from_pretrained({base!r}{pinned})  # the base's own, unchanged",
    ]
    text = code_block("\n".join(code), "python")
    rank = int(facts.parameters.get("lora.rank", 0))
    if 0 < rank <= RANKS[-1]:
        where = shlex.quote(base) + (f" --revision {shlex.quote(facts.hub_revision)}" if facts.hub_revision else "")
        dtype = base_dtype(facts.serving)
        module = f"--dtype {dtype} --enable-lora --lora-modules {shlex.quote(one_line(facts.name))}=<this folder>"
        text += "\n\n" + code_block(f"vllm serve {where} {module} --max-lora-rank {max_lora_rank(rank)}", "console")
        text += "\n\n" + "\n".join(f"- {escaped(caution)}" for caution in cautions(dtype))
    if not facts.hub_revision and facts.serving["base"]["reference"] != facts.base:
        text += (
            f"\n\nThe base lies in the project that made the adapter: {code_span(facts.serving['base']['reference'])}."
        )
    return text
