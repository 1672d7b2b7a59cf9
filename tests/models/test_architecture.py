"""What a base is, and how long its inputs may be, is what transformers says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    BartConfig,
    BigBirdPegasusConfig,
    BloomConfig,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTBigCodeConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    M2M100Config,
    MambaConfig,
    MptConfig,
    MT5Config,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2VLConfig,
    RobertaConfig,
    T5Config,
)

from registry.config.study import BaseSpec
from registry.errors import Refused
from registry.models.architecture import UNLIMITED, auto_class, longest_input, rope_switches, skeleton
from registry.models.base import resolve_base
from registry.models.loading import load_base

TINY = {"vocab_size": 500, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def gemma3(**text: object) -> Gemma3Config:
    """As gemma-3-4b-it is published: its text part names no longest input, so the class's own holds."""
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return Gemma3Config(text_config={**TINY, "head_dim": 16, **text}, vision_config=vision)


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        (gemma3(), 131_072),
        (Gemma3TextConfig(**TINY, head_dim=16), 131_072),
        (GPTBigCodeConfig(vocab_size=500, n_embd=64, n_layer=1, n_head=4, n_positions=64), 64),
        (GPT2Config(vocab_size=500, n_embd=64, n_layer=1, n_head=4, n_positions=48), 48),
        (MptConfig(vocab_size=500, d_model=64, n_layers=1, n_heads=4, max_seq_len=77), 77),
        (OPTConfig(**TINY, max_position_embeddings=99, ffn_dim=64), 99),
        (RobertaConfig(**TINY, max_position_embeddings=514, is_decoder=True), 512),
        (BloomConfig(vocab_size=500, hidden_size=64, n_layer=1, n_head=4), None),
        (MambaConfig(vocab_size=500, hidden_size=64, num_hidden_layers=1), None),
    ],
    ids=lambda value: value.model_type if isinstance(value, PreTrainedConfig) else str(value),
)
def test_the_longest_input_is_what_the_architecture_takes(config: PreTrainedConfig, longest: int | None) -> None:
    model = skeleton(config)
    assert longest_input(model) == longest


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["gpt_bigcode", "roberta", "opt"])
def test_a_table_of_positions_holds_the_longest_input_and_no_token_more(kind: str) -> None:
    from tests.architectures.tiny import tiny_config, tiny_model

    model = tiny_model(tiny_config(kind))
    longest = longest_input(model)
    assert longest is not None
    model(input_ids=torch.full((1, longest), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, longest + 1), 5))


def test_where_the_architecture_sets_no_limit_the_tokenizer_does(tmp_path: Path, tokenizer) -> None:
    from tests.architectures.tiny import tiny_config, tiny_model

    tiny_model(tiny_config("bloom")).save_pretrained(tmp_path)
    spec = BaseSpec(name="tiny", path=str(tmp_path))
    assert resolve_base(spec).max_positions == UNLIMITED
    tokenizer.save_pretrained(tmp_path)
    described = tmp_path / "tokenizer_config.json"
    described.write_text(json.dumps(json.loads(described.read_text()) | {"model_max_length": 300}))
    assert resolve_base(spec).max_positions == 300


@pytest.mark.parametrize(
    "config",
    [
        T5Config(),
        MT5Config(),
        BartConfig(),
        BigBirdPegasusConfig(),
        M2M100Config(),
    ],
    ids=lambda config: config.model_type,
)
def test_an_encoder_decoder_is_refused_in_words(config: PreTrainedConfig) -> None:
    with pytest.raises(Refused, match=rf"'mine' is an encoder-decoder \({config.model_type}\).*decoder-only"):
        auto_class(config, "mine")


@pytest.mark.parametrize("saved_as", ["GPT2LMHeadModel", "GPT2DoubleHeadsModel", "GPTBigCodeForCausalLM", None])
def test_the_kind_of_model_decides_and_not_how_its_class_is_called(saved_as: str | None) -> None:
    config = GPT2Config(architectures=[saved_as] if saved_as else None)
    if saved_as == "GPT2DoubleHeadsModel":
        with pytest.raises(Refused, match="is a GPT2DoubleHeadsModel, not a causal language model"):
            auto_class(config, "mine")
    else:
        assert auto_class(config, "mine").__name__ == "AutoModelForCausalLM"


def test_a_model_that_reads_images_is_loaded_as_it_was_saved() -> None:
    saved = Qwen2VLConfig(architectures=["Qwen2VLForConditionalGeneration"])
    assert auto_class(saved, "mine").__name__ == "AutoModelForImageTextToText"
    assert auto_class(gemma3(), "mine").__name__ == "AutoModelForCausalLM"


@pytest.mark.parametrize("kind", [LlamaModel, LlamaForSequenceClassification])
def test_a_checkpoint_without_an_lm_head_is_refused(kind: type, tmp_path: Path) -> None:
    kind(LlamaConfig(**TINY)).save_pretrained(tmp_path)
    with pytest.raises(Refused, match=f"'tiny' is a {kind.__name__}, not a causal language model"):
        resolve_base(BaseSpec(name="tiny", path=str(tmp_path)))


@pytest.mark.parametrize("lacking", ["lm_head.weight", "model.layers.1.mlp.up_proj.weight"])
def test_weights_that_the_files_lack_are_never_random(lacking: str, tmp_path: Path) -> None:
    """transformers fills them with random numbers, and says so in a warning alone."""
    model = LlamaForCausalLM(LlamaConfig(**TINY, tie_word_embeddings=False))
    kept = {name: weight for name, weight in model.state_dict().items() if name != lacking}
    model.save_pretrained(tmp_path, state_dict=kept)
    base = resolve_base(BaseSpec(name="tiny", path=str(tmp_path)))
    with pytest.raises(Refused, match=rf"lacks 1 weights of LlamaForCausalLM.*{lacking}"):
        load_base(base, dtype=torch.float32, device="cpu")


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**TINY, tie_word_embeddings=True)).save_pretrained(tmp_path)
    load_base(resolve_base(BaseSpec(name="tiny", path=str(tmp_path))), dtype=torch.float32, device="cpu")


def longrope(original: int) -> dict[str, object]:
    factors = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    return {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": original, **factors}


@pytest.mark.parametrize(
    ("config", "switches"),
    [
        (Phi3Config(**TINY, rope_parameters=longrope(4096), max_position_embeddings=131_072, pad_token_id=0), (4096,)),
        (LlamaConfig(**TINY), ()),
        (
            LlamaConfig(
                **TINY,
                max_position_embeddings=512,
                rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
            ),
            (512,),
        ),
        (
            gemma3(rope_parameters={"full_attention": longrope(64), "sliding_attention": {"rope_type": "default"}}),
            (64,),
        ),
    ],
    ids=["LongRoPE", "none", "dynamic NTK", "by type of layer"],
)
def test_lengths_where_the_rotary_frequencies_change_are_known(config: PreTrainedConfig, switches) -> None:
    assert rope_switches(config) == switches
