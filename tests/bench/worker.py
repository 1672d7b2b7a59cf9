"""What runs in a process of its own: ``python -m tests.bench.worker TASK FOLDER [ARGUMENT]``."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoTokenizer,
    LlamaForCausalLM,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from tests.bench import items, ours
from tests.bench.harness import write_tasks
from tests.bench.measure import Memory, clock, gemm_rate, scoring_flops, training_flops
from tests.bench.reference import make_trainer, merge_to_disk
from tests.bench.settings import Settings
from tests.bench.shape import VOCABULARY, load_base, make_adapter, make_base, recipe
from tests.bench.words import Writer, learn_tokenizer


def prepare(folder: Path, settings: Settings) -> dict[str, Any]:
    """Write the base, its tokenizer, an adapter, and the texts."""
    base = folder / "base"
    make_base(base, settings.shape, device=settings.device, dtype=settings.dtype)
    tokenizer = learn_tokenizer(items.SCAFFOLD, vocabulary=VOCABULARY)
    tokenizer.save_pretrained(base)
    make_adapter(load_base(base, device=settings.device, dtype=settings.dtype), folder / "adapter")
    writer = Writer(tokenizer, settings.seed)
    questions = items.questions(writer, settings.questions) if settings.questions else []
    items.write_questions(questions, folder / "questions.json")
    write_tasks(questions, folder / "tasks")
    texts = items.training_texts(writer, settings.examples, mean=settings.text_tokens)
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    words = [word for text, _ in texts for word in text.split()] + [w for q in questions for w in q.context.split()]
    return {"tokens_per_word": sum(map(len, tokenizer([f" {word}" for word in words])["input_ids"])) / len(words)}


def merge(folder: Path, settings: Settings) -> dict[str, Any]:
    """Merge the adapter to disk, as the reference does before its command."""
    shutil.rmtree(folder / "merged", ignore_errors=True)
    merge_to_disk(folder / "base", folder / "adapter", folder / "merged", device=settings.device, dtype=settings.dtype)
    return {}


def score(folder: Path, settings: Settings) -> dict[str, Any]:
    """Score one adapter in a process that stays."""
    start = clock(settings.device)
    base = load_base(folder / "base", device=settings.device, dtype=settings.dtype)
    loaded = clock(settings.device)
    questions = items.read_questions(folder / "questions.json")
    scoring_set, queries = ours.encode(
        AutoTokenizer.from_pretrained(folder / "base"),
        questions,
        tokens_per_batch=settings.tokens_per_batch,
        device=settings.device,
    )
    encoded = clock(settings.device)
    if settings.device != "cpu":  # a resident process has loaded its kernels before
        ours.score_adapter(base, folder / "adapter", scoring_set)
    rate = gemm_rate(settings.device, settings.dtype)
    before = clock(settings.device)
    values = ours.score_adapter(base, folder / "adapter", scoring_set)
    seconds = clock(settings.device) - before
    rate = max(rate, gemm_rate(settings.device, settings.dtype))
    answers = np.array([question.answer for question in questions])
    lengths = [[len(option) for option in question.options] for question in questions]
    styles = [question.style for question in questions]
    flops = scoring_flops(settings.shape, queries, styles, tokens=scoring_set.tokens)
    return {
        "loglikelihoods": [row.tolist() for row in values],
        "acc": (ours.choose(values) == answers).tolist(),
        "acc_norm": (ours.choose(values, lengths) == answers).tolist(),
        "load": loaded - start,
        "encode": encoded - loaded,
        "seconds": seconds,
        "rate": rate,
        "share": flops / seconds / rate,
        "tokens": scoring_set.tokens,
        "sequences": sum(len(query.options) for query in queries),
        "single_tokens": sum(len(query.context) + len(option) - 1 for query in queries for option in query.options),
    }


def score_several(folder: Path, settings: Settings, adapters: str) -> dict[str, Any]:
    """Score the adapter several times over, as a process that stays does with different ones."""
    base = load_base(folder / "base", device=settings.device, dtype=settings.dtype)
    with torch.inference_mode():
        base(torch.tensor([[5, 6, 7, 8]], device=settings.device))  # all its weights are in memory from here on
    memory = Memory(settings.device)
    scoring_set, _ = ours.encode(
        AutoTokenizer.from_pretrained(folder / "base"),
        items.read_questions(folder / "questions.json"),
        tokens_per_batch=settings.tokens_per_batch,
        device=settings.device,
    )
    before = clock(settings.device)
    for _ in range(int(adapters)):
        ours.score_adapter(base, folder / "adapter", scoring_set)
    return {"seconds": clock(settings.device) - before, "memory": memory.peak()}


def train(folder: Path, settings: Settings) -> dict[str, Any]:
    """Train one adapter with this project's engine."""
    base, examples, chosen = _to_train(folder, settings)
    rate = gemm_rate(settings.device, settings.dtype)
    memory, before = Memory(settings.device), clock(settings.device)
    with ours.chosen_order(examples, chosen) as order:
        training = ours.train(base, examples, chosen, settings.seed)
    seconds, peak = clock(settings.device) - before, memory.peak()
    rate = max(rate, gemm_rate(settings.device, settings.dtype))
    (folder / "order.json").write_text(json.dumps(order), encoding="utf-8")
    flops = training_flops(settings.shape, *ours.hold_out(examples, chosen), tokens=training.tokens)
    return {
        "losses": training.losses,
        "validation": training.validation_losses,
        "seconds": seconds,
        "memory": peak,
        "rate": rate,
        "share": flops / seconds / rate,
        "tokens": training.tokens,
        "mean": training.tokens / sum(map(len, order)),
        "longest": max(len(example.tokens) for example in examples),
    }


