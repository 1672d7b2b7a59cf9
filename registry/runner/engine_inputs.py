"""A study as the engine takes it: its base in memory, its texts and questions encoded and laid out for a device."""

from __future__ import annotations

import logging

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from registry.cells import Cell
from registry.config.study import Study
from registry.errors import Refused
from registry.evaluation.outcomes import Questions
from registry.lora.encoding import Continuations, Example, encode_examples, encode_queries, indistinct_targets
from registry.lora.score import ScoringSet
from registry.models.base import Base
from registry.models.loading import dtype_of, load_base
from registry.planning.experiment import Experiment

__all__ = ["examples_of", "loaded", "questions_of", "tokens_per_batch"]

_log = logging.getLogger(__name__)

_GPU_WORTH = 4096  # tokens that a shared beginning must save: a pass of its own costs a GPU its launches


def loaded(study: Study, base: Base, *, device: str) -> PreTrainedModel:
    """Load a base model as a study holds it in memory."""
    dtype = dtype_of(study.recipe.precision)
    return load_base(base, dtype=dtype, device=device, placement=study.placement, quantization=study.quantization)


def tokens_per_batch(study: Study, device: str) -> int:
    """Tokens of one pass: as the study says, else 2,048 on a CPU and 32,768 on a GPU."""
    return study.tokens_per_batch or (2048 if device == "cpu" else 32768)


def examples_of(experiment: Experiment, base: Base, tokenizer: PreTrainedTokenizerBase, source: Cell) -> list[Example]:
    """Encode a source's training texts, cut at what the recipe and the base take.

    Raises
    ------
    Refused
        If there is nothing to learn from a text, or the tokenizer makes the same tokens of every text's target.
    """
    texts = [(text.prompt, text.target) for text in experiment.training_texts(source)]
    longest = min(experiment.study.recipe.length(source.task), base.max_positions)
    try:
        examples = encode_examples(tokenizer, texts, max_length=longest)
    except ValueError as error:
        raise Refused(f"{base.name} cannot be trained on {source}: {error}") from None
    alike = indistinct_targets(texts, examples)
    if alike == len(texts):
        raise Refused(
            f"{base.name} cannot be trained on {source}: its tokenizer makes the same tokens of all answers that "
            "differ; take a base that knows the script, or leave the source out"
        )
    if alike:
        _log.warning(
            "%s: the answers of %d of %d training texts of %s are the same tokens as another answer",
            base.name,
            alike,
            len(texts),
            source,
        )
    return examples


def questions_of(
    experiment: Experiment, base: Base, tokenizer: PreTrainedTokenizerBase, asked: Questions, *, device: str
) -> ScoringSet:
    """Encode every target's questions and lay them out.

    Raises
    ------
    Refused
        If a question cannot be put to the base.
    """
    study = experiment.study
    encoded: list[Continuations] = []
    for cell, part in asked.targets.items():
        pairs = [(query.context, query.continuations) for query in asked.queries[part]]
        try:
            encoded += encode_queries(
                tokenizer, pairs, chat=study.chat_template, day=study.chat_template_date, keep_empty=True
            )
        except ValueError as error:
            raise Refused(f"{base.name} cannot be asked {cell}: {error}") from None
    return ScoringSet(
        encoded,
        tokens_per_batch=tokens_per_batch(study, device),
        max_length=base.max_positions,
        worth=None if device == "cpu" else _GPU_WORTH,
    )
