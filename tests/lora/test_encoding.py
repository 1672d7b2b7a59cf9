"""Texts become token ids as lm-evaluation-harness makes them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from registry.benchmarks import demo
from registry.benchmarks.prompts import PROMPTS
from registry.cells import Cell
from registry.errors import Refused
from registry.lora.encoding import encode_examples, encode_queries


def harness_pair(tokenizer, context: str, continuation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """``TemplateLM._encode_pair`` of lm-evaluation-harness, for a decoder."""
    spaces = len(context) - len(context.rstrip())
    if spaces > 0:
        continuation = context[-spaces:] + continuation
        context = context[:-spaces]
    whole = tokenizer.encode(context + continuation)
    start = len(tokenizer.encode(context))
    return tuple(whole[:start]), tuple(whole[start:])


def assert_as_the_harness(tokenizer, context: str, options: tuple[str, ...]) -> None:
    (encoded,) = encode_queries(tokenizer, [(context, options)])
    pairs = [harness_pair(tokenizer, context, option) for option in options]
    assert list(encoded.options) == [continuation for _, continuation in pairs]
    assert {encoded.context} == {ids for ids, _ in pairs}


@pytest.mark.parametrize("cell", [Cell("kind", "en"), Cell("pair", "tr"), Cell("place", "fr")], ids=str)
def test_queries_of_the_grid_are_encoded_as_by_the_harness(tokenizer, cell: Cell) -> None:
    for item in demo.items(cell, "test")[:20]:
        query = PROMPTS["text"].query(item)
        assert_as_the_harness(tokenizer, query.context, query.continuations)


words = st.text(alphabet="abcde ığşé日", min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(
    context=words.map(lambda text: f"q {text}:"),
    tail=st.sampled_from(["", " ", "  ", "\n"]),
    options=st.lists(words, min_size=2, max_size=4),
)
def test_any_text_is_encoded_as_by_the_harness(tokenizer, context: str, tail: str, options: list[str]) -> None:
    assert_as_the_harness(tokenizer, context + tail, tuple(f" {option}" for option in options))


def test_trailing_spaces_of_a_context_move_to_every_option(tokenizer) -> None:
    (moved,) = encode_queries(tokenizer, [("Answer:  ", ("cat", "dog"))])
    (given_there,) = encode_queries(tokenizer, [("Answer:", ("  cat", "  dog"))])
    assert moved == given_there
    assert tokenizer.decode(moved.context) == "Answer:"
    assert [tokenizer.decode(option) for option in moved.options] == ["  cat", "  dog"]


def test_queries_come_back_in_order_with_all_their_options(tokenizer) -> None:
    given_queries = [("one:", (" a", " bb", " ccc")), ("two:", (" dddd", " e")), ("three:", (" f", " g"))]
    for encoded, (context, options) in zip(encode_queries(tokenizer, given_queries), given_queries, strict=True):
        assert tokenizer.decode(encoded.context) == context
        assert tuple(tokenizer.decode(option) for option in encoded.options) == options


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """``abc`` is one token, ``ab`` is two."""
    vocabulary = {token: number for number, token in enumerate(["a", "b", "c", "bc", "abc", "<s>"])}
    tokenizer = Tokenizer(BPE(vocabulary, [("b", "c"), ("a", "bc")]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def test_an_option_that_adds_no_token_is_refused() -> None:
    with pytest.raises(ValueError, match=r"adds no token behind 'ab'.*'c'"):
        encode_queries(merging_tokenizer(), [("ab", ("c", "ab"))])


def test_a_context_without_a_token_is_refused(tokenizer) -> None:
    with pytest.raises(ValueError, match="context"):
        encode_queries(tokenizer, [("", ("cat", "dog"))])


def test_a_tokenizer_that_begins_texts_does_so_once_and_never_in_an_option() -> None:
    tokenizer = merging_tokenizer()
    begin = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    (encoded,) = encode_queries(tokenizer, [("a", ("b", "cc"))])
    assert encoded.context.count(begin) == 1
    assert encoded.context[0] == begin
    assert all(begin not in option for option in encoded.options)
    (example,) = encode_examples(tokenizer, [("a", "cc")], max_length=10)
    assert example.tokens.count(begin) == 1
    assert example.tokens[example.supervised_from :] == encoded.options[1]


CHAT = (
    "{{ bos_token }}{% for turn in messages %}[{{ turn['content'] }}]{% endfor %}"
    "{% if add_generation_prompt %}>\n{% endif %}"
)


@pytest.fixture
def chat_tokenizer(tokenizer) -> PreTrainedTokenizerFast:
    """The shared tokenizer, made to begin texts with a token, and with a chat template that spells it out."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", chat_template=CHAT)


