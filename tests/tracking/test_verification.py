"""A version's folder is what its training run recorded, or it is refused with words: no foreign file or loader."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow import MlflowClient
from safetensors.torch import save_file

from registry.errors import Refused
from registry.files.adapter import CONFIG, WEIGHTS, tensor_name
from registry.tracking.adapters import RegisteredAdapter, download_adapter, record_full_model
from registry.tracking.folders import weights_digest
from registry.tracking.names import Kind, Tag
from registry.tracking.runs import recorded
from registry.tracking.store import experiment_id, open_store
from registry.tracking.verification import AdapterRecord, check_folder, verify, verify_as_found, version_record
from tests.tracking.test_adapters import NAME, registered

METADATA = {"base": {"name": "tiny"}, "source": "kind/en"}


@dataclass
class Stored:
    """A copy of a registered adapter's folder, and what is on record of it."""

    folder: Path
    recorded: AdapterRecord

    def aged(self) -> Stored:
        """Leave on record what versions of before there was a digest over all files have."""
        own = {tag: value for tag, value in self.recorded.tags.items() if tag != Tag.FILES_DIGEST}
        digests = (Tag.DIGEST, Tag.FILES_DIGEST)
        of_run = {tag: value for tag, value in self.recorded.run_tags.items() if tag not in digests}
        self.recorded = replace(self.recorded, tags=own, run_tags=of_run)
        return self

    def foreign(self) -> Stored:
        """Record the digest of the weights that lie there now, as one would who registers what others made."""
        tags = self.aged().recorded.tags
        self.recorded = replace(self.recorded, tags={**tags, Tag.DIGEST: weights_digest(self.folder)})
        return self

    def configure(self, **values: object) -> None:
        file = self.folder / CONFIG
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    def describe(self, change: Callable[[dict[str, Any]], object]) -> None:
        file = self.folder / "MLmodel"
        content = yaml.safe_load(file.read_text())
        change(content)
        file.write_text(yaml.safe_dump(content))

    def reason(self) -> str:
        with pytest.raises(Refused) as refused:
            verify(self.folder, self.recorded)
        text = str(refused.value)
        assert text.startswith(f"models:/{NAME}/1: ")
        assert str(self.folder) not in text
        assert "train it again" not in text
        return text


@pytest.fixture(scope="module")
def once(new_store, tmp_path_factory) -> tuple[MlflowClient, Path, AdapterRecord]:
    """One registered adapter: its store, the folder it was made in, and what is on record."""
    client, folder = open_store(new_store()), tmp_path_factory.mktemp("made") / "adapter"
    registered(client, folder)
    return client, folder, version_record(client, NAME, "1")


@pytest.fixture
def stored(once, tmp_path: Path) -> Stored:
    """A copy of it that a test may spoil."""
    shutil.copytree(once[1], tmp_path / "adapter")
    return Stored(tmp_path / "adapter", once[2])


