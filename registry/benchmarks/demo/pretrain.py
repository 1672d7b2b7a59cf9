"""Make a base model of the demo: ``python -m registry.benchmarks.demo.pretrain --base demo-wide``.

Takes about ten minutes on one core. The shipped models were made by this script; it is not needed to use them.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from registry.benchmarks.demo.corpus import corpus
from registry.benchmarks.demo.recipes import BASES, RECIPES, PretrainingRecipe
from registry.benchmarks.demo.tokenizer import train_tokenizer

_IGNORED = -100
_PADDING = 0
_WARMUP = 0.05
_MAX_GRADIENT_NORM = 1.0


def pretrain(recipe: PretrainingRecipe) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train a model and its tokenizer from nothing, as the recipe says."""
    texts = [document.text for document in corpus(documents=recipe.documents, seed=recipe.seed, mix=recipe.mix)]
    tokenizer = train_tokenizer(texts, vocabulary=recipe.vocabulary)
    documents = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts).input_ids]
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(recipe.config(tokenizer)).train()
    _fit(model, documents, recipe)
    return model.eval(), tokenizer


def _fit(model: LlamaForCausalLM, documents: list[list[int]], recipe: PretrainingRecipe) -> None:
    steps = recipe.epochs * math.ceil(len(documents) / recipe.batch)
    optimizer = AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay)
    schedule = LambdaLR(optimizer, lambda step: _rate(step / steps))
    batches = tqdm(_batches(documents, recipe), total=steps, unit="step")
    for ids, labels in batches:
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        clip_grad_norm_(model.parameters(), _MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        batches.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def _rate(progress: float) -> float:
    """Return the learning rate's share of its peak at a share of the steps."""
    if progress < _WARMUP:
        return progress / _WARMUP
    return 0.5 * (1 + math.cos(math.pi * (progress - _WARMUP) / (1 - _WARMUP)))


def _batches(documents: list[list[int]], recipe: PretrainingRecipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ids and labels, both (batch, tokens), padded on the right.

    Documents are not packed: like a question, each starts at position zero. Those of one batch are about equally long,
    so that little is spent on padding. Attention is causal, so padding on the right needs no mask.
    """
    rng = random.Random(recipe.seed)
    for _ in range(recipe.epochs):
        by_length = sorted(documents, key=lambda ids: (len(ids), rng.random()))
        batches = [by_length[start : start + recipe.batch] for start in range(0, len(by_length), recipe.batch)]
        rng.shuffle(batches)
        for batch in batches:
            rows = [torch.tensor(ids) for ids in batch]
            yield (
                pad_sequence(rows, batch_first=True, padding_value=_PADDING),
                pad_sequence(rows, batch_first=True, padding_value=_IGNORED),
            )


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write model and tokenizer.

    The weights are written as float16, half the size, while the configuration says float32, which they load as. The
    output layer is the embedding and is not written twice.
    """
    weights = {name: weight.half() for name, weight in model.state_dict().items() if name != "lm_head.weight"}
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make a base model of the demo from the lexicon.")
    parser.add_argument("--base", required=True, choices=sorted(RECIPES), help="which base model to make")
    parser.add_argument("--output", type=Path, help="folder to write to (default: where the demo looks for it)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; the shipped models used 1 (default: 1)")
    return parser.parse_args()


def main() -> None:
    """Make one base model and write it to its folder."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    folder = arguments.output or BASES / arguments.base
    model, tokenizer = pretrain(RECIPES[arguments.base])
    save(model, tokenizer, folder)
    print(f"{arguments.base}: {model.num_parameters():,} parameters, written to {folder}")


if __name__ == "__main__":
    main()
