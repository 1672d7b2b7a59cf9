"""An adapter's card, read as the hub's own library reads it."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from huggingface_hub import ModelCard

from registry.benchmarks.prompts import PROMPTS
from registry.cards.card import Facts, card
from registry.cards.licences import base_licence
from registry.cards.results import results_of
from registry.cells import Cell
from registry.models.catalogue import PAPER
from registry.tracking.names import Tag

COMMIT = "c0ffee" + "0" * 34


def facts(
    base: str = "Qwen/Qwen2.5-0.5B-Instruct", source: str = "arc_challenge/bn", benchmark: str = "hub", **other: str
) -> Facts:
    task, language = source.split("/")
    tags = {
        Tag.BASE_MODEL: base,
        Tag.SOURCE_TASK: task,
        Tag.SOURCE_LANGUAGE: language,
        Tag.SEED: "17",
        Tag.STUDY: "paper",
        Tag.DIGEST: "d1",
    }
    revision = COMMIT if "/" in base else "sha256:1"
    serving = {"base": {"name": base, "reference": base, "revision": revision}, "prompt": asdict(PROMPTS["text"])}
    return Facts(tags | other, {"lora.rank": "12", "learning_rate": "0.0005"}, serving, benchmark)


def test_the_hubs_library_reads_the_metadata() -> None:
    data = ModelCard(card(facts(), None)).data
    assert data.base_model == "Qwen/Qwen2.5-0.5B-Instruct"
    assert data.library_name == "peft"
    assert data.language == ["bn"]
    assert data.datasets == ["alexandrainst/m_arc"]
    assert data.license == "cc-by-nc-4.0"
    assert data.tags == ["lora", "cross-lingual-transfer", "arc_challenge"]
    assert data.pipeline_tag == "text-generation"


@pytest.mark.parametrize(
    ("base", "source", "benchmark", "licence", "name", "data_sets"),
    [
        ("demo-wide", "kind/tr", "demo", "apache-2.0", None, None),
        ("Qwen/Qwen2.5-7B-Instruct", "global_mmlu/hi", "hub", "apache-2.0", None, ["CohereLabs/Global-MMLU-Lite"]),
        (
            "Qwen/Qwen2.5-3B-Instruct",
            "global_mmlu/hi",
            "hub",
            "other",
            "qwen-research",
            ["CohereLabs/Global-MMLU-Lite"],
        ),
        ("google/gemma-3-1b-it", "global_mmlu/hi", "hub", "gemma", None, ["CohereLabs/Global-MMLU-Lite"]),
        ("google/gemma-3-1b-it", "arc_challenge/hi", "hub", "other", "see-base-and-data", ["alexandrainst/m_arc"]),
        ("Qwen/Qwen2.5-7B-Instruct", "hellaswag/zh", "hub", "cc-by-nc-4.0", None, ["richmondsin/m_hellaswag"]),
        ("Qwen/Qwen2.5-7B-Instruct", "sib200/sw", "files", "other", "see-base-and-data", None),
        ("mine", "sib200/sw", "files", "other", "see-base-and-data", None),
    ],
)
def test_licences_are_told_as_far_as_they_are_known(base, source, benchmark, licence, name, data_sets) -> None:
    text = card(facts(base, source, benchmark), None)
    data = ModelCard(text).data
    assert (data.license, data.license_name, data.datasets) == (licence, name, data_sets)
    if base == "mine":
        assert "- base `mine`: see the base model" in text


def test_the_licence_of_every_base_of_the_paper_is_known() -> None:
    told = {name: base_licence(name).id for name in PAPER}
    assert told["meta-llama/Llama-3.2-1B-Instruct"] == "llama3.2"
    assert told["meta-llama/Llama-3.1-8B-Instruct"] == "llama3.1"
    assert told["Qwen/Qwen2.5-3B-Instruct"] == "qwen-research"
    assert told["google/gemma-3-4b-it"] == "gemma"
    assert all(told.values())


@pytest.mark.parametrize("base", ["a|b`c*<script>", "x\n---\nevil: true", "../..", "quo\"te's: {a}"])
def test_names_are_escaped(base: str) -> None:
    text = card(facts(base, "kind/tr", "files"), None)
    data = ModelCard(text).data
    assert "evil" not in data.to_dict()
    assert data.base_model in (None, base)
    title = next(line for line in text.splitlines() if line.startswith("# "))
    assert "<script>" not in title
    assert "\nevil: true" not in text
    assert not any(line.startswith("---") for line in text.split("---\n\n", 1)[1].splitlines())


def test_a_base_that_can_be_no_repository_is_left_out_of_the_metadata() -> None:
    assert ModelCard(card(facts("my base", "kind/tr", "files"), None)).data.base_model is None
    assert ModelCard(card(facts("tiny", "kind/tr", "files"), None)).data.base_model == "tiny"


def test_an_unevaluated_adapters_card_says_so() -> None:
    assert "no evaluation had finished" in card(facts(), None)


def test_every_result_is_told_with_its_regime_and_known_harm_first(client, register, evaluate) -> None:
    adapter = register()
    evaluate(adapter, {"pair/tr": 5.0})
    run = evaluate(
        adapter,
        {"pair/tr": 9.0, "pair/en": 0.5, "kind/tr": -1.0, "kind/en": -4.25},
        below="kind/en",
    )
    results = results_of(client, f"{adapter.name}/{adapter.version}")
    assert results is not None
    assert [str(result.target) for result in results.targets] == ["pair/tr", "pair/en", "kind/tr", "kind/en"]
    text = card(facts("tiny", "pair/tr", "demo"), results)
    assert "**Known harm** (delta at or below -1 pp): `kind/en` -4.25, `kind/tr` -1.00." in text
    assert "below chance on `kind/en`" in text
    assert f"evaluation run `{run}`" in text
    assert "The newest of 2 evaluations." in text
    assert "| `pair/tr` | MT-ML | 0.590 | +9.00 |  |" in text
    assert "| `kind/en` | CT-CL | 0.458 | -4.25 | harm |" in text
    assert "| CT-ML | 1 | -1.00 | 1 |" in text


def test_loading_names_the_bases_commit_and_a_rank_that_vllm_takes() -> None:
    text = card(facts(), None)
    assert (
        f"AutoModelForCausalLM.from_pretrained('Qwen/Qwen2.5-0.5B-Instruct', revision='{COMMIT}', dtype=\"float32\")"
        in text
    )
    assert f"vllm serve Qwen/Qwen2.5-0.5B-Instruct --revision {COMMIT} --dtype float32 --enable-lora" in text
    assert "--max-lora-rank 16" in text


def test_a_card_is_written_when_an_adapter_is_registered(uri, small_study, stored) -> None:
    from registry.runner.single import finetune_one, narrowed

    finetune_one(narrowed(small_study(), task="pair", language="tr", seed=42))
    (file,) = stored("README.md")
    text = file.read_text()
    assert ModelCard(text).data.license == "other"  # nothing is known of the tiny base
    assert "seed `42`, in study `small`" in text
    assert "| lora.rank | `4` |" in text
    assert str(Cell("pair", "tr")) in text