def test_in_a_chat_the_context_is_the_users_turn_and_an_option_the_start_of_the_models(chat_tokenizer) -> None:
    queries = [("one? ", (" a", "  bb")), ("two?", ("ccc", " d"))]
    first, second = encode_queries(chat_tokenizer, queries, chat=True)
    assert chat_tokenizer.decode(first.context) == "<s>[one? ]>"
    assert [chat_tokenizer.decode(option) for option in first.options] == ["\na", "\n bb"]
    assert chat_tokenizer.decode(second.context) == "<s>[two?]>"
    assert [chat_tokenizer.decode(option) for option in second.options] == ["\nccc", "\nd"]


def test_a_beginning_that_is_spelled_out_is_not_doubled(chat_tokenizer) -> None:
    begin = chat_tokenizer.bos_token_id
    queries = [("<s>one:", (" a", " b")), ("two:", (" a", " b"))]
    for encoded in (*encode_queries(chat_tokenizer, queries), *encode_queries(chat_tokenizer, queries[1:], chat=True)):
        assert encoded.context.count(begin) == 1
        assert encoded.context[0] == begin


def test_no_query_makes_no_chat(chat_tokenizer) -> None:
    assert encode_queries(chat_tokenizer, [], chat=True) == []


def test_a_chat_without_a_template_is_refused(tokenizer) -> None:
    with pytest.raises(Refused, match=r"no chat template.*chat_template: false"):
        encode_queries(tokenizer, [("one:", (" a", " b"))], chat=True)


def test_a_text_without_a_prompt_carries_the_loss_from_its_first_predicted_token_on(tokenizer, chat_tokenizer) -> None:
    for used, first in ((tokenizer, 0), (chat_tokenizer, 1)):
        (example,) = encode_examples(used, [("", "Question: one?\nAnswer: the cat")], max_length=100)
        assert example.supervised_from == 1
        text = used.decode(example.tokens[first:])
        assert text == "Question: one?\nAnswer: the cat"
    (cut,) = encode_examples(chat_tokenizer, [("", "Question: one?\nAnswer: the cat")], max_length=5)
    assert (len(cut.tokens), cut.supervised_from) == (5, 1)


def test_the_loss_stands_on_the_target_alone(tokenizer) -> None:
    (example,) = encode_examples(tokenizer, [("Which one? Answer:", " the cat")], max_length=100)
    assert tokenizer.decode(example.tokens) == "Which one? Answer: the cat"
    assert tokenizer.decode(example.tokens[example.supervised_from :]) == " the cat"


@pytest.mark.parametrize("max_length", [6, 7, 20, 35])
def test_a_long_example_loses_its_left_side_and_keeps_its_target(tokenizer, max_length: int) -> None:
    pair = ("Which group does the word belong to, of all that there are? Answer:", " cat")
    (whole,) = encode_examples(tokenizer, [pair], max_length=1000)
    target = whole.tokens[whole.supervised_from :]
    assert len(target) < 6 < 35 < len(whole.tokens), "the case that is meant: a prompt to cut, a target that fits"
    (cut,) = encode_examples(tokenizer, [pair], max_length=max_length)
    assert cut.tokens == whole.tokens[-max_length:]
    assert cut.tokens[cut.supervised_from :] == target


def test_a_target_longer_than_the_limit_is_supervised_from_its_second_token_on(tokenizer) -> None:
    (cut,) = encode_examples(tokenizer, [("Answer:", " xyzzy plugh xyzzy")], max_length=4)
    assert (len(cut.tokens), cut.supervised_from) == (4, 1)


def test_a_target_that_adds_no_token_is_refused() -> None:
    with pytest.raises(ValueError, match="target 'c' adds no token"):
        encode_examples(merging_tokenizer(), [("ab", "c")], max_length=10)
