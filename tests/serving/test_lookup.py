"""What is served follows the registry: deleted, made anew, moved; and goes on while the registry does not answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from registry.benchmarks.prompts import PROMPTS
from registry.cells import Cell
from registry.config.study import BaseSpec, LoraSpec
from registry.lora.adapter import Adapter, fresh_adapter, save_adapter
from registry.models.base import resolve_base
from registry.serving import lookup
from registry.tracking.adapters import RegisteredAdapter, register_adapter
from registry.tracking.names import Kind, Tag, registered_model
from registry.tracking.runs import recorded
from registry.tracking.store import experiment_id

OWN, OTHER = "tiny--pair--tr", "tiny--kind--en"
QUESTION = {"question": "kedi mi?", "options": ["cat", "dog", "horse"]}


@pytest.fixture
def register(client: MlflowClient, base: Path, llama, tmp_path_factory) -> Callable[..., RegisteredAdapter]:
    """Register an adapter of the tiny base as training would, its weights drawn by a seed."""
    revision = resolve_base(BaseSpec(name="tiny", path=str(base))).revision

    def add(name: str, seed: int) -> RegisteredAdapter:
        _, task, language = name.split("--")
        folder = tmp_path_factory.mktemp("made")
        fresh = fresh_adapter(llama, LoraSpec(rank=4, alpha=8.0), seed=seed)
        drawn = torch.Generator().manual_seed(seed)
        moved = {key: (a, torch.randn(b.shape, generator=drawn) / 8) for key, (a, b) in fresh.weights.items()}
        save_adapter(Adapter(fresh.spec, moved), folder, base_reference="tiny", base_revision=None)
        tags = {
            Tag.STUDY: "small", Tag.BASE_MODEL: "tiny", Tag.BASE_REVISION: revision, Tag.MODEL_FAMILY: "llama",
            Tag.SOURCE_TASK: task, Tag.SOURCE_LANGUAGE: language, Tag.SEED: seed, Tag.FINGERPRINT: f"{name} {seed}",
        }  # fmt: skip
        metadata = {"base": {"name": "tiny", "reference": "tiny", "revision": revision}, "source": f"{task}/{language}"}
        metadata["prompt"] = asdict(PROMPTS["text"])
        with recorded(client, experiment_id(client, "small"), kind=Kind.FINETUNE, name="x", tags=tags) as recording:
            named = registered_model("tiny", Cell(task, language))
            return register_adapter(recording, folder, name=named, tags=tags, metadata=metadata, description="")

    return add


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let seconds pass for the registry's answers, in no time."""
    passed = [0.0]
    monotonic = time.monotonic
    monkeypatch.setattr("registry.serving.lookup.time.monotonic", lambda: monotonic() + passed[0])

    def later(seconds: float = lookup.FRESH_SECONDS + 1) -> None:
        passed[0] += seconds

    return later


@pytest.fixture
def ask(register, base: Path, clock) -> Iterator[Callable[[str], list[float]]]:
    """Ask the server of an adapter of the tiny base; returns the options' log-likelihoods."""
    register(OWN, 1)
    register(OTHER, 2)
    served = mlflow.pyfunc.load_model(f"models:/{OWN}/1", model_config={"base_path": str(base), "device": "cpu"})

    def answer(adapter: str = "") -> list[float]:
        return list(served.predict(pd.DataFrame([QUESTION]), params={"adapter": adapter}).loglikelihoods[0])

    yield answer


def remake(client: MlflowClient, register: Callable[..., RegisteredAdapter], name: str, seed: int) -> None:
    client.delete_registered_model(name)
    assert register(name, seed).version == "1"


@pytest.mark.parametrize("name", [OWN, OTHER])
def test_a_version_that_was_deleted_is_answered_for_seconds_at_most(ask, client, clock, name: str) -> None:
    asked = "" if name == OWN else f"{name}/1"
    before = ask(asked)
    client.delete_model_version(name, "1")
    assert ask(asked) == before  # within the seconds that an answer of the registry counts
    clock()
    for _ in range(2):
        with pytest.raises(MlflowException, match=f"there is no '{name}/1'") as refused:
            ask(asked)
        assert refused.value.get_http_status_code() == 400


