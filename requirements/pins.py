"""Lock files from the pins of conda.yaml and pyproject.toml, and those pins raised: ``make lock``, ``make upgrade``.

uv resolves for every platform and Python at once. PyTorch and its CUDA libraries stay out of the lock files: a version
has builds with different hashes, for CUDA, for CPUs and for macOS, and which one is right depends on the machine.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
CONDA, EXTRAS = PROJECT / "conda.yaml", PROJECT / "pyproject.toml"

#: Packages that differ from one build of PyTorch to another; installed by torch's exact pin, see ``make setup``.
UNLOCKED = re.compile(r"torch|triton|pytorch-triton.*|nvidia-.*|cuda-.*")

#: Extras that are installed into an environment of their own; their lock files are whole.
APART = {"supply"}

_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?P<extra>\[[^]]*\])?==(?P<version>[^\s;\\\"]+)")
_HEADER = """\
# Made by `make lock` from conda.yaml and pyproject.toml; do not edit.
# PyTorch is not listed: `make setup` installs it by its exact pin in conda.yaml, in the build that fits the machine.
"""


def run_time_pins() -> list[str]:
    """Return conda.yaml's pip list, the project's direct dependencies; pyproject.toml declares the same."""
    lines = CONDA.read_text(encoding="utf-8").partition("- pip:\n")[2].splitlines()
    return [line.strip().removeprefix("- ") for line in lines if line.strip().startswith("- ")]


def extras() -> dict[str, list[str]]:
    """Return the extras of pyproject.toml with their pins."""
    found: dict[str, list[str]] = tomllib.loads(EXTRAS.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return found


def lock() -> None:
    """Write ``requirements/run-time.txt`` and, with what it lacks, a file for each extra.

    All are resolved together first, so that any extras can be installed side by side.
    """
    every = [*run_time_pins(), *(pin for pins in extras().values() for pin in pins)]
    with tempfile.TemporaryDirectory() as name:
        together = Path(name) / "together.txt"
        together.write_text(_resolved(every, hashes=False), encoding="utf-8")
        run_time = list(blocks(_resolved(run_time_pins(), constraint=together)))
        _write("run-time", run_time)
        everywhere = {_pin_of(block) for block in run_time if " ; " not in block}
        for extra, pins in extras().items():
            found = blocks(_resolved(pins, constraint=together))
            _write(extra, [block for block in found if extra in APART or _pin_of(block) not in everywhere])


def blocks(text: str) -> Iterator[str]:
    """Yield the requirements of a lock file, each with its marker and hashes."""
    for block in re.split(r"\n(?=\S)", text):
        if _PIN.match(block):
            yield block.rstrip()


def name_of(block: str) -> str:
    """Return the name of a requirement of a lock file, as PEP 503 normalises it."""
    found = _PIN.match(block)
    assert found is not None, block
    return re.sub(r"[-_.]+", "-", found["name"]).lower()


def _pin_of(block: str) -> str:
    return block.split(maxsplit=1)[0]


def raise_pins() -> None:
    """Raise every direct pin to the newest version with which all of them, extras included, can be installed."""
    direct = [*run_time_pins(), *(pin for pins in extras().values() for pin in pins)]
    newest: dict[str, str] = {}
    for block in blocks(_resolved(sorted({pin.partition("==")[0] for pin in direct}), hashes=False)):
        name, version = name_of(block), block.partition("==")[2].split()[0]
        # Where Pythons differ in the newest version they have, the oldest of these suits all of them.
        newest[name] = min(newest.get(name, version), version, key=_ordered)
    for path in (CONDA, EXTRAS):
        path.write_text(with_versions(path.read_text(encoding="utf-8"), newest), encoding="utf-8")


def with_versions(text: str, newest: Mapping[str, str]) -> str:
    """Return a text with the pins in it at other versions, by normalised name; prints those that change."""
    return _PIN.sub(lambda pin: _raised(pin, newest), text)


def _raised(pin: re.Match[str], newest: Mapping[str, str]) -> str:
    name, version = pin["name"], newest.get(name_of(pin[0]), pin["version"])
    if version != pin["version"]:
        print(f"{name} {pin['version']} -> {version}")
    return f"{name}{pin['extra'] or ''}=={version}"


def _ordered(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _resolved(requirements: Iterable[str], *, constraint: Path | None = None, hashes: bool = True) -> str:
    """Resolve requirements for every platform that they have wheels or sources for, with uv."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--universal", "--python-version", "3.11"]
    command += ["--no-annotate", "--no-header", "--quiet", *(["--generate-hashes"] if hashes else [])]
    command += ["--constraint", str(constraint)] if constraint else []
    done = subprocess.run(command, input="\n".join(requirements), text=True, capture_output=True, cwd=PROJECT)
    if done.returncode:
        sys.exit(f"uv cannot resolve these pins together; nothing was written:\n{done.stderr.strip()}")
    return done.stdout


def _write(name: str, found: Iterable[str]) -> None:
    text = "\n".join(sorted(block for block in found if not UNLOCKED.fullmatch(name_of(block))))
    (PROJECT / "requirements" / f"{name}.txt").write_text(f"{_HEADER}{text}\n", encoding="utf-8")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=["lock", "raise"])
    if arguments.parse_args().what == "raise":
        raise_pins()
    lock()
