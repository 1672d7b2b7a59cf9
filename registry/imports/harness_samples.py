"""The harness's ``samples_<task>_<date>.jsonl``: every question's log-likelihoods, as our own scorer records them."""

from __future__ import annotations

import ast
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from registry.errors import Refused

__all__ = ["OptionsInContext", "Samples", "read_samples"]

#: Fields of a document that name it in every language alike; without one, its number in the set does.
_IDS = ("id", "sample_id", "question_id")


class OptionsInContext(ValueError):
    """The task's options are contexts before one continuation, so a sample does not have the options' texts."""


@dataclass(frozen=True)
class Samples:
    """A task's outcomes, and the SHA-256 of its prompts: every context, its continuations and the target.

    ``outcomes`` has one row per question and option, in the order of the set; columns and types as
    `registry.evaluation.outcomes.Outcomes.frame` has them, without task and language.
    """

    outcomes: pd.DataFrame
    prompt_digest: str


@dataclass(frozen=True, slots=True)
class _Question:
    """One document's options, their log-likelihoods in nats, and what the harness made of them."""

    number: int
    id: str | None
    values: tuple[float, ...]
    context: str
    options: tuple[str, ...]
    target: str
    acc: float | None


def read_samples(path: Path, *, delimiter: str, kind: str) -> Samples:
    """Read one task's samples.

    Parameters
    ----------
    delimiter
        What the harness put between context and option; not part of an option's length.
    kind
        Name of the harness's filter whose samples count; there is one per question and filter.

    Raises
    ------
    Refused
        If a line is no sample of a multiple-choice task, or the samples contradict the accuracy that stands in them.
    OptionsInContext
        See there.
    """
    questions = sorted(_questions(path, kind), key=lambda question: question.number)
    if not questions:
        raise Refused(f"{path} holds no samples of filter {kind!r}; it may have been cut, evaluate again")
    numbers = [question.number for question in questions]
    if len(set(numbers)) < len(numbers):
        raise Refused(f"{path}: a doc_id stands there twice; two evaluations were written to one file")
    delimiter = delimiter if all(option.startswith(delimiter) for q in questions for option in q.options) else ""
    options = [[option.removeprefix(delimiter) for option in question.options] for question in questions]
    return Samples(_frame(questions, options, _answers(questions, options, path)), _digest(questions))


def _digest(questions: Iterable[_Question]) -> str:
    digest = hashlib.sha256()
    for question in questions:
        prompt = [question.number, question.context, question.options, question.target]
        digest.update(json.dumps(prompt).encode())
    return digest.hexdigest()


def _questions(path: Path, kind: str) -> Iterator[_Question]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                try:
                    sample = json.loads(text)
                    if sample.get("filter", kind) == kind:
                        yield _question(sample)
                except OptionsInContext:
                    raise
                except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
                    reason = f"{type(error).__name__}: {str(error)[:200]}"
                    raise Refused(f"{path}:{line} is no sample of a multiple-choice task ({reason})") from None
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Refused(f"{path} is not UTF-8; the harness writes UTF-8, take the file again") from None


def _question(sample: dict[str, Any]) -> _Question:
    arguments = sample["arguments"]
    # Logged as {gen_args_0: {arg_0: context, arg_1: continuation}, …}; the order of keys is not promised.
    pairs = [arguments[key] for key in sorted(arguments, key=lambda key: int(key.rpartition("_")[2]))]
    contexts, continuations = [pair["arg_0"] for pair in pairs], [pair["arg_1"] for pair in pairs]
    values = [float(response[0]) for response in sample["filtered_resps"]]
    if len(values) != len(pairs):
        raise ValueError(f"{len(values)} log-likelihoods for {len(pairs)} options")
    # For mutual information the harness scores every option a second time, without its context.
    half = len(pairs) // 2
    if (
        len(pairs) % 2 == 0
        and contexts[0]
        and not any(contexts[half:])
        and continuations[:half] == continuations[half:]
    ):
        contexts, continuations, values = contexts[:half], continuations[:half], values[:half]
    if len(set(contexts)) > 1:
        raise OptionsInContext
    if len(values) < 2 or any(map(math.isnan, values)):
        raise ValueError(f"log-likelihoods {values}")
    doc = sample["doc"]
    name = next((str(doc[key]) for key in _IDS if doc.get(key) is not None), None) if isinstance(doc, dict) else None
    acc = sample.get("acc")
    return _Question(
        number=int(sample["doc_id"]),
        id=name,
        values=tuple(values),
        context=str(contexts[0]),
        options=tuple(map(str, continuations)),
        target=str(sample["target"]),
        acc=None if acc is None else float(acc),
    )


def _answers(questions: Sequence[_Question], options: Sequence[Sequence[str]], path: Path) -> list[frozenset[int]]:
    """Return the right options of every question.

    A target is logged as text, be it an option's index or the option itself; an option may be a number too. The
    reading that gives every sample's own accuracy is the right one.
    """
    for read in (_by_index, _by_text):
        answers = [read(question.target, texts) for question, texts in zip(questions, options, strict=True)]
        if all(
            answer and question.acc in (None, float(int(np.argmax(question.values)) in answer))
            for question, answer in zip(questions, answers, strict=True)
        ):
            return answers
    raise Refused(
        f"{path}: targets and log-likelihoods do not give the accuracies that stand beside them; evaluate again, or "
        "remove the file to import the scores alone"
    )


def _by_index(target: str, options: Sequence[str]) -> frozenset[int]:
    """Read a target such as ``2`` or, where several options are right, ``[0, 2]``."""
    try:
        value = ast.literal_eval(target.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return frozenset()
    found = value if isinstance(value, list) else [value]
    return frozenset(index for index in found if isinstance(index, int) and 0 <= index < len(options))


def _by_text(target: str, options: Sequence[str]) -> frozenset[int]:
    return frozenset({options.index(target)} if target in options else ())


def _frame(
    questions: Sequence[_Question], options: Sequence[Sequence[str]], answers: Sequence[Iterable[int]]
) -> pd.DataFrame:
    """Put the outcomes together; ties go to the first option, as everywhere."""
    lengths = [np.array([len(option) for option in texts], dtype=np.int32) for texts in options]
    counts = [len(texts) for texts in options]
    chosen = [int(np.argmax(question.values)) for question in questions]
    # An option without a character cannot be divided by its length; it counts as one.
    normed = [
        int(np.argmax(np.array(question.values) / np.maximum(length, 1)))
        for question, length in zip(questions, lengths, strict=True)
    ]
    option = np.concatenate([np.arange(count) for count in counts])
    right = [index in answer for answer, count in zip(answers, counts, strict=True) for index in range(count)]
    return pd.DataFrame(
        {
            "question": np.repeat(_ids(questions), counts),
            "option": option.astype(np.int8),
            "loglikelihood": np.concatenate([question.values for question in questions]),
            "length": np.concatenate(lengths),
            "right": np.array(right),
            "chosen": option == np.repeat(chosen, counts),
            "chosen_norm": option == np.repeat(normed, counts),
        }
    )


def _ids(questions: Sequence[_Question]) -> list[str]:
    """Return the questions' own ids if they have them and these differ, else their numbers."""
    own = [question.id for question in questions if question.id is not None]
    return own if len(set(own)) == len(questions) else [str(question.number) for question in questions]