@pytest.fixture
def made(client: MlflowClient, uri: str, tmp_path: Path) -> tuple[RegisteredAdapter, Path]:
    """An adapter registered in an empty store, and the folder that it is stored in."""
    adapter = registered(client, tmp_path / "made")
    (weights,) = (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").rglob(WEIGHTS)
    return adapter, weights.parent


def test_run_version_and_model_have_the_digests_of_weights_and_of_all_files(once) -> None:
    client, folder, found = once
    (model,) = client.search_logged_models([client.get_experiment_by_name("small").experiment_id])
    for tag in (Tag.DIGEST, Tag.FILES_DIGEST):
        assert found.tags[tag] == found.run_tags[tag] == model.tags[tag]
        assert len(found.tags[tag]) == 64
    assert found.tags[Tag.DIGEST] == weights_digest(folder)
    verify(folder, found)


@pytest.mark.parametrize("name", [CONFIG, "MLmodel", "conda.yaml"])
def test_any_file_that_was_changed_is_refused(stored: Stored, name: str) -> None:
    with (stored.folder / name).open("a") as file:
        file.write(" \n")
    assert "its files have SHA-256" in stored.reason()


@pytest.mark.parametrize("name", ["conda.yaml", "README.md"])
def test_a_file_that_came_or_went_is_refused(stored: Stored, name: str) -> None:
    if (stored.folder / name).exists():
        (stored.folder / name).unlink()
    else:
        (stored.folder / name).write_text("# Better")
    assert "its files have SHA-256" in stored.reason()


def test_a_version_of_before_the_digest_over_all_files_is_accepted(stored: Stored) -> None:
    verify(stored.folder, stored.aged().recorded)


FOREIGN: dict[str, object] = {
    "auto_mapping": {"base_model_class": "Popen", "parent_library": "subprocess"},
    "base_model_name_or_path": "/home/eve/base",
    "modules_to_save": ["lm_head"],
    "use_dora": True,
    "use_rslora": True,
    "lora_alpha": 1600.0,
    "lora_dropout": 0.5,
    "r": 8,
    "target_modules": ["q_proj", "v_proj"],
    "rank_pattern": {"q_proj": 1},
    "alpha_pattern": {"q_proj": 99},
    "bias": "all",
    "init_lora_weights": "eva",
    "layers_to_transform": [0],
    "trainable_token_indices": [1],
    "peft_type": "IA3",
    "task_type": "SEQ_CLS",
    "revision": "0123abc",
    "of_the_year_2031": {"import": "os"},
}


@pytest.mark.parametrize("key", FOREIGN)
def test_an_old_versions_configuration_that_says_something_else_is_refused(stored: Stored, key: str) -> None:
    stored.aged().configure(**{key: FOREIGN[key]})
    told = "base" if key.startswith("base") else key
    assert f"{CONFIG} " in stored.reason()
    assert told in stored.reason()


@pytest.mark.parametrize(
    "base", ["../other", "~/base", "C:\\base", "https://example.org/base", "owner/other", "", 5, ["tiny"], "a\nb"]
)
def test_a_base_that_is_another_or_a_place_is_refused(stored: Stored, base: object) -> None:
    stored.aged().configure(base_model_name_or_path=base)
    assert "base" in stored.reason()


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "NaN", '"text"', "{}", "[" * 100_000, "\x00", '{"r": 1e999}', " " * 2_000_000,
        '{"r": NaN}', "9" * 10_000,
    ],
    ids=lambda text: text[:12].encode("unicode_escape").decode(),
)  # fmt: skip
def test_a_configuration_that_is_none_is_refused(stored: Stored, text: str) -> None:
    (stored.aged().folder / CONFIG).write_text(text)
    assert CONFIG in stored.reason()


@pytest.mark.parametrize(
    ("key", "value"),
    [("r", "2"), ("r", True), ("r", 2.0), ("r", None), ("r", -2), ("lora_alpha", "4"), ("lora_alpha", {}),
     ("lora_dropout", "0"), ("target_modules", "q_proj"), ("target_modules", []), ("target_modules", [1]),
     ("target_modules", {"q_proj": 1}), ("revision", 5), ("target_modules", ["q_proj\n"])],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(stored: Stored, key: str, value: object) -> None:
    stored.aged().configure(**{key: value})
    assert key in stored.reason()


def header(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[:-3],
    "half": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "a huge header": lambda content: header(content[8:], 2**60),
    "a header of no JSON": lambda _: header(b"{{{{"),
    "a pickle": lambda _: pickle.dumps({"weight": 1}),
    "overlapping": lambda _: header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,99]}}') + bytes(4),
    "no tensors": lambda _: header(b"{}"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_weights_that_are_malformed_are_refused(stored: Stored, how: str) -> None:
    file = stored.folder / WEIGHTS
    file.write_bytes(BROKEN[how](file.read_bytes()))
    assert "its weights have SHA-256" in stored.reason()
    assert WEIGHTS in stored.foreign().reason()


@pytest.mark.parametrize(
    "tensors",
    [
        {tensor_name("q_proj", "A"): (2, 2)},
        {tensor_name("q_proj", "A"): (3, 2), tensor_name("q_proj", "B"): (2, 3)},
        {tensor_name("q_proj", "A"): (2, 2), tensor_name("q_proj", "B"): (2, 2, 1)},
        {tensor_name("q_proj", "A"): (2, 0), tensor_name("q_proj", "B"): (2, 2)},
        {tensor_name("v_proj", "A"): (2, 2), tensor_name("v_proj", "B"): (2, 2)},
        {tensor_name("q_proj", letter): (2, 2) for letter in "AB"} | {"base_model.model.lm_head.weight": (2, 2)},
        {tensor_name("q_proj", letter): (2, 2) for letter in "AB"}
        | {"base_model.model.q_proj.lora_magnitude_vector.weight": (2,)},
    ],
    ids=["one factor", "another rank", "three dimensions", "empty", "another module", "a whole module", "DoRA"],
)
def test_weights_of_another_shape_are_refused(stored: Stored, tensors: dict[str, tuple[int, ...]]) -> None:
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, stored.folder / WEIGHTS)
    assert WEIGHTS in stored.foreign().reason()


