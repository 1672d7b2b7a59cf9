"""Small tokenizers of the kinds that bases have: how they cut words, what they know, what they put around texts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordPieceTrainer
from transformers import PreTrainedTokenizerFast

#: What is read in training: four scripts. Two more come up in questions alone.
KNOWN = {
    "en": ["the cat sat on the mat", "a dog runs in the park", "which of these is right", "an answer to it", "1 2 3"],
    "tr": ["kedi paspasın üstünde", "köpek parkta koşuyor", "hangisi doğru", "bir cevap daha"],
    "ru": ["кошка сидит на коврике", "собака бежит в парке", "какой ответ верный", "ещё один ответ"],
    "bn": ["বিড়াল মাদুরে বসে আছে", "কুকুর পার্কে দৌড়ায়", "কোনটি ঠিক", "আরেকটি উত্তর"],
}
UNKNOWN = {
    "am": ["ድመቷ ምንጣፉ ላይ ተቀመጠች", "ውሻው በፓርኩ ውስጥ ይሮጣል", "የትኛው ትክክል ነው", "ሌላ መልስ"],
    "zh": ["猫坐在垫子上", "狗在公园里跑", "哪个是对的", "另一个答案"],
}
TEXTS = [text for texts in KNOWN.values() for text in texts]

BEGIN, END, UNK, PAD = "<s>", "</s>", "<unk>", "<pad>"
SPECIAL = [PAD, UNK, BEGIN, END]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SIZE = 700  # rows of embeddings that suffice for every one of them

KINDS = ("bytes", "merges with byte fallback", "unigram", "unigram with byte fallback", "word pieces", "dropping")
SURROUNDINGS = {"nothing": "$A", "begins": f"{BEGIN} $A", "ends": f"$A {END}", "begins and ends": f"{BEGIN} $A {END}"}


def tokenizer_of(kind: str, surroundings: str = "nothing", *, named: bool = True) -> PreTrainedTokenizerFast:
    """Make a tokenizer of a kind that puts its special tokens around texts.

    Parameters
    ----------
    named : bool
        Whether it says which of its tokens ends texts.
    """
    backend = Tokenizer.from_str(_trained_once(kind))
    special = [(token, backend.token_to_id(token)) for token in (BEGIN, END)]
    backend.post_processor = processors.TemplateProcessing(single=SURROUNDINGS[surroundings], special_tokens=special)
    names = {"unk_token": UNK, "pad_token": PAD} | ({"bos_token": BEGIN} if "begins" in surroundings else {})
    if named:
        names["eos_token"] = END
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@cache
def _trained_once(kind: str) -> str:
    return _BACKENDS[kind]().to_str()  # trained again, some kinds come out otherwise


def _trained(tokenizer: Tokenizer, trainer: object, texts: Iterable[str] = TEXTS) -> Tokenizer:
    tokenizer.train_from_iterator(list(texts), trainer)
    return tokenizer


def _bytes() -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    return _trained(tokenizer, trainer)


def _merges(*, fallback: bool = True) -> Tokenizer:
    """As Llama-2's and Gemma's: a blank is ▁, and one stands before every text."""
    tokenizer = Tokenizer(BPE(unk_token=UNK, fuse_unk=True, byte_fallback=fallback))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = [*SPECIAL, *BYTES]
    return _trained(tokenizer, BpeTrainer(vocab_size=SIZE - 50, special_tokens=special, show_progress=False))


def _unigram(*, fallback: bool = False) -> Tokenizer:
    """As SentencePiece makes them."""
    learned = Tokenizer(Unigram())
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = UnigramTrainer(vocab_size=200, special_tokens=SPECIAL, unk_token=UNK, show_progress=False)
    pieces = _pieces(_trained(learned, trainer))
    vocabulary = [(token, 0.0) for token in SPECIAL] + [(token, 0.0) for token in BYTES if fallback] + pieces
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=SPECIAL.index(UNK), byte_fallback=fallback))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


def _pieces(tokenizer: Tokenizer) -> list[tuple[str, float]]:
    vocabulary = json.loads(tokenizer.to_str())["model"]["vocab"]
    return [(token, score) for token, score in vocabulary if token not in SPECIAL]


def _word_pieces() -> Tokenizer:
    tokenizer = Tokenizer(WordPiece(unk_token=UNK))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _trained(tokenizer, WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False))


def _dropping() -> Tokenizer:
    """Merges of characters, without a token for what is not known: it leaves no trace."""
    tokenizer = Tokenizer(BPE())
    return _trained(tokenizer, BpeTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False))


_BACKENDS = {
    "bytes": _bytes,
    "merges with byte fallback": _merges,
    "unigram": _unigram,
    "unigram with byte fallback": lambda: _unigram(fallback=True),
    "word pieces": _word_pieces,
    "dropping": _dropping,
}
