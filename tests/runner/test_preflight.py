"""A study that cannot be carried out here is refused before anything is downloaded, with every reason at once."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from registry.config.files import load_study
from registry.config.study import BaseSpec, Study
from registry.errors import Refused
from registry.models.catalogue import PAPER
from registry.planning.outline import outline
from registry.planning.preflight import preflight
from registry.runner.session import prospect, run_study
from registry.tracking.store import open_store
from tests.fake_hub import FakeHub, Repository, fake_hub, unreachable

GB = 10**9
LLAMA, QWEN = "meta-llama/Llama-3.2-1B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct"


@pytest.fixture
def hub(tmp_path: Path):
    """The paper's models: their files are listed, and only their configurations would be there."""
    with fake_hub(tmp_path) as served:
        for name, model in PAPER.items():
            sizes = {"model.safetensors": model.download_bytes, "config.json": 700}
            served.repositories[name] = Repository(sizes=sizes, gated=model.gated)
        yield served


@pytest.fixture
def machine(monkeypatch):
    """Say how much disk and memory is free."""

    def have(*, disk: float = 1e6, memory: float = 1e6) -> None:
        usage, main = namedtuple("usage", "free"), namedtuple("main", "available")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(int(disk * GB)))
        monkeypatch.setattr(psutil, "virtual_memory", lambda: main(int(memory * GB)))

    have()
    return have


def of(*names: str, **fields: object) -> Study:
    models = [BaseSpec(name=name) for name in names]
    return load_study("demo", models=models, seeds=(17,), **fields)


def refusal(study: Study) -> list[str]:
    with pytest.raises(Refused) as caught:
        prospect(study)
    first, *problems = str(caught.value).split("\n  - ")
    assert first.startswith(f"study {study.name!r} cannot run here, ")
    return problems


def test_gated_models_without_a_token_are_named_together(hub: FakeHub, machine, uri) -> None:
    (told,) = refusal(of(*PAPER))
    gated = [name for name, model in PAPER.items() if model.gated]
    assert len(gated) == 5
    assert told.startswith(f"gated, and not open to you: {', '.join(gated)}; accept each model's licence")
    assert "`hf auth login`, or set HF_TOKEN" in told
    assert hub.downloads() == set()


def test_with_a_token_nothing_stands_against_them(hub: FakeHub, machine, uri, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_tests")
    preflight(outline(of(*PAPER)))
    assert hub.downloads() == set()


def test_everything_is_said_at_once(hub: FakeHub, machine, uri) -> None:
    machine(disk=10, memory=4)
    gated, absent, disk, *memory = sorted(refusal(of(*PAPER, "mine/none")), key=lambda told: "does not fit" in told)
    told = {absent, gated, disk}
    assert any(line.startswith("gated") for line in told)
    assert any("'mine/none' is not on the hub" in line for line in told)
    assert any(line.startswith("not enough disk") for line in told)
    # Float32 and 1.1 times that: only the smallest fits into 4 GB.
    assert len(memory) == sum(4.4 * model.parameters > 4 * GB for model in PAPER.values()) == 8
    assert all("does not fit into the machine's memory" in line for line in memory)


def test_what_goes_to_one_disk_is_added_up(hub: FakeHub, machine, uri) -> None:
    study = of(QWEN)  # 32 adapters of rank 8 in float32, 33 scorings
    adapters = 32 * 4 * PAPER[QWEN].adapter_parameters(study.recipe.lora)
    models = PAPER[QWEN].download_bytes
    machine(disk=(models + adapters) / GB)
    (told,) = refusal(study)  # outcomes are some megabytes more
    assert told.startswith("not enough disk: 1.0 GB of models in the hub's cache (")
    assert "and 0.6 GB of adapters and outcomes in the store (" in told
    assert told.endswith("1.6 GB are free; free some, or set HF_HOME or MLFLOW_TRACKING_URI to another disk")
    machine(disk=(models + adapters) / GB + 0.03)
    preflight(outline(study))


def test_what_is_cached_is_not_counted_and_what_is_recorded_neither(hub: FakeHub, machine, uri, base) -> None:
    hub.repositories["mine/tiny"] = Repository.of(base)
    study = load_study("demo", models=[BaseSpec(name="mine/tiny")], seeds=(17,), sources=["kind/en"])
    machine(disk=0.0001)
    assert len(refusal(study)) == 1
    machine()
    assert run_study(prospect(study, workers=1)) == []
    machine(disk=0, memory=0)
    asked = len(hub.asked)
    preflight(outline(study))
    assert len(hub.asked) == asked


def test_a_hub_out_of_reach_is_asked_once_and_told_once(machine, uri, tmp_path: Path) -> None:
    with unreachable(tmp_path):
        (told,) = refusal(of(*PAPER))
    assert told.startswith("the hub cannot be reached (")
    assert told.count("cannot be reached") == 1
    assert told.endswith(f"does not hold: {', '.join(PAPER)}; connect this machine, or copy the models into the cache")


def test_a_base_without_safetensors_is_told(hub: FakeHub, machine, uri) -> None:
    hub.repositories["mine/old"] = Repository(
        {"config.json": b'{"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 64}'},
        {"pytorch_model.bin": GB},
    )
    (told,) = refusal(of("mine/old"))
    assert "'mine/old' has no *.safetensors on the hub; convert its weights with save_pretrained()" in told


def test_training_every_weight_asks_for_its_memory(hub: FakeHub, machine, uri) -> None:
    study = load_study("demo", models=[QWEN], recipe={"method": "full"})
    machine(memory=9)  # 0.49 billion weights take 2 GB as they are and 10 GB more in training
    (told,) = refusal(study)
    assert f"every weight of model {QWEN!r} cannot be trained in the machine's memory" in told
    machine(memory=14)
    preflight(outline(study))


def test_a_study_on_this_machine_alone_asks_nothing(records, machine, tmp_path: Path) -> None:
    machine(disk=0)
    with unreachable(tmp_path):
        assert prospect(records.study, workers=1).plan.fine_tunes == 8


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"models": ["meta-lama"]}, "no model 'meta-lama'"),
        ({"tasks": ["clasify"]}, "no task 'clasify'"),
        ({"sources": ["kind/xx"]}, "no language 'xx'"),
    ],
)
def test_a_mistake_is_told_before_the_hub_is_asked(hub: FakeHub, machine, uri, fields, told: str) -> None:
    with pytest.raises(Refused, match=told):
        prospect(load_study("demo", **({"models": [LLAMA]} | fields)))
    assert hub.asked == []
    assert open_store().get_experiment_by_name("demo") is None