@pytest.mark.parametrize(
    "name", ["run.py", "adapter_model.bin", "model.pkl", "code/evil.py", ".hidden", "tokenizer.json"]
)
def test_a_file_that_no_study_writes_is_refused(stored: Stored, name: str) -> None:
    (stored.aged().folder / name).parent.mkdir(exist_ok=True)
    (stored.folder / name).write_text("import os")
    assert f"{name!r} in its folder is no file that a study writes" in stored.reason()


@pytest.mark.parametrize("target", ["/etc/hostname", "/etc", "/nowhere", "../.."])
def test_a_link_is_refused_and_not_followed(client, made, tmp_path: Path, target: str) -> None:
    adapter, folder = made
    (folder / "README.md").symlink_to(target)
    with pytest.raises(Refused, match=rf"models:/{NAME}/1: README.md in its folder is a link"):
        download_adapter(client, adapter, tmp_path / "found")
    assert not (tmp_path / "found").exists()


def test_a_link_in_a_downloaded_folder_is_refused(stored: Stored) -> None:
    (stored.aged().folder / "README.md").symlink_to("/etc/hostname")
    assert "README.md is no plain file" in stored.reason()


LOADERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "another loader": lambda content: content["flavors"]["python_function"].update(loader_module="evil"),
    "code": lambda content: content["flavors"]["python_function"].update(code="code"),
    "a pickled model": lambda content: content["flavors"]["python_function"].update(python_model="model.pkl"),
    "a model from code": lambda content: content["flavors"]["python_function"].update(model_code_path="m.py"),
    "data": lambda content: content["flavors"]["python_function"].update(data="d"),
    "another flavour": lambda content: content["flavors"].update(sklearn={"pickled_model": "model.pkl"}),
    "a full fine-tune's": lambda content: content["flavors"]["python_function"].update(
        loader_module="registry.serving_full"
    ),
}


@pytest.mark.parametrize("how", LOADERS)
def test_a_foreign_loader_is_refused(stored: Stored, how: str) -> None:
    stored.aged().describe(LOADERS[how])
    assert "MLmodel names foreign code to load it with" in stored.reason()
    with pytest.raises(Refused, match="foreign code"):
        check_folder(stored.folder)


@pytest.mark.parametrize(
    ("key", "value"), [("precision", "bf16"), ("source", "kind/tr"), ("base", {"name": "other"}), ("base", "tiny")]
)
def test_a_description_that_says_something_else_than_the_run_is_refused(
    stored: Stored, key: str, value: object
) -> None:
    stored.aged().describe(lambda content: content["metadata"].update({key: value}))
    assert f"MLmodel {'names no base' if value == 'tiny' else f'says {key}'}" in stored.reason()


@pytest.mark.parametrize("text", ["", "- a", "a: [", "flavors: 5", "metadata: {}", "flavors: {python_function: {}}"])
def test_a_description_that_is_none_is_refused(stored: Stored, text: str) -> None:
    (stored.aged().folder / "MLmodel").write_text(text)
    assert "MLmodel" in stored.reason()


@pytest.mark.parametrize("tag", [Tag.DIGEST, Tag.FILES_DIGEST, Tag.BASE_MODEL, Tag.SEED])
def test_a_version_and_its_run_must_say_the_same(stored: Stored, tag: str) -> None:
    of_run = {**stored.recorded.run_tags, tag: "0" * 64}
    stored.recorded = replace(stored.recorded, run_tags=of_run)
    with pytest.raises(Refused, match=rf"models:/{NAME}/1 has the tag {tag}: .*training run 0000"):
        verify(stored.folder, stored.recorded)


