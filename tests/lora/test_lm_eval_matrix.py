"""Architecture by precision by chat template, scored from a folder as lm-evaluation-harness scores the same folder."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, Gemma3Config, PreTrainedConfig

from registry.config.study import BaseSpec
from registry.errors import Refused
from registry.lora.encoding import encode_queries
from registry.lora.score import ScoringSet, loglikelihoods
from registry.models.base import resolve_base
from registry.models.loading import dtype_of, load_base, load_tokenizer, quantization_config
from tests.architectures.tiny import VARIANTS, tiny_config
from tests.lora.test_lm_eval_parity import STYLES, TOKENIZERS

pytestmark = pytest.mark.slow

ARCHITECTURES = ("gemma3 as published", "llama", "bloom", "gpt2", "phi3, LongRoPE", "qwen3_moe", "mamba", "gpt_bigcode")
PRECISIONS = ("fp32", "bf16", "fp16", "4bit")
#: Sums of up to some hundred nats are rounded in float32.
RELATIVE, ABSOLUTE = 5e-6, 1e-4


def configured(name: str) -> PreTrainedConfig:
    size = {"vocab_size": 1200, "max_position_embeddings": 2048, "n_positions": 2048}
    if name == "gemma3 as published":
        text = tiny_config("gemma3_text", vocab_size=1200).to_dict()
        del text["max_position_embeddings"]  # gemma-3-4b-it names none
        vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        return Gemma3Config(text_config=text, vision_config=vision | {"image_size": 28, "patch_size": 14})
    kind, fields = VARIANTS.get(name, (name, {}))
    known = tiny_config(kind).to_dict()
    return tiny_config(kind, **(fields | {key: value for key, value in size.items() if key in known}))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(configured(request.param)).eval().save_pretrained(path)
    TOKENIZERS["begins"].save_pretrained(path)
    return path


@cache
def harness(folder: Path, precision: str, chat: bool) -> np.ndarray:
    """What the harness makes of the folder, a text at a time and in a float32 softmax."""
    # float32 sums, as here: in the logits' own type the harness adds rounding of its own.
    shared = {"device": "cpu", "batch_size": 1, "softmax_dtype": "float32", "max_length": 2048}
    if precision == "4bit":  # its own option for that is not one that transformers takes any more
        four = quantization_config("4bit", torch.bfloat16)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=four)
        engine = HFLM(pretrained=model, tokenizer=TOKENIZERS["begins"], **shared)
    else:
        dtype = str(dtype_of(precision)).removeprefix("torch.")
        engine = HFLM(pretrained=str(folder), dtype=dtype, **shared)
    pairs = []
    for context, options in questions():
        if chat:
            context = engine.apply_chat_template([{"role": "user", "content": context}])
            options = tuple(option.removeprefix(" ") for option in options)
        pairs += [(context, option) for option in options]
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=number) for number, pair in enumerate(pairs)
    ]
    return np.array([value for value, _ in engine.loglikelihood(requests, disable_tqdm=True)])


def questions() -> list[tuple[str, tuple[str, ...]]]:
    queries = [style.prompt.query(style.item(row)) for style in STYLES.values() for row in style.rows[:6]]
    return [(query.context, query.continuations) for query in queries]


def ours(folder: Path, precision: str, chat: bool) -> np.ndarray:
    base = resolve_base(BaseSpec(name="tiny", path=str(folder)))
    dtype, quantization = (torch.bfloat16, "4bit") if precision == "4bit" else (dtype_of(precision), None)
    model = load_base(base, dtype=dtype, device="cpu", quantization=quantization)
    encoded = encode_queries(load_tokenizer(base), questions(), chat=chat)
    values = loglikelihoods(model, ScoringSet(encoded, tokens_per_batch=2048, max_length=base.max_positions))
    return np.concatenate(values)


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_folder_scores_as_in_the_harness(folder: Path, precision: str, chat: bool, capsys, request) -> None:
    if precision == "4bit" and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("quantised bases need bitsandbytes: pip install -e '.[quantized]'")
    if precision == "4bit" and "mamba" in request.node.callspec.id:  # transformers runs no quantised Mamba on a CPU
        with pytest.raises(Refused, match="the base mamba cannot be run"):
            ours(folder, precision, chat)
        return
    found, expected = ours(folder, precision, chat), harness(folder, precision, chat)
    assert found.shape == expected.shape
    exact = harness(folder, "fp32", chat)
    assert np.ptp(exact) > 1, "scores that hardly differ would prove nothing"
    largest = float(np.abs(found - expected).max())
    with capsys.disabled():
        print(f"\n{request.node.callspec.id}: largest difference {largest:.1e} of up to {np.abs(exact).max():.0f} nats")
    if precision == "fp32":
        np.testing.assert_allclose(found, expected, rtol=RELATIVE, atol=ABSOLUTE)
    else:  # half precision rounds otherwise for every layout; neither is nearer to float32 than the other
        theirs, own = (float(np.abs(values - exact).mean()) for values in (expected, found))
        assert own <= 1.25 * theirs + 0.02, f"{own:.3f} nats from float32 on average, the harness {theirs:.3f}"