@pytest.mark.parametrize("name", [OWN, OTHER])
def test_a_version_that_was_made_anew_under_its_number_is_fetched_anew(ask, client, register, clock, name: str) -> None:
    asked = "" if name == OWN else f"{name}/1"
    before = ask(asked)
    remake(client, register, name, seed=3)
    clock()
    after = ask(asked)
    assert after != pytest.approx(before, abs=1e-3)
    assert ask(f"{name}/1") == ask(f"models:/{name}/1") == after


def test_a_version_made_anew_of_foreign_files_is_refused(ask, client, register, clock, uri: str) -> None:
    ask(f"{OTHER}/1")
    remake(client, register, OTHER, seed=3)
    model = client.get_model_version(OTHER, "1").source.removeprefix("models:/")
    (file,) = (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").rglob(f"{model}/artifacts/MLmodel")
    file.write_text(file.read_text().replace("registry.serving", "os"))
    clock()
    for _ in range(2):
        with pytest.raises(MlflowException, match="names foreign code to load it with"):
            ask(f"{OTHER}/1")


def test_an_alias_that_was_moved_is_followed_at_once(ask, client, register) -> None:
    register(OTHER, 3)
    client.set_registered_model_alias(OTHER, "champion", "1")
    before = ask(f"{OTHER}@champion")
    client.set_registered_model_alias(OTHER, "champion", "2")
    after = ask(f"{OTHER}@champion")
    assert (before, after) == (ask(f"{OTHER}/1"), ask(f"{OTHER}/2"))
    assert after != pytest.approx(before, abs=1e-3)


def test_the_registry_is_asked_once_in_a_while_and_not_for_every_request(ask, client, clock, monkeypatch) -> None:
    asked: list[str] = []
    found = MlflowClient.get_model_version
    monkeypatch.setattr(
        MlflowClient, "get_model_version", lambda self, name, version: asked.append(name) or found(self, name, version)
    )
    for _ in range(5):
        ask()
    assert len(asked) == 0
    clock()
    for _ in range(5):
        ask()
    assert len(asked) == 1


def test_while_the_registry_does_not_answer_what_is_in_memory_is_served(
    ask, client, register, clock, monkeypatch, caplog
) -> None:
    client.set_registered_model_alias(OTHER, "champion", "1")
    before = {name: ask(name) for name in ("", f"{OTHER}/1", f"{OTHER}@champion")}

    def down(*_: object) -> None:
        raise MlflowException("connection refused")

    with monkeypatch.context() as patch:
        for name in ("get_model_version", "get_model_version_by_alias"):
            patch.setattr(MlflowClient, name, down)
        for _ in range(2):
            clock()
            assert {name: ask(name) for name in before} == before
        assert "the registry cannot be reached (connection refused); adapters in memory are served" in caplog.text
        with pytest.raises(MlflowException, match="connection refused"):
            ask(f"{OTHER}/2")  # which is not in memory
    remake(client, register, OTHER, seed=3)
    clock()
    assert ask(f"{OTHER}/1") != pytest.approx(before[f"{OTHER}/1"], abs=1e-3)


def test_a_registry_that_hangs_holds_requests_up_for_a_moment_only(ask, client, clock, monkeypatch, caplog) -> None:
    before, released = ask(), threading.Event()
    found = MlflowClient.get_model_version
    monkeypatch.setattr(lookup, "_PATIENCE_SECONDS", 0.2)

    def hanging(self: MlflowClient, name: str, version: str) -> object:
        released.wait(30)
        return found(self, name, version)

    monkeypatch.setattr(MlflowClient, "get_model_version", hanging)
    started = time.perf_counter()
    for _ in range(3):
        clock()
        assert ask() == before
    assert time.perf_counter() - started < 10
    assert "does not answer within 0.2 s" in caplog.text
    client.delete_model_version(OWN, "1")
    released.set()
    deadline = time.perf_counter() + 20
    while time.perf_counter() < deadline:
        clock()
        try:
            ask()
        except MlflowException as error:
            assert "there is no adapter" in str(error) or "there is no" in str(error)
            return
    raise AssertionError("the deletion was not seen")
