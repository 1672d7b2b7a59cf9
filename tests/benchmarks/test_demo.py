"""The built-in grid keeps its promises: aligned items, separate splits, a clean corpus, base models worth tuning."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cache
from itertools import product
from statistics import mean

import pytest
import torch
from torch.nn.functional import log_softmax
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from registry.benchmarks.demo.corpus import Mix, corpus
from registry.benchmarks.demo.lexicon import LANGUAGES, lexicon
from registry.benchmarks.demo.recipes import BASES, RECIPES
from registry.benchmarks.demo.tasks import TASKS, items
from registry.benchmarks.prompts import PROMPTS
from registry.cells import Cell, Grid

CELLS = Grid(TASKS, LANGUAGES).cells
STUDY_SPLITS = ("train", "test")


def test_lexicon_has_a_word_for_every_concept_in_every_language():
    concepts = lexicon().concepts.values()
    assert len(concepts) >= 250
    for language in LANGUAGES:
        words = [concept.words[language] for concept in concepts]
        assert all(word == word.strip() and word for word in words)
        assert len(set(words)) == len(words), f"two concepts share a word in {language}"


def test_partners_name_each_other_within_a_split():
    concepts = lexicon().concepts
    for concept in concepts.values():
        partner = concepts[concept.partner]
        assert (partner.partner, partner.split) == (concept.id, concept.split)


@pytest.mark.parametrize("labels", [lexicon().kinds, lexicon().places], ids=["kinds", "places"])
def test_labels_are_used_and_distinct(labels):
    used = {concept.kind for concept in lexicon().concepts.values()} | {
        concept.place for concept in lexicon().concepts.values()
    }
    assert set(labels) <= used
    # Labels that two keys share in some language must be of one group, so that they are never both offered.
    for language in LANGUAGES:
        groups = [(label.texts[language], label.group) for label in labels.values()]
        assert len({text for text, _ in groups}) == len(set(groups))


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_cell_has_enough_items_of_four_options_and_no_repeated_prompt(cell):
    splits = {split: items(cell, split) for split in STUDY_SPLITS}
    assert all(len(of_split) == 120 for of_split in splits.values())
    everything = [item for of_split in splits.values() for item in of_split]
    assert all(len(set(item.options)) == 4 for item in everything)
    assert len({item.id for item in everything}) == len(everything)
    prompts = [PROMPTS["text"].query(item).context for item in everything]
    assert len(set(prompts)) == len(prompts)


@pytest.mark.parametrize(("task", "split"), list(product(TASKS, STUDY_SPLITS)))
def test_items_are_aligned_over_languages(task, split):
    keys = {tuple((item.id, item.answer) for item in items(Cell(task, language), split)) for language in LANGUAGES}
    assert len(keys) == 1


@pytest.mark.parametrize("split", STUDY_SPLITS)
def test_translated_options_stand_in_the_same_order(split):
    for item, *others in zip(*(items(Cell("pair", language), split) for language in LANGUAGES), strict=True):
        by_word = {concept.words[LANGUAGES[0]]: concept for concept in lexicon().concepts.values()}
        for language, other in zip(LANGUAGES[1:], others, strict=True):
            assert other.options == tuple(by_word[option].words[language] for option in item.options)


@pytest.mark.parametrize(("task", "split"), list(product(TASKS, STUDY_SPLITS)))
def test_right_answers_are_balanced_over_positions(task, split):
    positions = Counter(item.answer for item in items(Cell(task, "en"), split))
    assert set(positions.values()) == {30}


@pytest.mark.parametrize("language", LANGUAGES)
def test_train_and_test_share_no_concept_in_any_role(language):
    train, test = (_concepts_in(language, split) for split in STUDY_SPLITS)
    assert not train & test
    assert len(train) == len(test) == 120


def _concepts_in(language: str, split: str) -> set[str]:
    """Concepts asked about, answered with or offered, over all tasks."""
    found = {item.id.split("-", 1)[1] for task in TASKS for item in items(Cell(task, language), split)}
    for task, written_in in (("pair", language), ("translate", lexicon().translate_into[language])):
        by_word = {concept.words[written_in]: concept.id for concept in lexicon().concepts.values()}
        found |= {by_word[option] for item in items(Cell(task, language), split) for option in item.options}
    return found


def test_unknown_cells_and_splits_are_refused():
    with pytest.raises(ValueError, match="no cell of the demo grid"):
        items(Cell("kind", "nl"), "train")
    with pytest.raises(ValueError, match="no split"):
        items(Cell("kind", "en"), "validation")


@pytest.mark.parametrize("base", RECIPES)
def test_corpus_asks_nothing_that_a_study_asks(base):
    documents = list(corpus(documents=40_000, seed=RECIPES[base].seed, mix=RECIPES[base].mix))
    questions = [document.text for document in documents if document.sort == "question"]
    asked = {item.question for cell in CELLS for split in STUDY_SPLITS for item in items(cell, split)}
    assert questions
    assert not any(question in document.text for document in documents if "?" in document.text for question in asked)
    assert all(document.sort == "question" for document in documents if "Question:" in document.text)
    assert sum(map(len, questions)) < 0.01 * sum(len(document.text) for document in documents)


def test_corpus_is_decided_by_its_seed():
    mix = Mix(statement=0.5, parallel=0.25, dictionary=0.15, question=0.1)

    def digest(seed: int) -> str:
        text = "\n".join(document.text for document in corpus(documents=2_000, seed=seed, mix=mix))
        return hashlib.sha256(text.encode()).hexdigest()

    assert digest(1) == digest(1) != digest(2)
    assert digest(1).startswith("3587540d4af039ea")


def test_mix_must_sum_to_one():
    with pytest.raises(ValueError, match="must sum to 1"):
        Mix(statement=0.5, parallel=0.25, dictionary=0.15, question=0.5)


@pytest.mark.parametrize("base", RECIPES)
def test_base_is_small_and_complete(base):
    folder = BASES / base
    assert (folder / "model.safetensors").stat().st_size <= 2_500_000
    assert (folder / "README.md").is_file()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert len(special) == 3 and None not in special
    sample = 'Question: "köpek" hangi gruba girer?\nAnswer: hayvanlar'
    assert tokenizer.decode(tokenizer(sample).input_ids) == sample


@pytest.mark.parametrize("base", RECIPES)
def test_base_knows_something_but_not_everything(base):
    """On test items: the recipes were chosen on train items."""
    by_length = {cell: score[1] for cell, score in _zero_shot(base).items()}
    plain = {cell: score[0] for cell, score in _zero_shot(base).items()}
    assert 0.35 < mean(by_length.values()) < 0.70
    assert 0.35 < mean(plain.values()) < 0.75
    # Thirty items a cell: a standard error of up to nine points.
    assert min(by_length.values()) > 0.10 and max(by_length.values()) < 0.97
    for task in TASKS:
        assert mean(by_length[Cell(task, language)] for language in LANGUAGES) > 0.30


@cache
def _zero_shot(base: str) -> dict[Cell, tuple[float, float]]:
    """Accuracy, plain and by length, on every fourth item of each cell."""
    tokenizer = AutoTokenizer.from_pretrained(BASES / base, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(BASES / base, local_files_only=True, dtype=torch.float32).eval()
    queries = [(cell, PROMPTS["text"].query(item)) for cell in CELLS for item in items(cell, "test")[::4]]
    texts = [(query.context, option) for _, query in queries for option in query.continuations]
    sums = _log_likelihoods(model, tokenizer, texts).reshape(len(queries), 4)
    lengths = torch.tensor([query.lengths for _, query in queries])
    answers = torch.tensor([query.answer for _, query in queries])
    plain, by_length = (
        (values.argmax(1) == answers).double().reshape(len(CELLS), -1).mean(1).tolist()
        for values in (sums, sums / lengths)
    )
    return dict(zip(CELLS, zip(plain, by_length, strict=True), strict=True))


@torch.inference_mode()
def _log_likelihoods(model, tokenizer, texts: list[tuple[str, str]]) -> torch.Tensor:
    sums = []
    for start in range(0, len(texts), 240):
        batch = texts[start : start + 240]
        starts = torch.tensor([len(tokenizer(context).input_ids) for context, _ in batch])
        rows = [torch.tensor(tokenizer(context + option).input_ids) for context, option in batch]
        ids = pad_sequence(rows, batch_first=True, padding_value=0)
        position = torch.arange(1, ids.shape[1])
        ends = torch.tensor([len(row) for row in rows])
        scored = (position >= starts[:, None]) & (position < ends[:, None])
        states = model.model(ids).last_hidden_state[:, :-1][scored]
        tokens = log_softmax(model.lm_head(states), dim=-1).gather(1, ids[:, 1:][scored][:, None]).squeeze(1)
        sums.append(torch.zeros(len(batch)).index_add(0, scored.nonzero()[:, 0], tokens))
    return torch.cat(sums)