def trainer(folder: Path, settings: Settings, length: str) -> dict[str, Any]:
    """Train one adapter with Trainer on examples padded to a length, in the order the engine chose."""
    base, examples, chosen = _to_train(folder, settings)
    training, held = ours.hold_out(examples, chosen)
    place = {id(example): index for index, example in enumerate(training)}
    order = json.loads((folder / "order.json").read_text(encoding="utf-8"))
    validation = _Validation()
    checkpoints = folder / "checkpoints"
    made = make_trainer(
        base,
        training,
        held,
        chosen,
        order=[[place[id(examples[index])] for index in epoch] for epoch in order],
        length=int(length),
        folder=checkpoints,
        device=settings.device,
        callback=validation,
    )
    memory, before = Memory(settings.device), clock(settings.device)
    made.train()
    seconds, peak = clock(settings.device) - before, memory.peak()
    shutil.rmtree(checkpoints)
    return {
        "losses": [loss.item() for loss in made.losses],
        "validation": validation.losses,
        "seconds": seconds,
        "memory": peak,
    }


class _Validation(TrainerCallback):
    """Keeps the validation losses."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **fields: Any) -> None:
        """Note one epoch's loss."""
        self.losses.append(fields["metrics"]["eval_loss"])


def _to_train(folder: Path, settings: Settings) -> tuple[LlamaForCausalLM, Any, Any]:
    """Return base, examples and recipe; the base has run once, so that all its weights are in memory."""
    base = load_base(folder / "base", device=settings.device, dtype=settings.dtype)
    with torch.inference_mode():
        base(torch.tensor([[5, 6, 7, 8]], device=settings.device))
    chosen = recipe(epochs=settings.epochs, dtype=settings.dtype)
    texts = [(prompt, target) for prompt, target in json.loads((folder / "texts.json").read_text(encoding="utf-8"))]
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    return base, ours.encode_texts(tokenizer, texts, max_length=chosen.max_length), chosen


_TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "prepare": prepare,
    "merge": merge,
    "score": score,
    "score_several": score_several,
    "train": train,
    "trainer": trainer,
}


def main() -> None:
    """Do one task and leave its result in the folder."""
    torch.set_num_threads(1)
    task, folder = sys.argv[1], Path(sys.argv[2])
    found = _TASKS[task](folder, Settings.read(folder), *sys.argv[3:])
    (folder / "result.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
