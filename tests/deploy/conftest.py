"""Adapters that were registered without a training, and evaluations that were recorded without a scoring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from registry.benchmarks.prompts import PROMPTS
from registry.cells import Cell, regime_of
from registry.config.study import BaseSpec, LoraSpec
from registry.deploy.resolve import ChosenVersion, VersionQuery, choose
from registry.evaluation.metrics import record_inputs
from registry.lora.adapter import Adapter, fresh_adapter, save_adapter
from registry.models.base import resolve_base
from registry.tracking import metric_names
from registry.tracking.adapters import RegisteredAdapter, register_adapter
from registry.tracking.names import Kind, Tag, registered_model
from registry.tracking.runs import recorded
from registry.tracking.store import experiment_id
from tests.deploy.planted import Recorded

SOURCE = Cell("pair", "tr")
TOKENS = torch.tensor([[5, 60, 7, 81, 9, 33], [2, 2, 40, 41, 42, 43]])


@pytest.fixture
def make_adapter(llama) -> Callable[..., Adapter]:
    """Make an adapter that changes what the tiny base computes, as training would, decided by a seed."""

    def make(seed: int = 17, *, rank: int = 4) -> Adapter:
        fresh = fresh_adapter(llama, LoraSpec(rank=rank, alpha=2.0 * rank), seed=seed)
        generator = torch.Generator().manual_seed(seed)
        moved = {name: (a, torch.randn(b.shape, generator=generator) / 8) for name, (a, b) in fresh.weights.items()}
        return Adapter(fresh.spec, moved)

    return make


@pytest.fixture
def register(client: MlflowClient, base: Path, make_adapter, tmp_path_factory) -> Callable[..., RegisteredAdapter]:
    """Register an adapter of the tiny base in the empty store."""
    revision = resolve_base(BaseSpec(name="tiny", path=str(base))).revision

    def add(
        seed: int = 17,
        *,
        source: Cell = SOURCE,
        study: str = "small",
        model: str = "tiny",
        rank: int = 4,
        base_path: Path | None = None,
        **serving: object,
    ) -> RegisteredAdapter:
        folder = tmp_path_factory.mktemp("made")
        save_adapter(make_adapter(seed, rank=rank), folder, base_reference=model, base_revision=None)
        tags = {
            Tag.STUDY: study,
            Tag.BASE_MODEL: model,
            Tag.BASE_REVISION: revision,
            Tag.MODEL_FAMILY: "llama",
            Tag.SOURCE_TASK: source.task,
            Tag.SOURCE_LANGUAGE: source.language,
            Tag.SEED: seed,
            Tag.FINGERPRINT: f"{model} {source} {seed}",
        } | ({} if base_path is None else {Tag.BASE_PATH: str(base_path)})
        metadata = {
            "base": {"name": model, "reference": model, "revision": revision},
            "source": str(source),
            "prompt": asdict(PROMPTS["text"]),
            "chat_template": False,
            **serving,
        }
        params = {"lora.rank": rank, "lora.alpha": 2.0 * rank, "learning_rate": 0.05}
        with recorded(
            client, experiment_id(client, study), kind=Kind.FINETUNE, name="made", tags=tags, params=params
        ) as recording:
            record_inputs(recording, {"training": [source]}, benchmark="demo", digests={source: "0"})
            name = registered_model(model, source)
            return register_adapter(recording, folder, name=name, tags=tags, metadata=metadata, description="Made.")

    return add


@pytest.fixture
def evaluate(client: MlflowClient) -> Callable[..., str]:
    """Record a finished evaluation of an adapter from its deltas, and return the run's id."""

    def add(
        adapter: RegisteredAdapter, deltas: Mapping[str, float], *, below: str = "", study: str = "", **other: str
    ) -> str:
        version = client.get_model_version(adapter.name, adapter.version)
        source = Cell(version.tags[Tag.SOURCE_TASK], version.tags[Tag.SOURCE_LANGUAGE])
        tags = dict(version.tags) | adapter.tags | ({Tag.BELOW_CHANCE: below} if below else {})
        tags |= {Tag.FINGERPRINT: f"{adapter.uri} {sorted(deltas.items())}"} | other
        study = experiment_id(client, study or version.tags[Tag.STUDY])
        with recorded(client, study, kind=Kind.EVALUATE, name="scored", tags=tags) as recording:
            for target, delta in ((Cell.parse(text), value) for text, value in deltas.items()):
                metric = metric_names.delta(regime_of(source, target), target)
                recording.metrics({metric_names.score(target): 0.5 + delta / 100, metric: delta})
        return recording.run_id

    return add


@pytest.fixture
def chosen(client: MlflowClient) -> Callable[..., ChosenVersion]:
    """Choose a version as a user would ask for it."""
    return lambda **asked: choose(client, VersionQuery(**asked))


@pytest.fixture
def stored(uri: str) -> Callable[[str], list[Path]]:
    """Find files in the store's artifacts by name."""
    folder = Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts"
    return lambda name: sorted(folder.rglob(name))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(TOKENS).logits
    return found


@pytest.fixture
def study(client, register, study_file, tmp_path, monkeypatch) -> Recorded:
    """A study to record adapters and their answers in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Recorded(client, register, study_file, tmp_path)
