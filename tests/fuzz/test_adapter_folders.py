"""A hostile adapter folder is refused with words or read as numbers: no code runs, no file beside it is touched."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from registry.benchmarks.prompts import PROMPTS
from registry.config.study import LoraSpec
from registry.errors import Refused
from registry.lora.adapter import Adapter, fresh_adapter, read_adapter, save_adapter
from registry.serving.metadata import AdapterMetadata, read_metadata
from tests.fuzz.conftest import tried
from tests.fuzz.hostile import BROKEN_YAML, NAMES, bent, broken, document

MLMODEL: dict[str, Any] = {
    "flavors": {"python_function": {"loader_module": "registry.serving"}},
    "metadata": {
        "base": {"name": "tiny", "reference": "tiny", "revision": "sha256:0"}, "source": "kind/en",
        "prompt": asdict(next(iter(PROMPTS.values()))), "chat_template": False, "precision": "fp32",
        "quantization": None,
    },
}  # fmt: skip


class Bomb:
    """What unpickling would run."""

    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('code ran')",))


@pytest.fixture(scope="module")
def whole(make_llama, tmp_path_factory) -> dict[str, bytes]:
    """The files of a good adapter."""
    folder = tmp_path_factory.mktemp("adapter")
    spec = LoraSpec(rank=2, alpha=4, targets=("q_proj", "v_proj"))
    save_adapter(fresh_adapter(make_llama(), spec, seed=0), folder, base_reference="tiny", base_revision=None)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        assert isinstance(read_adapter(folder), Adapter)
    except Refused as error:
        assert str(error).strip()
        assert len(str(error)) < 10_000


def test_the_whole_folder_is_read(tmp_path: Path, whole: dict[str, bytes]) -> None:
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)
    assert len(read_adapter(tmp_path).weights) == 4


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_under_the_name_of_weights_is_never_unpickled(watched: Path, whole: dict[str, bytes], protocol: int):
    bomb = pickle.dumps(Bomb(), protocol=protocol)
    for name in ("adapter_model.bin", "training_args.bin"):
        (watched / name).write_bytes(bomb)
    read(watched, whole)
    (watched / "adapter_model.safetensors").write_bytes(bomb)
    with pytest.raises(Refused):
        read_adapter(watched)


@st.composite
def folders(draw: Any, whole: dict[str, bytes]) -> dict[str, bytes]:
    """The files of an adapter, one of them hostile."""
    files = dict(whole)
    if draw(st.booleans()):
        files["adapter_model.safetensors"] = draw(broken(files["adapter_model.safetensors"]))
    elif draw(st.booleans()):
        files["adapter_config.json"] = draw(broken(files["adapter_config.json"]))
    else:
        config = draw(bent(json.loads(files["adapter_config.json"])))
        if isinstance(config, dict) and draw(st.booleans()):
            config |= {"auto_mapping": {"base_model_class": draw(NAMES), "parent_library": "os"}}
        files["adapter_config.json"] = json.dumps(config, default=str).encode("utf-8", "replace")
    return files


@tried(30)
@given(data=st.data())
def test_a_hostile_folder(watched: Path, whole: dict[str, bytes], data: st.DataObject) -> None:
    read(watched, data.draw(folders(whole)))


@pytest.mark.slow
@tried(500)
@given(data=st.data())
def test_many_hostile_folders(watched: Path, whole: dict[str, bytes], data: st.DataObject) -> None:
    read(watched, data.draw(folders(whole)))


def tell(folder: Path, text: str) -> None:
    (folder / "MLmodel").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        assert isinstance(read_metadata(folder), AdapterMetadata)
    except Refused as error:
        assert str(error).strip()


@pytest.mark.parametrize("text", BROKEN_YAML, ids=lambda text: text[:40].encode("ascii", "replace").decode())
def test_a_broken_mlmodel(watched: Path, text: str) -> None:
    tell(watched, text)


@tried(30)
@given(text=document(MLMODEL))
def test_a_hostile_mlmodel(watched: Path, text: str) -> None:
    tell(watched, text)


def test_the_whole_mlmodel_is_read(watched: Path) -> None:
    (watched / "MLmodel").write_text(yaml.safe_dump(MLMODEL))
    assert read_metadata(watched).base == "tiny"
