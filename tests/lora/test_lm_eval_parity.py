"""Option by option, this project scores as EleutherAI's lm-evaluation-harness does, run here beside it.

The tasks are the harness's own, out of the installed package: prompt, cleaning, options, target and metrics. Redirected
are only the data, to files in the source's schema (``dataset_path``, ``dataset_name``, ``dataset_kwargs`` and the names
of the splits), and the task's name. TruthfulQA's primer is the harness's too.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import numpy as np
import pytest
import torch
import yaml
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from registry.benchmarks.items import Item
from registry.benchmarks.mapping import items_of
from registry.benchmarks.prompts import PROMPTS, Prompt, clean_hellaswag
from registry.benchmarks.tables import Table, TableRow
from registry.config.files import load_study
from registry.evaluation.outcomes import choose
from registry.lora.encoding import encode_queries
from registry.lora.score import ScoringSet, loglikelihoods
from tests.lora import parity_questions as rows

TASKS = Path(lm_eval.__file__).parent / "tasks"
PRIMER: str = importlib.import_module("lm_eval.tasks.okapi.truthfulqa_multilingual.utils").QA_PROMPT

# Of the kinds that Llama-3 and Qwen2.5 have: the one spells out the token that texts begin with, both end in blanks.
LLAMA_CHAT = (
    "{{ bos_token }}{% for turn in messages %}<|head|>{{ turn['role'] }}<|body|>\n\n{{ turn['content'] | trim }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|head|>assistant<|body|>\n\n{% endif %}"
)
QWEN_CHAT = (
    "<|head|>system\nYou answer questions.<|end|>\n{% for turn in messages %}<|head|>{{ turn['role'] }}\n"
    "{{ turn['content'] }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|head|>assistant\n{% endif %}"
)


def arc_item(row: dict[str, Any]) -> Item:
    options = tuple(clean_hellaswag(row[f"option_{letter}"]) for letter in "abcde" if row[f"option_{letter}"])
    return Item(row["id"], clean_hellaswag(row["instruction"]), options, "ABCDE".index(row["answer"]))


def mmlu_item(row: dict[str, Any]) -> Item:
    options = tuple(row[f"option_{letter}"] for letter in "abcd")
    return Item(row["sample_id"], row["question"].strip(), options, "ABCD".index(row["answer"]))


def hellaswag_item(row: dict[str, Any]) -> Item:
    context = clean_hellaswag(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
    return Item(row["id"], context, tuple(map(clean_hellaswag, row["endings"])), int(row["label"]))


def truthfulqa_item(row: dict[str, Any]) -> Item:
    answer = row["mc1_targets_labels"].index(1)
    return Item(row["question"], clean_hellaswag(row["question"]), tuple(row["mc1_targets_choices"]), answer)


def xcopa_item(language: str, row: dict[str, Any]) -> Item:
    """An item of the study that comes with the project, without the column that it takes from another language."""
    task = replace(load_study("xcopa").benchmark.tasks["xcopa"], columns_from={})
    (item,) = items_of(Table(Path("xcopa.jsonl"), tuple(row), (TableRow(1, row),)), task, language)
    return item


@dataclass(frozen=True)
class Style:
    """One option style: the harness's task and its rows, and how this project puts them."""

    config: str
    rows: list[dict[str, Any]]
    item: Callable[[dict[str, Any]], Item]
    prompt: Prompt


STYLES = {
    "arc_4": Style("okapi/arc_multilingual/_arc_yaml", rows.m_arc(4), arc_item, PROMPTS["arc"]),
    "arc_5": Style("okapi/arc_multilingual/_arc_yaml", rows.m_arc(5), arc_item, PROMPTS["arc"]),
    "hellaswag": Style(
        "okapi/hellaswag_multilingual/_hellaswag_yaml", rows.m_hellaswag(), hellaswag_item, PROMPTS["hellaswag"]
    ),
    "truthfulqa": Style(
        "okapi/truthfulqa_multilingual/_truthfulqa_mc1_yaml",
        rows.m_truthfulqa(),
        truthfulqa_item,
        replace(PROMPTS["truthfulqa"], primer=PRIMER),
    ),
    "global_mmlu": Style("global_mmlu/default/en/_en_template_yaml", rows.global_mmlu(), mmlu_item, PROMPTS["mmlu"]),
    **{
        f"xcopa_{language}": Style(
            f"xcopa/default_{language}.yaml",
            rows.xcopa(language),
            partial(xcopa_item, language),
            replace(PROMPTS["continuation"], headline="acc"),
        )
        for language in ("et", "tr", "zh")
    },
}


