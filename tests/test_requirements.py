"""The lock files: they hold what conda.yaml and pyproject.toml pin, with hashes, whole and without any address."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from registry.paths import PROJECT
from requirements import pins

FOLDER = PROJECT / "requirements"
FILES = sorted(FOLDER.glob("*.txt"))

#: Platforms that a lock file is for.
PLATFORMS = [
    {"sys_platform": system, "platform_system": name, "platform_machine": machine, "os_name": "posix"}
    | {"python_version": python, "python_full_version": f"{python}.0"}
    for system, name in (("linux", "Linux"), ("darwin", "Darwin"))
    for machine in ("x86_64", "aarch64" if system == "linux" else "arm64")
    for python in ("3.11", "3.12", "3.13")
]


def locked(file: Path) -> list[Requirement]:
    blocks = pins.blocks(file.read_text(encoding="utf-8"))
    return [Requirement(block.partition(" \\")[0]) for block in blocks]


def at_run_time(extra: str) -> list[Requirement]:
    """What is installed where an extra's lock file is, with the file of the run time below it."""
    below = [] if extra in pins.APART or extra == "run-time" else locked(FOLDER / "run-time.txt")
    return [*below, *locked(FOLDER / f"{extra}.txt")]


def test_there_is_a_file_for_the_run_time_and_each_extra() -> None:
    assert {file.stem for file in FILES} == {"run-time", *pins.extras()}


@pytest.mark.parametrize("name", ["run-time", *pins.extras()])
def test_every_pin_is_in_its_lock_file(name: str) -> None:
    direct = pins.run_time_pins() if name == "run-time" else pins.extras()[name]
    wanted = {canonicalize_name(pin.name): str(pin.specifier) for pin in map(Requirement, direct)}
    found = {canonicalize_name(one.name): str(one.specifier) for one in at_run_time(name)}
    assert wanted.pop("torch", None) == (None if name != "run-time" else f"=={TORCH}")
    assert {key: found.get(key) for key in wanted} == wanted


TORCH = next(pin for pin in pins.run_time_pins() if pin.startswith("torch==")).removeprefix("torch==")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_line_is_a_pin_a_hash_or_a_comment(file: Path) -> None:
    line = re.compile(r"#.*|[a-z0-9.-]+==[^\s;]+( ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
    assert [text for text in file.read_text(encoding="utf-8").splitlines() if not line.fullmatch(text)] == []


@pytest.mark.parametrize("name", ["run-time", *pins.extras()])
def test_a_platform_gets_each_package_in_one_version(name: str) -> None:
    for platform in PLATFORMS:
        environment = default_environment() | platform
        versions: dict[str, set[str]] = {}
        for one in at_run_time(name):
            if one.marker is None or one.marker.evaluate(environment):
                versions.setdefault(canonicalize_name(one.name), set()).add(str(one.specifier))
        assert {key: found for key, found in versions.items() if len(found) > 1} == {}, platform


@pytest.mark.parametrize("name", ["run-time", "test", "lint"])
def test_what_the_packages_themselves_need_is_locked(name: str) -> None:
    """They are installed without looking for dependencies, so none may be missing."""
    there = {canonicalize_name(one.name) for one in at_run_time(name)}
    missing = {}
    for one in at_run_time(name):
        try:
            needs = metadata.requires(one.name) or []
        except metadata.PackageNotFoundError:  # of another platform, or an extra that is not installed
            continue
        needed = [Requirement(need) for need in needs]
        names = {
            canonicalize_name(need.name)
            for need in needed
            if need.marker is None or need.marker.evaluate({"extra": ""})
        }
        if left := {need for need in names - there if not pins.UNLOCKED.fullmatch(need)}:
            missing[one.name] = left
    assert missing == {}


def test_pyproject_declares_what_conda_yaml_pins() -> None:
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert sorted(declared) == sorted(pins.run_time_pins())


def test_everything_that_is_imported_is_declared() -> None:
    """Directly, and not as a dependency of something else; what an extra is for comes with that extra."""
    optional = {canonicalize_name(Requirement(pin).name) for found in pins.extras().values() for pin in found}
    listed = {canonicalize_name(Requirement(pin).name) for pin in pins.run_time_pins()} | optional
    installed = metadata.packages_distributions()
    undeclared = {
        (file.relative_to(PROJECT).as_posix(), module)
        for part in ("analysis", "entrypoints", "registry")
        for file in (PROJECT / part).rglob("*.py")
        for module in imported_modules(file) - {"analysis", "entrypoints", "registry"} - sys.stdlib_module_names
        if not listed & {canonicalize_name(name) for name in installed.get(module, [module])}
    }
    assert undeclared == set()


def imported_modules(file: Path) -> set[str]:
    """Top-level modules that a file imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.partition(".")[0] for name in names}


def test_a_pin_is_raised_wherever_it_stands() -> None:
    text = 'test = ["lm_eval==0.4.13", "psycopg[binary]==3.3.9"]\n      - tqdm==4.70.1\n'
    raised = pins.with_versions(text, {"lm-eval": "0.5", "psycopg": "3.4", "tqdm": "4.70.1"})
    assert raised == 'test = ["lm_eval==0.5", "psycopg[binary]==3.4"]\n      - tqdm==4.70.1\n'
