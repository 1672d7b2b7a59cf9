"""A registered adapter is a plain PEFT folder with an MLmodel beside it, and is checked when it is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from safetensors.torch import save_file

from registry.config.study import LoraSpec
from registry.errors import Refused
from registry.files.adapter import CONFIG, WEIGHTS, AdapterConfig, config_text, tensor_name
from registry.tracking.adapters import (
    RegisteredAdapter,
    download_adapter,
    register_adapter,
    weights_digest,
)
from registry.tracking.names import Kind, Tag
from registry.tracking.runs import recorded
from registry.tracking.store import experiment_id

NAME = "tiny--kind--en"
SPEC = LoraSpec(rank=2, alpha=4.0, targets=("q_proj",))


def registered(client: MlflowClient, folder: Path, *, seed: int = 17, study: str = "small") -> RegisteredAdapter:
    folder.mkdir()
    factors = {tensor_name("q_proj", letter): torch.full((2, 2), float(seed)) for letter in "AB"}
    save_file(factors, folder / WEIGHTS)
    (folder / CONFIG).write_text(config_text(AdapterConfig(SPEC, "tiny")))
    tags = {Tag.BASE_MODEL: "tiny", Tag.MODEL_FAMILY: "llama", Tag.SOURCE_TASK: "kind", Tag.SOURCE_LANGUAGE: "en"}
    params = {"lora.rank": 2, "lora.alpha": 4.0, "lora.dropout": 0.0, "lora.targets": "q_proj", "precision": "fp32"}
    with recorded(
        client, experiment_id(client, study), kind=Kind.FINETUNE, name="x", tags={}, params=params
    ) as recording:
        return register_adapter(
            recording,
            folder,
            name=NAME,
            tags=tags
            | {Tag.BASE_REVISION: "sha256:0", Tag.SEED: seed, Tag.STUDY: study, Tag.FINGERPRINT: f"seed {seed}"},
            metadata={"base": {"name": "tiny", "revision": "sha256:0"}, "source": "kind/en", "precision": "fp32"},
            description="An adapter.",
        )


def test_each_registration_is_a_version_of_its_own_with_its_tags(client, tmp_path: Path) -> None:
    adapters = [registered(client, tmp_path / str(seed), seed=seed) for seed in (17, 42)]
    assert [adapter.uri for adapter in adapters] == [f"models:/{NAME}/1", f"models:/{NAME}/2"]
    for adapter, seed in zip(adapters, (17, 42), strict=True):
        version = client.get_model_version(NAME, adapter.version)
        assert (version.tags[Tag.SEED], version.tags[Tag.SOURCE_TASK]) == (str(seed), "kind")
        assert version.tags[Tag.DIGEST] == weights_digest(tmp_path / str(seed))
        assert version.description == "An adapter."
        assert client.get_logged_model(adapter.model_id).status == "READY"
        assert client.get_run(version.run_id).outputs.model_outputs[0].model_id == adapter.model_id
    assert client.get_registered_model(NAME).tags == {
        Tag.BASE_MODEL: "tiny", Tag.MODEL_FAMILY: "llama", Tag.SOURCE_TASK: "kind", Tag.SOURCE_LANGUAGE: "en",
    }  # fmt: skip


def test_a_name_that_another_base_took_meanwhile_is_refused(client, tmp_path: Path) -> None:
    client.create_registered_model(NAME, {Tag.BASE_MODEL: "ti/ny"})
    with pytest.raises(Refused, match=f"the registered name {NAME} holds adapters of ti/ny"):
        registered(client, tmp_path / "x")


def test_what_a_killed_process_or_a_lost_answer_left_is_dropped_and_what_counts_is_not(
    client, tmp_path: Path, monkeypatch
) -> None:
    def versions() -> list[str]:
        return sorted(str(found.version) for found in client.search_model_versions(f"name = '{NAME}'"))

    killed, aliased = (registered(client, tmp_path / f"killed {number}") for number in range(2))
    for adapter in (killed, aliased):
        client.set_terminated(client.get_model_version(NAME, adapter.version).run_id, "KILLED")
    client.set_registered_model_alias(NAME, "kept", aliased.version)
    registered(client, tmp_path / "other", seed=42)
    assert versions() == ["1", "2", "3"]
    create = client.create_model_version

    def twice(*arguments, **named):  # the answer to the first was lost
        create(*arguments, **named)
        return create(*arguments, **named)

    monkeypatch.setattr(client, "create_model_version", twice)
    again = registered(client, tmp_path / "again")
    assert again.version == "5"
    assert versions() == ["2", "3", "5"]
    registered(client, tmp_path / "in another study", study="other")  # made anew there: both stand
    assert versions() == ["2", "3", "5", "7"]


def test_a_version_whose_run_was_removed_for_good_is_left(client, tmp_path: Path, monkeypatch) -> None:
    def removed(run_id: str) -> None:
        raise MlflowException(f"no run {run_id}", RESOURCE_DOES_NOT_EXIST)

    registered(client, tmp_path / "first")
    monkeypatch.setattr(client, "get_run", removed)
    assert registered(client, tmp_path / "again").version == "2"
    assert str(client.get_model_version(NAME, "1").version) == "1"


def test_a_downloaded_adapter_is_what_was_registered(client, tmp_path: Path) -> None:
    adapter = registered(client, tmp_path / "made")
    found = download_adapter(client, adapter, tmp_path / "found")
    made = [path.name for path in (tmp_path / "made").iterdir()]
    assert sorted(made) == ["MLmodel", "adapter_config.json", "adapter_model.safetensors", "conda.yaml"]
    for name in made:
        assert (found / name).read_bytes() == (tmp_path / "made" / name).read_bytes()


def test_an_adapter_whose_weights_were_changed_is_refused(client, uri, tmp_path: Path) -> None:
    adapter = registered(client, tmp_path / "made")
    artifacts = Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts"
    (stored,) = artifacts.rglob("adapter_model.safetensors")
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    with pytest.raises(Refused, match=rf"models:/{NAME}/1: its weights have SHA-256 .* was recorded"):
        download_adapter(client, adapter, tmp_path / "found")
