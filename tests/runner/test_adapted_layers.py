"""Which layers of a base an adapter goes on is said at every turn; names that no layer has are refused."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from registry.config.files import load_study
from registry.config.study import LoraSpec, Study
from registry.errors import Refused
from registry.models.base import skeleton
from registry.models.projections import matched_modules
from registry.planning.experiment import prepare
from registry.recipes.targets import few_reached
from registry.runner.session import rehearse
from registry.runner.single import finetune_one, narrowed
from tests.fake_hub import unreachable

SIZES = {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
PHI3 = Phi3Config(**SIZES, intermediate_size=128, num_key_value_heads=4, bos_token_id=1, eos_token_id=2)
MOE = Qwen3MoeConfig(
    **SIZES, intermediate_size=128, moe_intermediate_size=48, num_key_value_heads=2, head_dim=16, num_experts=4
)
NEOX = GPTNeoXConfig(**SIZES, intermediate_size=128, bos_token_id=1, eos_token_id=2)


@pytest.fixture(scope="module")
def study_on(small_study, base, tokenizer, tmp_path_factory) -> Callable[..., Study]:
    """The small study on a base of another architecture, with some targets."""
    folders: dict[str, Path] = {}

    def make(kind: type[PreTrainedModel], config, targets: str = "") -> Study:
        if kind.__name__ not in folders:
            folders[kind.__name__] = tmp_path_factory.mktemp("base")
            torch.manual_seed(0)
            kind(config).save_pretrained(folders[kind.__name__])
            tokenizer.save_pretrained(folders[kind.__name__])
        lora = f"rank: 4, targets: {targets}" if targets else "rank: 4"
        return small_study((str(base), str(folders[kind.__name__])), ("rank: 4", lora))

    return make


def body(model: PreTrainedModel) -> int:
    """Weights in the matrices of the decoder's layers, counted from what a real model holds."""
    layers = (weight for name, weight in model.base_model.named_parameters() if ".layers." in f".{name}")
    return sum(weight.numel() for weight in layers if weight.ndim > 1)


@pytest.mark.parametrize(
    ("kind", "config", "absent", "adapted"),
    [
        (Phi3ForCausalLM, PHI3, 5, ("o_proj", "down_proj")),
        (Qwen3MoeForCausalLM, MOE, 3, ("q_proj", "k_proj", "v_proj", "o_proj")),
    ],
)
def test_the_share_of_the_weights_is_that_of_a_real_model(kind, config, absent: int, adapted) -> None:
    found, whole = matched_modules(skeleton(config), LoraSpec().targets), kind(config)
    reached = [module.weight for name, module in whole.named_modules() if name.rpartition(".")[2] in adapted]
    assert found.share == pytest.approx(sum(weight.numel() for weight in reached) / body(whole))
    assert len(found.absent) == absent
    assert {name: count for name, count in found.counts.items() if count} == dict.fromkeys(adapted, 2)


def test_what_the_usual_targets_miss_is_said_with_the_remedy(study_on, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        prepare(study_on(Phi3ForCausalLM, PHI3))
    (told,) = [record.getMessage() for record in caplog.records if "the usual" in record.getMessage()]
    assert told == (
        "tiny: the usual recipe.lora.targets reach 30% of the weights (q_proj, k_proj, v_proj, gate_proj, up_proj "
        "match nothing); for 100% set targets: [down_proj, gate_up_proj, o_proj, qkv_proj], or [all-linear]"
    )


def test_experts_that_no_adapter_reaches_are_said() -> None:
    told = few_reached(matched_modules(skeleton(MOE), LoraSpec().targets), LoraSpec())
    share = matched_modules(skeleton(MOE), LoraSpec().targets).share
    assert share < 0.3
    assert f"the other {1 - share:.0%} are in no linear layer, and no adapter here reaches them" in told
    assert "set targets" not in told, "nothing more can be reached"


def test_of_the_usual_bases_nothing_is_said(small_study, caplog) -> None:
    found = prepare(small_study()).facts_of("tiny").matched
    assert found is not None
    assert (found.share, found.absent) == (1.0, ())
    assert "usual" not in caplog.text


@pytest.mark.parametrize(
    ("kind", "config", "targets", "told"),
    [
        (
            Phi3ForCausalLM,
            PHI3,
            "[o_proj, q_proj]",
            r"has no q_proj among its linear layers; it has down_proj, gate_up",
        ),
        (LlamaForCausalLM, None, "[q_proj, attn.k_proj]", r"has no attn.k_proj .*\[all-linear\]"),
        (GPTNeoXForCausalLM, NEOX, "", r"has none of the usual targets among .*it has dense, dense_4h_to_h, dense_h"),
        (GPTNeoXForCausalLM, NEOX, "[dense, embed_in]", r"has no embed_in"),  # embeddings are no linear layer
    ],
)
def test_names_without_a_layer_are_refused_before_any_work(
    study_on, small_study, kind, config, targets: str, told: str
) -> None:
    lora = ("rank: 4", f"rank: 4, targets: {targets}")
    study = small_study(lora) if config is None else study_on(kind, config, targets)
    for look in (prepare, rehearse):
        with pytest.raises(Refused, match=f"recipe.lora.targets: base 'tiny' {told}"):
            look(study)


def test_a_dry_run_says_them_without_network_or_weights(tmp_path: Path, study_on, uri) -> None:
    assert "  adapts        30% of the weights in the layers of tiny: o_proj ×2, down_proj ×2" in rehearse(
        study_on(Phi3ForCausalLM, PHI3)
    )
    with unreachable(tmp_path):
        text = rehearse(load_study("paper"))
        usual = ", ".join(LoraSpec().targets)
        assert f"  adapts        100% of the weights in the layers of each of 9 bases: {usual}" in text
        spec = LoraSpec(rank=8, targets=("q_proj", "nothing"))
        study = load_study("paper")
        changed = dataclasses.replace(study, recipe=dataclasses.replace(study.recipe, lora=spec))
        with pytest.raises(Refused, match=r"'meta-llama/Llama-3.2-1B-Instruct' has no nothing among"):
            rehearse(changed)


def test_the_run_and_the_card_say_them(uri, study_on, tmp_path: Path) -> None:
    result = finetune_one(narrowed(study_on(Phi3ForCausalLM, PHI3)))
    params = result.run.data.params
    assert params["adapted_modules"] == "o_proj=2 down_proj=2"
    assert float(params["adapted_share"]) == pytest.approx(0.3)
    card = (result.download(str(tmp_path)) / "README.md").read_text(encoding="utf-8")
    assert "| adapted\\_modules | `o_proj=2 down_proj=2` |" in card
    assert "| adapted\\_share | `0.3` |" in card
