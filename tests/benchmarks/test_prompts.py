"""Each prompt style puts an item as its benchmark's published evaluation and training do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry.benchmarks.items import Item
from registry.benchmarks.prompts import PROMPTS, TrainingText, clean_hellaswag

ITEM = Item("1", "What melts {first}?", ("ice", "a stone"), answer=1)
LISTED = "A) ice\nB) a stone"
TEXTS = (" ice", " a stone")
LETTERS = (" A", " B")

SCORED = {
    "text": ("Question: What melts {first}?\nAnswer:", TEXTS),
    "continuation": ("What melts {first}?", TEXTS),
    "letter": (f"Question: What melts {{first}}?\n{LISTED}\nAnswer:", LETTERS),
    "arc": ("Question: What melts {first}?\nAnswer:", TEXTS),
    "hellaswag": ("What melts {first}?", TEXTS),
    "mmlu": ("What melts {first}?\nA. ice\nB. a stone\nAnswer:", LETTERS),
    "truthfulqa": ("Q: What melts {first}?\nA:", TEXTS),
}
TRAINED = {
    "text": TrainingText("Question: What melts {first}?\nAnswer:", " a stone"),
    "continuation": TrainingText("What melts {first}?", " a stone"),
    "letter": TrainingText(f"Question: What melts {{first}}?\n{LISTED}\nAnswer:", " B"),
    "arc": TrainingText(f"Question: What melts {{first}}?\n{LISTED}\nAnswer:", " B"),
    "hellaswag": TrainingText(f"What melts {{first}}?\n{LISTED}\nAnswer:", " B"),
    "mmlu": TrainingText("What melts {first}?\nA. ice\nB. a stone\nAnswer:", " B"),
    "truthfulqa": TrainingText("", "Question: What melts {first}?\nAnswer: a stone"),
}


@pytest.mark.parametrize("style", PROMPTS)
def test_what_is_scored(style: str) -> None:
    query = PROMPTS[style].query(ITEM)
    assert (query.context, query.continuations) == SCORED[style]
    assert query.lengths == tuple(len(option) - 1 for option in query.continuations)
    assert query.answer == 1


@pytest.mark.parametrize("style", PROMPTS)
def test_what_is_trained(style: str) -> None:
    assert PROMPTS[style].training(ITEM) == TRAINED[style]


@pytest.mark.parametrize("style", PROMPTS)
def test_the_headline_is_divided_by_length_where_options_are_texts_but_not_for_truthfulqa(style: str) -> None:
    assert PROMPTS[style].headline == ("acc_norm" if style in ("text", "continuation", "arc", "hellaswag") else "acc")


def test_a_primer_stands_before_what_is_scored_and_not_in_training() -> None:
    primed = replace(PROMPTS["truthfulqa"], primer="Q: Is it so?\nA: Yes.")
    assert primed.query(ITEM).context == "Q: Is it so?\nA: Yes.\n\nQ: What melts {first}?\nA:"
    assert primed.training(ITEM) == TRAINED["truthfulqa"]


def test_any_style_can_be_trained_on_its_whole_text() -> None:
    whole = replace(PROMPTS["arc"], supervised="text").training(ITEM)
    assert whole == TrainingText("", TRAINED["arc"].prompt + TRAINED["arc"].target)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  Plain text.\n", "Plain text."),
        ("How to sew [title] Thread it.", "How to sew. Thread it."),
        ("Sew [header] first [step] then cut.", "Sew first then cut."),
        ("[substeps] Thread it.", " Thread it."),
        ("one  two   three", "one two  three"),
        ("ends [here]", "ends "),
        ("[title] stays out", " stays out"),
    ],
)
def test_hellaswag_texts_lose_the_marks_of_their_pages(text: str, cleaned: str) -> None:
    assert clean_hellaswag(text) == cleaned
