"""The reference pipelines in their own processes: an adapter merged to disk, and Trainer on padded examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from torch.utils.data import Sampler
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from registry.config.study import Recipe
from registry.lora.encoding import Example
from tests.bench.ours import INITIAL
from tests.bench.shape import lora_config

__all__ = ["make_trainer", "merge_to_disk"]

_IGNORED = -100


def merge_to_disk(base: Path, adapter: Path, merged: Path, *, device: str, dtype: str) -> None:
    """Write base + adapter as a model of its own, with its tokenizer, for the ``lm_eval`` command to load."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    PeftModel.from_pretrained(model.to(device), str(adapter)).merge_and_unload().save_pretrained(merged)
    AutoTokenizer.from_pretrained(base).save_pretrained(merged)


class _GivenOrder(Sampler[int]):
    """The order of each epoch, as the other side chose it."""

    def __init__(self, epochs: Sequence[Sequence[int]]) -> None:
        self._epochs = iter(epochs)
        self._size = len(epochs[0])

    def __iter__(self) -> Iterator[int]:
        return iter(next(self._epochs))

    def __len__(self) -> int:
        return self._size


class OrderedTrainer(Trainer):
    """Trainer that takes the examples in a given order and keeps its losses unrounded."""

    def __init__(self, *arguments: Any, order: Sequence[Sequence[int]], **fields: Any) -> None:
        super().__init__(*arguments, **fields)
        self.losses: list[Tensor] = []
        self._order = order

    def _get_train_sampler(self, train_dataset: object = None) -> Sampler[int]:
        return _GivenOrder(self._order)

    def training_step(self, *arguments: Any, **fields: Any) -> Tensor:
        """Train on one batch."""
        loss: Tensor = super().training_step(*arguments, **fields)
        self.losses.append(loss)
        return loss


def make_trainer(
    base: PreTrainedModel,
    training: Sequence[Example],
    held: Sequence[Example],
    recipe: Recipe,
    *,
    order: Sequence[Sequence[int]],
    length: int,
    folder: Path,
    device: str,
    callback: TrainerCallback,
) -> OrderedTrainer:
    """Return a Trainer on examples padded to ``length``, evaluated each epoch, its best checkpoint loaded at the end.

    Parameters
    ----------
    order
        Indices into ``training`` for each epoch.
    """
    torch.manual_seed(INITIAL)
    model = get_peft_model(base, lora_config())
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.batch_size,
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup,
        lr_scheduler_type="linear",
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.clip,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        report_to="none",
        use_cpu=device == "cpu",
        disable_tqdm=True,
    )
    return OrderedTrainer(
        model=model,
        args=arguments,
        train_dataset=[_padded(example, length) for example in training],
        eval_dataset=[_padded(example, length) for example in held],
        data_collator=default_data_collator,
        callbacks=[callback],
        order=order,
    )


def _padded(example: Example, length: int) -> dict[str, list[int]]:
    size, start = len(example.tokens), example.supervised_from
    return {
        "input_ids": [*example.tokens, *[0] * (length - size)],
        "attention_mask": [1] * size + [0] * (length - size),
        "labels": [_IGNORED] * start + list(example.tokens[start:]) + [_IGNORED] * (length - size),
    }
