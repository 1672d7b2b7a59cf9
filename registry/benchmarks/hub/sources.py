"""Where the four published benchmarks lie on the hub: data sets, pinned revisions, configurations and splits.

They are those of "Donors and Recipients" (arXiv 2511.13368). ARC, HellaSwag and TruthfulQA are machine translations,
CC BY-NC 4.0; Global-MMLU-Lite was translated by people, Apache-2.0.
"""

from __future__ import annotations

from dataclasses import dataclass

from registry.benchmarks.splits import Split
from registry.cells import Cell

__all__ = ["HUB_LANGUAGES", "HUB_TASKS", "NUMBERED", "ONE_POOL", "HubDataset", "source_of"]

HUB_LANGUAGES = ("ar", "bn", "de", "en", "es", "fr", "hi", "id", "it", "pt", "zh")


@dataclass(frozen=True, slots=True)
class HubDataset:
    """One data set of the hub at one commit, and the splits of it that a study trains on and tests on.

    ``config`` is the configuration that holds the language; None is the data set's only one.
    """

    repository: str
    revision: str
    config: str | None
    train: str
    test: str

    def split(self, split: Split) -> str:
        """Return the data set's name of a study's split."""
        return self.train if split == "train" else self.test

    def __str__(self) -> str:
        return f"{self.repository}{f' ({self.config})' if self.config else ''} at {self.revision[:8]}"


# Task → (repository, commit, split to train on, split to test on).
_TASKS = {
    "arc_challenge": ("alexandrainst/m_arc", "69b0991ee606079105c4f9e271bcc1fef0014e03", "train", "test"),
    "global_mmlu": ("CohereLabs/Global-MMLU-Lite", "36c2fd756f19ccf13a9a96c8e53ccecc02192b8b", "dev", "test"),
    "hellaswag": ("alexandrainst/m_hellaswag", "9d31dc982bd6285e081e3e3136332a38b9c1d7b7", "val", "val"),
    "truthfulqa": ("alexandrainst/m_truthfulqa", "f0445d470f1925882b990f5f247fdcf288972f60", "val", "val"),
}
# The two languages that these data sets lack come from others.
_ELSEWHERE = {
    Cell("hellaswag", "zh"): HubDataset(
        "richmondsin/m_hellaswag", "8d9642f16ae3031f7eddc3e3531b6ae58686d81a", "zh", "val", "val"
    ),
    Cell("truthfulqa", "en"): HubDataset(
        "Dr4kl3s/truthfulqa_en_aligned", "7332da38d96e69b5d6f2502cd45db3fe011b2f19", None, "validation", "validation"
    ),
}

HUB_TASKS = tuple(_TASKS)

#: Tasks whose splits are both drawn from one split of the data set.
ONE_POOL = frozenset(task for task, (_, _, train, test) in _TASKS.items() if train == test)

#: Tasks whose rows have no id: a row's number takes its place, as in the published study.
NUMBERED = frozenset({"truthfulqa"})


def source_of(cell: Cell) -> HubDataset:
    """Return the data set that a cell's items come from."""
    repository, revision, train, test = _TASKS[cell.task]
    return _ELSEWHERE.get(cell) or HubDataset(repository, revision, cell.language, train, test)
