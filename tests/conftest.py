"""What the tests share: a tiny random base, studies on a corner of the built-in grid, and stores that start empty."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from registry.benchmarks import demo
from registry.benchmarks.demo.tokenizer import train_tokenizer
from registry.cells import Cell
from registry.config.files import load_study
from registry.config.study import Study
from registry.tracking.store import open_store
from tests.closed_stores import close_store

torch.set_num_threads(1)

PROJECT = Path(__file__).resolve().parents[1]

STUDY = """\
name: small
description: A corner of the built-in grid.
benchmark: demo
tasks: [kind, pair]
languages: [en, tr]
models: [{{name: tiny, path: {base}}}]
seeds: [17, 42]
split: {{train: 24, test: 16}}
recipe:
  epochs: 1
  batch_size: 4
  learning_rate: 5.0e-2
  validation: 0
  lora: {{rank: 4, alpha: 8}}
"""


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with merges in both languages of the small study, so that words are one to five tokens."""
    cells = [Cell(task, language) for task in ("kind", "pair") for language in ("en", "tr")]
    texts = [text for cell in cells for item in demo.items(cell, "train") for text in (item.question, *item.options)]
    return train_tokenizer(texts, vocabulary=500)


@pytest.fixture(scope="session")
def make_llama(tokenizer) -> Callable[..., LlamaForCausalLM]:
    """Make a tiny random model for the tokenizer, decided by a seed."""

    def make(seed: int = 0) -> LlamaForCausalLM:
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.15,  # large enough for every layer, and the context, to matter in the logits
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval().requires_grad_(False)

    return make


@pytest.fixture
def llama(make_llama) -> LlamaForCausalLM:
    """A fresh copy of the base's weights."""
    return make_llama()


@pytest.fixture(scope="session")
def make_base(tmp_path_factory, tokenizer, make_llama) -> Callable[[int], Path]:
    """Write a tiny random base model with its tokenizer, decided by a seed, and return its folder."""

    def make(seed: int) -> Path:
        folder = tmp_path_factory.mktemp(f"base-{seed}")
        make_llama(seed).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def base(make_base) -> Path:
    """The folder of the base model that most tests use; nothing may write to it."""
    return make_base(0)


@pytest.fixture(scope="session")
def study_file(tmp_path_factory, base) -> Callable[..., Path]:
    """Write the small study with some texts replaced, and return the file."""

    def write(*replaced: tuple[str, str]) -> Path:
        text = STUDY.format(base=base)
        for old, new in replaced:
            assert old in text
            text = text.replace(old, new, 1)
        path = tmp_path_factory.mktemp("study") / "small.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def small_study(study_file) -> Callable[..., Study]:
    """Load the small study with some texts of its file replaced."""
    return lambda *replaced: load_study(str(study_file(*replaced)))


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """A SQLite store with its tables made: making them takes seconds, copying them none."""
    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    client = open_store(f"sqlite:///{file}")
    close_store(client)
    return file


@pytest.fixture(scope="session")
def new_store(tmp_path_factory, empty_database) -> Callable[[], str]:
    """Make an empty store in a folder of its own, and return its address."""

    def make() -> str:
        file = tmp_path_factory.mktemp("store") / "mlflow.db"
        shutil.copyfile(empty_database, file)
        return f"sqlite:///{file}"

    return make


@pytest.fixture
def uri(new_store, monkeypatch) -> Iterator[str]:
    """An empty store that MLFLOW_TRACKING_URI names."""
    address = new_store()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    yield address
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


@pytest.fixture
def client(uri) -> MlflowClient:
    """A client of the empty store."""
    return open_store(uri)


@pytest.fixture
def command(monkeypatch, capsys) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Call an entry point as ``mlflow run . -e <name>`` does; returns exit code, output and errors."""
    handler, root = signal.getsignal(signal.SIGTERM), logging.getLogger()
    level, handlers = root.level, list(root.handlers)

    def call(name: str, *arguments: object) -> tuple[int, str, str]:
        module = "import_results" if name == "import" else name  # `import` is a keyword
        monkeypatch.setattr(sys, "argv", [f"entrypoints/{module}.py", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(f"entrypoints.{module}").main()
        return (ended.value.code, *capsys.readouterr())

    yield call
    signal.signal(signal.SIGTERM, handler)
    root.setLevel(level)
    root.handlers[:] = handlers
