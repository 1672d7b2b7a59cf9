"""Licences of what an adapter is made from, as far as they are known: bases by family, training data by benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from registry.benchmarks.hub.sources import HUB_LANGUAGES, HUB_TASKS, source_of
from registry.cells import Cell

__all__ = ["Licence", "adapter_licence", "base_licence", "data_licence"]


@dataclass(frozen=True, slots=True)
class Licence:
    """A licence.

    Attributes
    ----------
    id : str
        As the hub's model cards write it; empty where it is not known.
    name : str
        As people write it, or where to look.
    data_sets : tuple of str
        Of data: the hub's data sets it was taken from.
    """

    id: str
    name: str
    data_sets: tuple[str, ...] = ()


_APACHE = Licence("apache-2.0", "Apache-2.0")

# What a base's name begins with → its licence, the longer beginnings first. As the models' own cards say.
_BASES = (
    ("meta-llama/Llama-3.1", Licence("llama3.1", "Llama 3.1 Community License")),
    ("meta-llama/Llama-3.2", Licence("llama3.2", "Llama 3.2 Community License")),
    ("Qwen/Qwen2.5-3B", Licence("qwen-research", "Qwen Research License")),
    ("Qwen/Qwen2.5-72B", Licence("qwen", "Qwen License")),
    ("Qwen/Qwen2.5", _APACHE),
    ("google/gemma-3", Licence("gemma", "Gemma Terms of Use")),
    ("demo-", _APACHE),
)

# Who published a data set → its licence.
_DATA = {
    "CohereLabs": _APACHE,
    "alexandrainst": Licence("cc-by-nc-4.0", "CC BY-NC 4.0"),
    "richmondsin": Licence("cc-by-nc-4.0", "CC BY-NC 4.0"),
}


def base_licence(name: str) -> Licence:
    """Return the licence of a base, where its family's is known."""
    for beginning, licence in _BASES:
        if name.startswith(beginning):
            return licence
    return Licence("", "see the base model")


def data_licence(benchmark: str, source: Cell) -> Licence:
    """Return the licence of the items of a source cell.

    Parameters
    ----------
    benchmark
        Kind of the study's benchmark: ``demo``, ``hub`` or ``files``.
    """
    if benchmark == "demo":
        return _APACHE
    if benchmark != "hub" or source.task not in HUB_TASKS or source.language not in HUB_LANGUAGES:
        return Licence("", "see the data that the study names")
    repository = source_of(source).repository
    known = _DATA.get(repository.partition("/")[0], Licence("", "see the data set's page"))
    return Licence(known.id, known.name, (repository,))


def adapter_licence(base: Licence, data: Licence) -> tuple[str, str]:
    """Return what an adapter's card says as ``license`` and, where that is ``other``, as ``license_name``.

    An adapter is made from both, so one of the two speaks for it only where the other is as permissive as Apache-2.0.
    """
    if base.id == _APACHE.id and data.id:
        return data.id, ""
    if data.id == _APACHE.id and base.id:
        return ("other", base.id) if base.id in ("qwen", "qwen-research") else (base.id, "")
    return "other", "see-base-and-data"