def tokenizer_of(*, begins: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE with merges in every language of the rows; ``begins`` has it begin each text with a token."""
    special = ["<|pad|>", "<|begin|>", "<|head|>", "<|body|>", "<|end|>"]
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [json.dumps(style.rows, ensure_ascii=False) for style in STYLES.values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=1200, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*texts, PRIMER], trainer)
    if begins:
        tokenizer.post_processor = TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin|>" if begins else None,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        chat_template=LLAMA_CHAT if begins else QWEN_CHAT,
    )


TOKENIZERS = {"begins": tokenizer_of(begins=True), "plain start": tokenizer_of(begins=False)}


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=1200,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.15,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=4,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).float().eval().requires_grad_(False)


@dataclass(frozen=True)
class Scored:
    """What one side makes of a style: log-likelihoods row by row, and the two accuracies; letters have no second."""

    values: list[np.ndarray]
    acc: float
    acc_norm: float | None


@pytest.fixture(scope="module")
def harness(model, tmp_path_factory) -> Callable[..., dict[str, Scored]]:
    """Run the harness over every style: once for each tokenizer, template and length that is asked for."""
    folder = tmp_path_factory.mktemp("harness")
    for name, style in STYLES.items():
        redirect(style, name, folder)
    known: dict[object, dict[str, Scored]] = {}

    def run(tokenizer: str, *, chat: bool, max_length: int = 1024) -> dict[str, Scored]:
        key = (tokenizer, chat, max_length)
        if key not in known:
            engine = HFLM(
                pretrained=model, tokenizer=TOKENIZERS[tokenizer], max_length=max_length, batch_size=16, device="cpu"
            )
            told = evaluator.simple_evaluate(
                engine,
                tasks=list(STYLES),
                task_manager=TaskManager(include_path=str(folder), include_defaults=False),
                apply_chat_template=chat,
                log_samples=True,
                bootstrap_iters=0,
            )
            known[key] = {name: harness_scored(told, name) for name in STYLES}
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr(evaluator, "add_env_info", lambda results: None)  # asks pip for every package, for seconds
        patch.setattr(evaluator, "get_git_commit_hash", lambda: None)
        yield run


def redirect(style: Style, name: str, folder: Path) -> None:
    """Write a style's rows, and a task that is the harness's own but for where its rows are."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in style.rows), encoding="utf-8")
    task = {
        "include": str(TASKS / style.config),
        "task": name,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
        "fewshot_split": None,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")


def harness_scored(told: dict[str, Any], name: str) -> Scored:
    samples = sorted(told["samples"][name], key=lambda sample: sample["doc_id"])
    values = [np.array([float(response[0][0]) for response in sample["resps"]]) for sample in samples]
    metrics = told["results"][name]
    return Scored(values, metrics["acc,none"], metrics.get("acc_norm,none"))


def scored(model: LlamaForCausalLM, tokenizer: str, style: Style, *, chat: bool, max_length: int = 1024) -> Scored:
    """What this project makes of a style."""
    items = [style.item(row) for row in style.rows]
    queries = [style.prompt.query(item) for item in items]
    pairs = [(query.context, query.continuations) for query in queries]
    encoded = encode_queries(TOKENIZERS[tokenizer], pairs, chat=chat)
    values = loglikelihoods(model, ScoringSet(encoded, tokens_per_batch=4096, max_length=max_length))
    answers = [query.answer for query in queries]
    lengths = [query.lengths for query in queries]
    acc, acc_norm = (float(np.mean(choose(values, divisor) == answers)) for divisor in (None, lengths))
    return Scored(values, acc, acc_norm if style.prompt.headline == "acc_norm" else None)


def assert_same(found: Scored, expected: Scored) -> None:
    assert [len(row) for row in found.values] == [len(row) for row in expected.values]
    np.testing.assert_allclose(np.concatenate(found.values), np.concatenate(expected.values), rtol=0, atol=1e-4)
    assert (found.acc, found.acc_norm) == (expected.acc, expected.acc_norm)


def assert_tells_options_apart(values: Sequence[np.ndarray]) -> None:
    assert min(map(np.ptp, values)) > 1e-2, "options that score alike would prove nothing"


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_every_option_scores_as_in_the_harness(harness, model, tokenizer: str, chat: bool, style: str) -> None:
    expected = harness(tokenizer, chat=chat)[style]
    assert_tells_options_apart(expected.values)
    assert_same(scored(model, tokenizer, STYLES[style], chat=chat), expected)


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
def test_over_long_inputs_are_cut_as_in_the_harness(harness, model, chat: bool) -> None:
    whole, cut = harness("begins", chat=chat), harness("begins", chat=chat, max_length=64)
    changed = []
    for name, style in STYLES.items():
        assert_same(scored(model, "begins", style, chat=chat, max_length=64), cut[name])
        pairs = zip(whole[name].values, cut[name].values, strict=True)
        changed += [not np.allclose(before, after, atol=1e-2) for before, after in pairs]
    assert 0.2 < np.mean(changed) < 1, "some inputs are cut, some are not"


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_the_accuracies_compared_are_no_all_or_nothing(harness, tokenizer: str, chat: bool) -> None:
    found = harness(tokenizer, chat=chat)
    assert 0 < np.mean([scores.acc for scores in found.values()]) < 1
    both = [scores for scores in found.values() if scores.acc_norm is not None]
    assert 0 < np.mean([scores.acc_norm for scores in both]) < 1
    assert any(scores.acc != scores.acc_norm for scores in both), "division by length decides nothing"


def test_the_chat_template_decides_scores(harness) -> None:
    plain, chat = harness("begins", chat=False), harness("begins", chat=True)
    for name in STYLES:
        assert not np.allclose(np.concatenate(plain[name].values), np.concatenate(chat[name].values), atol=0.1)


def test_the_tokens_are_those_that_the_harness_makes(model) -> None:
    """A second token of beginning, or none, would be a small difference in the scores of a real model."""
    for name, tokenizer in TOKENIZERS.items():
        engine = HFLM(pretrained=model, tokenizer=tokenizer)
        for style in STYLES.values():
            query = style.prompt.query(style.item(style.rows[0]))
            (encoded,) = encode_queries(tokenizer, [(query.context, query.continuations)], chat=True)
            context = engine.apply_chat_template([{"role": "user", "content": query.context}])
            options = [option.removeprefix(" ") for option in query.continuations]
            pairs = [engine._encode_pair(context, option) for option in options]
            assert [(list(encoded.context), list(option)) for option in encoded.options] == pairs
            assert encoded.context.count(1) == (1 if name == "begins" else 0)
