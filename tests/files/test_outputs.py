"""What a command writes: all of it or nothing, its own files alone, and never one of somebody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.errors import Refused
from registry.files import outputs
from registry.files.outputs import MANIFEST, staged
from tests.kill_at_write import Fault, run_with_fault

FOREIGN = {".env": "SECRET=1", ".ssh/id_rsa": "a key", "notes/today.txt": "mine"}


def write(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def put(output: Path, texts: dict[str, str], command: str = "analyze", **given: object) -> None:
    with staged(output, command, **given) as staging:
        write(staging.folder, texts)


def told(folder: Path) -> dict[str, str]:
    """Files of a folder that are no command's own memory."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST
    }


OLD, NEW = {"a.csv": "1", "figures/x.svg": "old"}, {"a.csv": "2", "tables/b.csv": "new"}


@pytest.mark.parametrize("foreign", [{}, FOREIGN], ids=["alone", "among others' files"])
def test_new_files_take_the_place_of_former_ones_and_no_others(tmp_path, foreign: dict[str, str]) -> None:
    output = tmp_path / "out"
    write(output, foreign)
    inodes = {name: (output / name).stat().st_ino for name in foreign}
    put(output, OLD)
    assert told(output) == OLD | foreign
    put(output, NEW)
    assert told(output) == NEW | foreign
    assert {name: (output / name).stat().st_ino for name in foreign} == inodes
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_commands_share_a_folder(tmp_path) -> None:
    put(tmp_path / "out", OLD)
    put(tmp_path / "out", {"recommend.csv": "r"}, "recommend")
    put(tmp_path / "out", NEW)
    assert told(tmp_path / "out") == NEW | {"recommend.csv": "r"}


@pytest.mark.parametrize("foreign", ["a.csv", "tables", "a.csv/inside"])
def test_what_stands_in_the_way_and_is_not_ours_stays(tmp_path, foreign: str) -> None:
    output = tmp_path / "out"
    write(output, {foreign: "mine", "other": "theirs"})
    with pytest.raises(Refused, match=r"-P output="):
        put(output, NEW)
    assert told(output) == {foreign: "mine", "other": "theirs"}
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_files_of_a_version_that_kept_no_list_are_replaced(tmp_path) -> None:
    write(tmp_path / "out", OLD)
    put(tmp_path / "out", NEW, is_former=lambda file: file.name == "a.csv")
    assert told(tmp_path / "out") == NEW | {"figures/x.svg": "old"}


def test_an_error_leaves_the_folder_as_it_was(tmp_path) -> None:
    put(tmp_path / "out", OLD)
    with pytest.raises(ValueError, match="halfway"), staged(tmp_path / "out", "analyze") as staging:
        write(staging.folder, NEW)
        raise ValueError("halfway")
    assert told(tmp_path / "out") == OLD
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("how", ["cannot exchange", "is the current folder"])
def test_a_folder_that_cannot_be_exchanged_is_filled(tmp_path, monkeypatch, how: str) -> None:
    put(tmp_path / "out", OLD)
    if how == "cannot exchange":
        monkeypatch.setattr(outputs.ctypes, "CDLL", lambda *_, **__: object())
    else:
        monkeypatch.chdir(tmp_path / "out")
    put(tmp_path / "out", NEW)
    assert told(tmp_path / "out") == NEW


def test_a_manifest_names_nothing_outside_its_folder(tmp_path) -> None:
    write(tmp_path, {"precious": "kept", f"out/{MANIFEST}": '{"analyze": ["../precious", "/etc/passwd", "a.csv", 3]}'})
    put(tmp_path / "out", {"b.csv": "1"})
    assert (tmp_path / "precious").read_text() == "kept"


@pytest.mark.slow
@pytest.mark.parametrize("foreign", [{}, FOREIGN], ids=["alone", "among others' files"])
def test_a_kill_at_any_write_leaves_the_former_files_or_the_new_ones(tmp_path, foreign: dict[str, str]) -> None:
    for number in range(1, 60):
        output = tmp_path / str(number) / "out"
        write(output, foreign)
        put(output, OLD)
        fault = Fault("kill", number, output.parent)
        killed = run_with_fault(put, output, NEW, fault=fault, log=tmp_path / "log").killed
        found = told(output)
        if not foreign:
            whole = {name: text for name, text in found.items() if not name.startswith(".")}
            assert whole in (OLD, NEW)
        elif killed:
            complete = output / ".analyze-complete"
            assert {name: found[name] for name in foreign} == foreign
            assert (
                (complete.is_dir() and told(complete) == NEW)
                or OLD.items() <= found.items()
                or (NEW.items() <= found.items())
            )
        put(output, NEW)
        assert told(output) == NEW | foreign
        if not killed:
            break
    assert 5 < number < 59
