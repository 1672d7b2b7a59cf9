"""The hub's answers become refusals that say what to do; what is cached is not asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from registry.config.study import BaseSpec
from registry.errors import Refused
from registry.models.base import resolve_base
from registry.models.hub import GatedRepository, HubUnavailable, cached_weights, commit_of, listing, offline
from registry.models.loading import load_base, load_tokenizer
from tests.fake_hub import COMMIT, FakeHub, Repository, fake_hub, unreachable


@pytest.fixture
def hub(tmp_path: Path, base):
    with fake_hub(tmp_path) as served:
        served.repositories["mine/tiny"] = Repository.of(base)
        served.repositories["mine/gated"] = Repository.of(base, gated=True)
        yield served


def test_a_base_of_the_hub_is_the_base_of_the_folder(hub: FakeHub, base, llama, tokenizer) -> None:
    found = resolve_base(BaseSpec(name="mine/tiny"))
    assert (found.name, found.reference, found.revision) == ("mine/tiny", "mine/tiny", COMMIT)
    model = load_base(found, dtype=torch.float32, device="cpu")
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in llama.state_dict().items())
    assert load_tokenizer(found)("köpek").input_ids == tokenizer("köpek").input_ids
    assert (found.family, found.max_positions) == ("llama", 256)


def test_its_size_is_counted_from_its_files_or_taken_from_the_study(hub: FakeHub, llama) -> None:
    told = resolve_base(BaseSpec(name="mine/tiny", size_b=0.5, family="Tiny"))
    assert (told.size_b, told.family) == (0.5, "Tiny")
    assert hub.downloads() == {"config.json"}
    load_base(told, dtype=torch.float32, device="cpu")
    with offline():
        counted = resolve_base(BaseSpec(name="mine/tiny"))
    assert counted.size_b == pytest.approx(llama.num_parameters() / 1e9, abs=1e-6)


def test_what_is_cached_needs_no_hub_and_what_is_not_is_said(hub: FakeHub) -> None:
    with offline(), pytest.raises(HubUnavailable, match="'mine/tiny' is not in the hub's cache"):
        commit_of("mine/tiny", None)
    load_base(resolve_base(BaseSpec(name="mine/tiny")), dtype=torch.float32, device="cpu")
    asked = len(hub.asked)
    with offline():
        assert load_base(resolve_base(BaseSpec(name="mine/tiny")), dtype=torch.float32, device="cpu") is not None
    assert len(hub.asked) == asked


def test_a_listing_counts_what_the_cache_lacks_and_downloads_nothing(hub: FakeHub) -> None:
    repository = hub.repositories["mine/tiny"]
    repository.sizes |= {"model-00001.bin": 10**12, "original/consolidated.safetensors": 10**12}
    wanted = {name: len(content) for name, content in repository.files.items()}
    assert listing("mine/tiny", None).missing == wanted
    assert not hub.cache.exists()
    load_base(resolve_base(BaseSpec(name="mine/tiny")), dtype=torch.float32, device="cpu")
    assert set(wanted) - set(listing("mine/tiny", None).missing) >= {"model.safetensors", "config.json"}


def test_weights_in_parts_are_cached_when_all_parts_are(tmp_path: Path) -> None:
    with fake_hub(tmp_path) as hub:
        snapshot = hub.cache / "models--mine--parts" / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
        (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
        (snapshot / "model-00001-of-00002.safetensors").touch()
        assert cached_weights("mine/parts", COMMIT) == []
        (snapshot / "model-00002-of-00002.safetensors").touch()
        assert [path.name[:11] for path in cached_weights("mine/parts", COMMIT)] == ["model-00001", "model-00002"]
        assert cached_weights("mine/parts", "f" * 40) == []


@pytest.mark.parametrize("ask", [commit_of, listing])
def test_what_the_hub_refuses_is_told_with_the_remedy(hub: FakeHub, ask, monkeypatch) -> None:
    with pytest.raises(
        GatedRepository, match=r"'mine/gated' is gated: accept its licence .* `hf auth login` or set HF_TOKEN"
    ):
        ask("mine/gated", None)
    with pytest.raises(Refused, match=r"'mine/none' is not on the hub \(or is private: set HF_TOKEN\)"):
        ask("mine/none", None)
    with pytest.raises(Refused, match="'mine/tiny' has no revision 'v9' on the hub"):
        ask("mine/tiny", "v9")
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_tests")
    ask("mine/gated", None)


@pytest.mark.parametrize("ask", [commit_of, listing])
def test_a_hub_out_of_reach_is_told(tmp_path: Path, ask) -> None:
    with unreachable(tmp_path), pytest.raises(HubUnavailable, match="the hub cannot be reached and its cache does not"):
        ask("mine/tiny", None)
