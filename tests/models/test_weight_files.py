"""A base's size, digest and download are those of the files that its weights are loaded from, whatever lies beside."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM, modeling_utils

from registry.config.study import BaseSpec
from registry.errors import Refused
from registry.models.base import resolve_base
from registry.models.hub import cached_weights, listing
from registry.models.weight_files import folder_files, folder_weights
from tests.fake_hub import COMMIT, Repository, fake_hub


@pytest.fixture
def copy(base, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(base, folder)
    return folder


@pytest.fixture
def sharded(llama, tokenizer, tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    llama.save_pretrained(folder, max_shard_size="100KB")
    tokenizer.save_pretrained(folder)
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    return folder


def spec(folder: Path) -> BaseSpec:
    return BaseSpec(name="tiny", path=str(folder))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("model*.safetensors") for name, value in load_file(file).items()}


def consolidated(folder: Path) -> None:
    save_file(weights(folder), folder / "consolidated.safetensors")


def original(folder: Path) -> None:
    (folder / "original").mkdir()
    save_file(weights(folder), folder / "original" / "model.safetensors")
    (folder / "original" / "params.json").write_text("{}")


def half(folder: Path) -> None:
    save_file({name: value.half() for name, value in weights(folder).items()}, folder / "model.fp16.safetensors")
    (folder / "model.safetensors.index.fp16.json").write_text('{"weight_map": {}}')


def pickled(folder: Path) -> None:
    torch.save(weights(folder), folder / "pytorch_model.bin")
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {}}')


def other_formats(folder: Path) -> None:
    for name in ("model.gguf", "model.onnx", "tf_model.h5", "flax_model.msgpack", "rust_model.ot"):
        (folder / name).write_bytes(b"weights")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")


def older_shards(folder: Path) -> None:
    """Of an earlier ``save_pretrained`` into the folder."""
    save_file(weights(folder), folder / "model-00001-of-00099.safetensors")


def words(folder: Path) -> None:
    for name in ("LICENSE.txt", "requirements.txt", "trainer_state.json", "params.json", "all_results.json"):
        (folder / name).write_text("{}")
    (folder / ".gitattributes").write_text("*")


BESIDE = [consolidated, original, half, pickled, other_formats, older_shards, words]


@pytest.mark.parametrize("add", BESIDE)
@pytest.mark.parametrize("kind", ["copy", "sharded"])
def test_what_lies_beside_the_weights_changes_neither_size_nor_revision(
    add: Callable[[Path], None], kind: str, request, llama
) -> None:
    folder = request.getfixturevalue(kind)
    before = resolve_base(spec(folder))
    assert before.size_b == pytest.approx(llama.num_parameters() / 1e9, abs=1e-6)
    add(folder)
    after = resolve_base(spec(folder))
    assert (after.size_b, after.revision) == (before.size_b, before.revision)


def test_a_stale_index_beside_one_file_of_weights_counts_nothing(copy: Path, llama) -> None:
    """transformers takes the one file."""
    before = resolve_base(spec(copy))
    save_file(weights(copy), copy / "model-00001-of-00001.safetensors")
    names = dict.fromkeys(weights(copy), "model-00001-of-00001.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert resolve_base(spec(copy)) == before


@pytest.mark.parametrize("kind", ["copy", "sharded"])
def test_the_files_are_those_that_transformers_opens(kind: str, request, monkeypatch, llama) -> None:
    folder = request.getfixturevalue(kind)
    for add in BESIDE:
        add(folder)
    opened: set[str] = set()

    def watched(file, *rest, **more):
        opened.add(Path(file).name)
        return safe_open(file, *rest, **more)

    safe_open = modeling_utils.safe_open
    monkeypatch.setattr(modeling_utils, "safe_open", watched)
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    assert opened == {path.name for path in folder_weights(folder, "tiny")}
    assert isinstance(model, LlamaForCausalLM)


def test_the_revision_of_a_folder_of_nothing_else_is_as_it_was(copy: Path, sharded: Path) -> None:
    """Results that are recorded under it are found again."""
    kinds = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
    (copy / "merges.txt").write_text("a b\n")
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    for folder in (copy, sharded):
        assert folder_files(folder, "tiny") == sorted(path for kind in kinds for path in folder.glob(kind))


def test_weights_that_are_named_otherwise_are_found_by_the_configuration(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "mine.safetensors")
    with pytest.raises(Refused, match=r"neither model.safetensors nor .*index.json \(only mine.safetensors\)"):
        resolve_base(spec(copy))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"transformers_weights": "mine.safetensors"}))
    assert folder_weights(copy, "tiny") == [copy / "mine.safetensors"]
    AutoModelForCausalLM.from_pretrained(copy, use_safetensors=True)


def test_weights_that_are_not_whole_are_refused_with_what_is_missing(sharded: Path) -> None:
    last = sorted(sharded.glob("model-*.safetensors"))[-1]
    last.unlink()
    with pytest.raises(Refused, match=rf"lacks {last.name}, which its index .*copy what is missing there"):
        resolve_base(spec(sharded))
    (sharded / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(Refused, match="maps no weights to files"):
        resolve_base(spec(sharded))
    (sharded / "model.safetensors.index.json").write_text("{")
    with pytest.raises(Refused, match=r"the weights in .* cannot be found"):
        resolve_base(spec(sharded))


def test_a_folder_with_an_adapter_in_it_is_no_base(copy: Path) -> None:
    """transformers would load the base that the adapter names."""
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(Refused, match=r"holds adapter_config\.json.*name that base"):
        resolve_base(spec(copy))


# --- on the hub


def repository(folder: Path) -> Repository:
    """A repository of a folder and the folders in it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return Repository({path.relative_to(folder).as_posix(): path.read_bytes() for path in files})


@pytest.mark.parametrize("kind", ["copy", "sharded"])
def test_to_be_downloaded_is_what_is_loaded(kind: str, request, tmp_path: Path) -> None:
    folder = request.getfixturevalue(kind)
    wanted = {path.name: path.stat().st_size for path in folder_files(folder, "tiny")}
    for add in BESIDE:
        add(folder)
    with fake_hub(tmp_path) as hub:
        hub.repositories["mine/tiny"] = repository(folder)
        listed = listing("mine/tiny", None)
        read = {"model.safetensors.index.json"} if kind == "sharded" else set()  # it says which files are wanted
        assert hub.downloads() == read
        assert listed.weights
        assert listed.missing == {name: size for name, size in wanted.items() if name not in read}
        assert cached_weights("mine/tiny", COMMIT) == []
        AutoModelForCausalLM.from_pretrained("mine/tiny", revision=COMMIT, use_safetensors=True)
        cached = {path.name for path in cached_weights("mine/tiny", COMMIT)}
        assert cached == {path.name for path in folder_weights(folder, "tiny")}
        assert not any(name.endswith(".safetensors") for name in listing("mine/tiny", None).missing)


def test_a_repository_of_other_weights_alone_has_none(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").rename(copy / "consolidated.safetensors")
    with fake_hub(tmp_path) as hub:
        hub.repositories["mine/tiny"] = Repository.of(copy)
        assert not listing("mine/tiny", None).weights