def test_a_version_made_of_another_folder_in_the_name_of_a_genuine_run_is_refused(client, made, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made[1], copy)
    save_file({tensor_name("q_proj", letter): torch.ones(2, 2) for letter in "AB"}, copy / WEIGHTS)
    version = client.get_model_version(NAME, "1")
    tags = version.tags | {Tag.DIGEST: weights_digest(copy)}
    client.create_model_version(NAME, source=str(copy), run_id=version.run_id, tags=tags)
    with pytest.raises(Refused, match=f"models:/{NAME}/2 has the tag {Tag.DIGEST}"):
        download_adapter(client, RegisteredAdapter(NAME, "2", ""), tmp_path / "found")


def test_a_version_and_its_training_run_must_name_each_other(client, made, tmp_path: Path) -> None:
    adapter, folder = made
    version = client.get_model_version(NAME, "1")
    client.create_model_version(NAME, source=str(folder), tags=version.tags)
    with pytest.raises(Refused, match="names no training run"):
        download_adapter(client, RegisteredAdapter(NAME, "2", ""), tmp_path / "found")
    other = client.create_run(experiment_id(client, "small"))
    client.create_model_version(NAME, source=str(folder), run_id=other.info.run_id, tags=version.tags)
    with pytest.raises(Refused, match=f"run {other.info.run_id}, which it names, trained nothing"):
        download_adapter(client, RegisteredAdapter(NAME, "3", ""), tmp_path / "found")
    with pytest.raises(Refused, match=f"run {other.info.run_id} names models:/{NAME}/1, which run {version.run_id}"):
        download_adapter(client, adapter, tmp_path / "found", run=other)


def test_a_full_fine_tune_is_held_against_its_run_too(client: MlflowClient, uri: str, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    save_file({"w": torch.ones(2)}, tmp_path / "made" / "model.safetensors")
    (tmp_path / "made" / "config.json").write_text("{}")
    tags = {Tag.BASE_MODEL: "tiny", Tag.SOURCE_TASK: "kind", Tag.SOURCE_LANGUAGE: "en"}
    with recorded(client, experiment_id(client, "s"), kind=Kind.FINETUNE, name="x", tags=tags) as recording:
        model = record_full_model(recording, tmp_path / "made", name=NAME, tags=tags, metadata=METADATA, description="")
    run = client.get_run(recording.run_id)
    assert download_adapter(client, model, tmp_path / "found").is_dir()
    (config,) = (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").rglob("config.json")
    config.write_text('{"auto_map": {"AutoModelForCausalLM": "evil.Model"}}')
    with pytest.raises(Refused, match=f"models:/{model.model_id}: its files have SHA-256"):
        download_adapter(client, model, tmp_path / "found", run=run)
    for tag in (Tag.DIGEST, Tag.FILES_DIGEST):
        client.delete_tag(run.info.run_id, tag)
    client.delete_logged_model_tag(model.model_id, Tag.FILES_DIGEST)
    verify_as_found(config.parent, client, full=True)
    (config.parent / "evil.py").write_text("import os")
    with pytest.raises(Refused, match=r"'evil\.py' in its folder is no file that a study writes"):
        verify_as_found(config.parent, client, full=True)
    with pytest.raises(Refused, match=r"'evil\.py' in its folder is no file that a study writes"):
        download_adapter(client, model, tmp_path / "found")


def test_a_folder_is_held_against_the_model_that_it_names_where_that_is_known(
    once, stored: Stored, client: MlflowClient
) -> None:
    verify_as_found(stored.folder, once[0])
    verify_as_found(stored.folder, client)  # another store, which knows nothing of it
    with (stored.folder / "conda.yaml").open("a") as file:
        file.write("- evil\n")
    verify_as_found(stored.folder, client)
    with pytest.raises(Refused, match="its files have SHA-256"):
        verify_as_found(stored.folder, once[0])


def test_a_folder_alone_is_checked_as_far_as_it_tells(stored: Stored) -> None:
    check_folder(stored.folder)
    (stored.folder / "more.py").write_text("")
    with pytest.raises(Refused, match=r"more\.py"):
        check_folder(stored.folder)
