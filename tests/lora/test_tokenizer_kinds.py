"""With any kind of tokenizer, options score as lm-evaluation-harness scores them, run here beside it.

The harness takes a tokenizer's end token for part of what is scored, so where a tokenizer appends one, the judge is the
harness with the same tokenizer told not to.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, normalizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from registry.evaluation.outcomes import choose
from registry.lora.encoding import encode_examples, encode_queries, indistinct_targets
from registry.lora.score import ScoringSet, loglikelihoods
from registry.lora.special_tokens import appended_tokens, encode_texts
from tests.lora.tokenizer_kinds import END, KINDS, KNOWN, SIZE, SURROUNDINGS, UNKNOWN, tokenizer_of

WITHOUT_END = {"ends": "nothing", "begins and ends": "begins"}


def questions(languages: dict[str, list[str]]) -> list[tuple[str, tuple[str, ...]]]:
    """A question of each text, with all texts of its language, their first words, and a context that ends in blanks."""
    found = []
    for texts in languages.values():
        words = tuple(dict.fromkeys(f" {text.split()[0]}" for text in texts))
        for text in texts:
            found.append((f"Question: {text}?\nAnswer:", tuple(f" {option}" for option in texts)))
        found.append((f"Answer: {texts[0]} ", words))
    return found


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).float().eval().requires_grad_(False)


def harness_scores(model, tokenizer, asked) -> list[np.ndarray]:
    engine = HFLM(pretrained=model, tokenizer=tokenizer, max_length=512, batch_size=32, device="cpu")
    pairs = [(context, option) for context, options in asked for option in options]
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    values = iter([float(value) for value, _ in engine.loglikelihood(requests, disable_tqdm=True)])
    return [np.array([next(values) for _ in options]) for _, options in asked]


def our_scores(model, tokenizer, asked) -> list[np.ndarray]:
    encoded = encode_queries(tokenizer, asked, keep_empty=True)
    return loglikelihoods(model, ScoringSet(encoded, tokens_per_batch=2048, max_length=512))


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_options_score_as_in_the_harness(model, kind: str, surroundings: str) -> None:
    asked = questions(KNOWN if kind == "dropping" else KNOWN | UNKNOWN)
    judge = tokenizer_of(kind, WITHOUT_END.get(surroundings, surroundings))
    expected = harness_scores(model, judge, asked)
    found = our_scores(model, tokenizer_of(kind, surroundings), asked)
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), rtol=0, atol=1e-4)
    apart = [np.ptp(np.partition(values, -2)[-2:]) > 1e-3 for values in expected]  # ties are broken by rounding there
    assert choose(found)[apart].tolist() == choose(expected)[apart].tolist()
    of_known = len(questions(KNOWN))
    assert np.median([np.ptp(values) for values in found[:of_known]]) > 0.1, "options that score alike prove nothing"


def test_the_harness_itself_scores_an_appended_end_token_alone(model) -> None:
    """Why it comes off: letters, a token each, all score the same."""
    tokenizer = tokenizer_of("bytes", "ends")
    asked = [("Question: the cat?\nAnswer:", ("a", "d", "o"))]
    (tied,), (apart,) = (score(model, tokenizer, asked) for score in (harness_scores, our_scores))
    assert [len(option) for option in encode_queries(tokenizer, asked)[0].options] == [1, 1, 1]
    assert np.ptp(tied) < 1e-5
    assert np.ptp(apart) > 1e-2


@pytest.mark.parametrize("named", [True, False], ids=["named", "not named"])
@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_appended_to_every_text_is_found(kind: str, surroundings: str, named: bool) -> None:
    tokenizer = tokenizer_of(kind, surroundings, named=named)
    end = tokenizer.convert_tokens_to_ids(END)
    assert appended_tokens(tokenizer) == ((end,) if "ends" in surroundings else ())
    plain, whole = (tokenizer("the cat", add_special_tokens=special).input_ids for special in (False, True))
    (ids,) = encode_texts(tokenizer, ["the cat"])
    assert ids == (whole[:-1] if "ends" in surroundings else whole)
    assert ids[-len(plain) :] == plain


def test_an_end_token_that_a_text_spells_out_stays() -> None:
    tokenizer = tokenizer_of("bytes", "begins and ends")
    begin, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<s>", END))
    plain = tokenizer("the cat", add_special_tokens=False).input_ids
    assert encode_texts(tokenizer, [f"the cat{END}", f"<s>the cat{END}"]) == [[begin, *plain, end]] * 2


def test_end_tokens_that_come_unasked_come_off_too() -> None:
    """From a normalizer, which knows nothing of ``add_special_tokens``; so do older tokenizers written in Python."""
    plain = tokenizer_of("bytes")
    backend = Tokenizer.from_str(plain.backend_tokenizer.to_str())
    backend.normalizer = normalizers.Replace(".", f".{END}")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END)

    class Appending(PreTrainedTokenizerFast):
        def __call__(self, text, **options):
            found = super().__call__(text, **options)
            several = isinstance(text, list)
            rows = found["input_ids"] if several else [found["input_ids"]]
            rows = [[*row, self.eos_token_id] for row in rows]
            return {"input_ids": rows if several else rows[0]}

    always = Appending(tokenizer_object=Tokenizer.from_str(plain.backend_tokenizer.to_str()), eos_token=END)
    texts = ["the cat", "a dog"]
    assert encode_texts(always, texts) == encode_texts(plain, texts)
    assert appended_tokens(tokenizer) == ()


def test_truncation_and_padding_that_a_file_sets_are_not_done(tmp_path) -> None:
    plain = tokenizer_of("bytes", "begins")
    backend = Tokenizer.from_str(plain.backend_tokenizer.to_str())
    backend.enable_truncation(4)
    backend.enable_padding(direction="left", length=64)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token=END, pad_token="<pad>", padding_side="left"
    ).save_pretrained(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    texts = [text for texts in KNOWN.values() for text in texts]
    assert encode_texts(tokenizer, texts) == encode_texts(plain, texts)


# --- options and answers that are the same tokens


@pytest.mark.parametrize(
    ("kind", "alike"),
    [
        ("bytes", False),
        ("merges with byte fallback", False),
        ("unigram with byte fallback", False),
        ("unigram", True),
        ("word pieces", True),
        ("dropping", True),
    ],
)
def test_options_in_a_script_that_is_not_known_are_the_same_tokens(model, kind: str, alike: bool) -> None:
    tokenizer = tokenizer_of(kind, "begins")
    words = tuple(f" {text.split()[0]}" for text in UNKNOWN["am"])
    asked = [("Answer:", words), *(("Answer:", (" cat", " dog")) for _ in range(2))]
    questions = ScoringSet(encode_queries(tokenizer, asked, keep_empty=True), tokens_per_batch=64, max_length=64)
    assert questions.indistinct.tolist() == [alike, False, False]
    values = loglikelihoods(model, questions)
    assert bool(np.ptp(values[0]) == 0) is alike
    assert np.ptp(values[1]) > 0


def test_one_option_without_tokens_does_not_win() -> None:
    """Saying nothing is certain, so the sum over no token would beat every other option."""
    tokenizer = tokenizer_of("dropping")
    (query,) = encode_queries(tokenizer, [("Answer:", (" cat", "ድመት"))], keep_empty=True)
    assert not query.scorable
    assert query.indistinct
    with pytest.raises(ValueError, match="an option adds no token"):
        encode_queries(tokenizer, [("Answer:", (" cat", "ድመት"))])


def test_two_of_several_options_that_are_the_same_tokens_count() -> None:
    tokenizer = tokenizer_of("word pieces")
    asked = [("Answer:", options) for options in ((" cat", " Cat", " dog"), (" cat", " dog"))]
    assert [query.indistinct for query in encode_queries(tokenizer, asked)] == [True, False]


def test_the_loss_stands_on_the_answer_where_end_tokens_are_appended() -> None:
    for surroundings in ("ends", "begins and ends"):
        tokenizer = tokenizer_of("bytes", surroundings)
        (example,) = encode_examples(tokenizer, [("Question: the cat?\nAnswer:", " a dog")], max_length=64)
        assert tokenizer.decode(example.tokens[example.supervised_from :]) == " a dog"
        assert tokenizer.eos_token_id not in example.tokens


@pytest.mark.parametrize("target", [END, f"{END}{END}"])
def test_an_answer_of_end_tokens_alone_is_refused(target: str) -> None:
    tokenizer = tokenizer_of("bytes")
    with pytest.raises(ValueError, match="nothing but tokens that end a text"):
        encode_examples(tokenizer, [("Question: the cat?\nAnswer:", target)], max_length=64)


def test_answers_that_are_the_same_tokens_are_counted() -> None:
    tokenizer = tokenizer_of("unigram")
    pairs = [("Answer:", " cat"), ("Answer:", " dog"), ("Answer:", " cat"), *(("Answer:", " " + w) for w in ("ድ", "ው"))]
    examples = encode_examples(tokenizer, pairs, max_length=64)
    assert indistinct_targets(pairs, examples) == 2
