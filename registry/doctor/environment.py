"""The environment: Python, the packages that conda.yaml pins, the extras of pyproject.toml, and the devices."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from registry.doctor.findings import Finding, good, note, wrong
from registry.files.environment import direct_requirements
from registry.process import usable_cores

__all__ = ["check_devices", "check_environment", "pinned"]

OLDEST_PYTHON = (3, 11)

_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)")

#: Extras that a user may want, and what for; the others are for work on the project itself.
_EXTRAS = {
    "harness": "TruthfulQA's primer, and checking scores against lm-evaluation-harness",
    "quantized": "bases in 4 or 8 bits",
    "linguistic": "language distances in the report",
    "ray": "studies on a Ray cluster",
}


def check_environment() -> list[Finding]:
    """Compare what is installed with what conda.yaml pins."""
    found = [_python()]
    found += list(_packages(pinned(direct_requirements())))
    found += [_extra(name, purpose, pinned(direct_requirements(name))) for name, purpose in _EXTRAS.items()]
    return found


def check_devices() -> list[Finding]:
    """Say what there is to compute with."""
    import psutil
    import torch

    memory = psutil.virtual_memory()
    cores = usable_cores()
    found = [
        good(
            f"{cores} CPU cores, {torch.get_num_threads()} threads per process by default, "
            f"{memory.total / 1e9:.1f} GB memory ({memory.available / 1e9:.1f} GB free)"
        )
    ]
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads and threads.isdecimal() and int(threads) > cores:
        found.append(wrong(f"OMP_NUM_THREADS is {threads}, there are {cores} cores", f"export OMP_NUM_THREADS={cores}"))
    return [*found, *_gpus()]


def pinned(requirements: Sequence[str]) -> dict[str, str]:
    """Return name → version of requirements written ``name==version``."""
    matches = (_PIN.match(requirement) for requirement in requirements)
    return {match["name"]: match["version"] for match in matches if match}


def _python() -> Finding:
    here = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        return wrong(f"Python {here}; 3.11 or newer is needed", "make setup PYTHON=python3.11")
    return good(f"Python {here} ({sys.prefix})")


def _packages(wanted: Mapping[str, str]) -> Iterator[Finding]:
    differing = {name: (installed(name), pin) for name, pin in wanted.items() if not _fits(installed(name), pin)}
    if not differing:
        yield good(f"{len(wanted)} packages, each as conda.yaml pins it")
        return
    command = "python -m pip install " + " ".join(shlex.quote(f"{name}=={pin}") for name, (_, pin) in differing.items())
    places = [f"{name} is {here or 'not installed'}, pinned is {pin}" for name, (here, pin) in differing.items()]
    yield wrong(f"{len(differing)} of {len(wanted)} packages are not as conda.yaml pins them", command, places=places)


def installed(name: str) -> str | None:
    """Return the version of a package, None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _fits(here: str | None, pin: str) -> bool:
    # A build for one kind of device says so behind a plus sign: 2.13.0+cpu is 2.13.0.
    return here is not None and (here == pin or here.partition("+")[0] == pin)


def _extra(name: str, purpose: str, wanted: Mapping[str, str]) -> Finding:
    command = f"python -m pip install -e '.[{name}]'"
    here = {package: installed(package) for package in wanted}
    if not all(here.values()):
        return note(f"extra {name!r} is not installed, which is for {purpose}: {command}")
    differing = [f"{package} is {here[package]}, pinned is {pin}" for package, pin in wanted.items()]
    if all(_fits(here[package], pin) for package, pin in wanted.items()):
        return good(f"extra {name!r}, for {purpose}")
    return wrong(f"extra {name!r} is not as pyproject.toml pins it", command, places=differing)


def _gpus() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        yield note("no GPU: bases are trained and scored on the CPU")
        if torch.version.cuda is not None:
            yield note(
                f"PyTorch's CUDA {torch.version.cuda} build takes several GB and needs an NVIDIA GPU; the CPU build: "
                "make clean && PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make setup "
                "(with uv: UV_TORCH_BACKEND=cpu mlflow run . --env-manager uv)"
            )
        return
    for number in range(torch.cuda.device_count()):
        try:
            free, total = torch.cuda.mem_get_info(number)
        except RuntimeError as error:
            yield wrong(f"GPU {number} does not answer: {str(error).splitlines()[0]}", "nvidia-smi")
            continue
        name = torch.cuda.get_device_name(number)
        yield good(f"GPU {number}: {name}, {total / 1e9:.0f} GB memory ({free / 1e9:.0f} GB free)")
