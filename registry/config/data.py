"""Where a study's items come from and how many of them it takes: the ``benchmark`` and ``split`` of a study file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import Field, PlainValidator, TypeAdapter
from pydantic.dataclasses import dataclass

from registry.config.types import STRICT, Headline, Name, Quoting

__all__ = ["BenchmarkSpec", "FilesTask", "SplitSpec"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FilesTask:
    """How the rows of a table become items.

    Attributes
    ----------
    train, test
        File of each split, relative to the benchmark's folder, with ``{language}`` where the language stands;
        ``.jsonl``, ``.tsv`` or ``.csv``.
    id
        Column that is the same for an item in every language.
    question
        A column's name, or a template that holds columns in braces, each changed by operations where it names some:
        ``"{premise|drop_last} {connective}"``. `registry.benchmarks.templates.OPERATIONS` are all there are.
    options
        Columns that hold one option each, or the one column that holds them all as a list; likewise templates:
        ``["{choice1|lower_first}", "{choice2|lower_first}"]``.
    choices
        In place of ``options``: option texts that are the same for every item.
    answer, answer_is
        Column of the right option, or a template, and how it is given: the option's ``text``, its ``letter``, or its
        ``index`` from 0.
    words
        Texts put in the place of a column's values in questions and options: column → value → language → text.
        Operations of a template are applied to them.
    columns_from
        Columns whose values are read from one language's file, by id: column → language. For what translations share,
        such as a relation or a label, where some of the files have it wrong.
    prompt
        Prompt style; see ``registry/benchmarks/prompts.py``.
    headline
        Which accuracy is the score, where it is not the prompt style's own.
    quoting
        How quotes in a ``.tsv`` or ``.csv`` file are read: ``none``, as text like any other, or ``minimal``, around
        fields that hold a separator, a quote or a line break, those inside doubled (pandas, spreadsheets). By default
        CSV is ``minimal``, and of TSV its own fields decide.
    """

    train: str
    test: str
    id: str
    question: str
    answer: str
    options: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    answer_is: Literal["text", "letter", "index"] = "index"
    words: dict[str, dict[str, dict[str, str]]] = Field(default_factory=dict)
    columns_from: dict[str, Name] = Field(default_factory=dict)
    prompt: str = "text"
    headline: Headline | None = None
    quoting: Quoting | None = None

    def __post_init__(self) -> None:
        if bool(self.options) == bool(self.choices):
            raise ValueError("give either options (columns) or choices (fixed texts)")
        for file in (self.train, self.test):
            path = PurePath(file)
            if path.suffix not in (".jsonl", ".tsv", ".csv"):
                raise ValueError(f"{file!r} is no file of items: its name ends in .jsonl, .tsv or .csv")
            if self.quoting and path.suffix == ".jsonl":
                raise ValueError(f"quoting belongs to .tsv and .csv; {file!r} holds JSON, which has its own quotes")
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{file!r} leaves the benchmark's folder; name files below it")
            if set("{}") & set(file.replace("{language}", "")):
                raise ValueError(f"{file!r}: the only placeholder in a file's name is {{language}}")


_headline: TypeAdapter[Headline] = TypeAdapter(Headline)
_headlines: TypeAdapter[dict[str, Headline]] = TypeAdapter(dict[Name, Headline])


def _validated_headlines(value: object) -> Headline | dict[str, Headline]:
    """Check the one form or the other; a union would report its findings once for each."""
    return _headlines.validate_python(value) if isinstance(value, dict) else _headline.validate_python(value)


#: A headline accuracy, or one for each task.
Headlines = Annotated[Headline | dict[str, Headline], PlainValidator(_validated_headlines)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BenchmarkSpec:
    """Where items come from: the built-in ``demo`` grid; the ``hub``; or ``files``: a folder and how its columns map.

    ``hub`` is the grid of the published study: ``arc_challenge``, ``global_mmlu``, ``hellaswag`` and ``truthfulqa`` in
    eleven languages, downloaded at pinned commits; the study's tasks and languages say which of them.

    Attributes
    ----------
    path
        Of ``files``, the folder. Of ``hub``, a folder that holds the data sets as ``<owner>/<name>``, read in place of
        the hub. A relative one starts at the project's folder.
    languages, tasks
        Of ``files`` alone.
    primer
        Of ``hub`` alone: text file with what stands before every question of TruthfulQA; by default it is taken from
        the installed lm-evaluation-harness.
    headline
        Of ``demo`` and ``hub``, which accuracy is the score where it is not the prompt style's own: ``acc`` or
        ``acc_norm`` for every task, or one for each task that it names. A task of ``files`` says it itself.
    """

    kind: Literal["demo", "files", "hub"] = "demo"
    path: str | None = None
    languages: tuple[Name, ...] = ()
    tasks: dict[Name, FilesTask] = Field(default_factory=dict)
    primer: str | None = None
    headline: Headlines | None = None

    def __post_init__(self) -> None:
        if self.kind == "files" and not (self.path and self.languages and self.tasks):
            raise ValueError("a files benchmark needs path (its folder), languages and tasks")
        if self.kind == "demo" and (self.path or self.languages or self.tasks):
            raise ValueError("path, languages and tasks belong to a files benchmark; the demo grid has its own")
        if self.kind == "hub" and (self.languages or self.tasks):
            raise ValueError("a hub benchmark has its own languages and tasks; choose from them by the study's")
        if self.kind == "files" and self.headline:
            raise ValueError("headline belongs to each task of a files benchmark: tasks.<task>.headline")
        if self.kind != "hub" and self.primer:
            raise ValueError("primer belongs to a hub benchmark; it stands before TruthfulQA's questions")
        twice = sorted({language for language in self.languages if self.languages.count(language) > 1})
        if twice:
            raise ValueError(f"languages named twice: {', '.join(twice)}")
        for name, task in self.tasks.items():
            self._check_languages(f"tasks.{name}", task)

    def headlines(self, tasks: Iterable[str]) -> dict[str, Headline]:
        """Return the headline accuracy of each task for which the study chooses one."""
        if self.kind == "files":
            return {name: task.headline for name, task in self.tasks.items() if task.headline}
        if self.headline is None or isinstance(self.headline, dict):
            return dict(self.headline or {})
        return dict.fromkeys(tasks, self.headline)

    def _check_languages(self, where: str, task: FilesTask) -> None:
        """Refuse a task that lacks a language's own file or word."""
        for file in (task.train, task.test):
            if len(self.languages) > 1 and "{language}" not in file:
                raise ValueError(f"{where}: {file!r} names no language; put {{language}} where the files differ")
        for column, values in task.words.items():
            for value, texts in values.items():
                lacking = [language for language in self.languages if language not in texts]
                if lacking:
                    raise ValueError(f"{where}.words.{column}.{value} has no text for: {', '.join(lacking)}")


_Count = Annotated[int, Field(ge=0)]
_count: TypeAdapter[int] = TypeAdapter(_Count)
_counts: TypeAdapter[dict[str, int]] = TypeAdapter(dict[Name, _Count])


def _validated_counts(value: object) -> int | dict[str, int]:
    """Check the one form or the other; a union would report its findings once for each."""
    return _counts.validate_python(value) if isinstance(value, dict) else _count.validate_python(value)


#: A number of items, or one for each task.
Counts = Annotated[int | dict[str, int], PlainValidator(_validated_counts)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SplitSpec:
    """How many items per cell; drawn by ``seed`` from the ids that every language has, or read from ``manifest``.

    Attributes
    ----------
    train, test
        Items per cell, 0 for all; or a mapping of tasks to theirs, ``default`` standing for the tasks not named.
    missing
        What to do about ids that some language lacks: ``refuse`` the data, or ``drop`` these ids from every language.
        By default a draw from the hub's data sets, which no user can correct, drops them; all else is refused.
    differing
        What to do about ids whose translations have another answer or number of options: ``refuse``, ``drop`` them
        from every language, or ``allow`` them. The default is that of ``missing``, except where a data set numbers its
        rows instead of naming them (TruthfulQA on the hub): these are allowed, with a warning.
    overlap
        What to do about a question that is in training and in test: ``refuse`` the data, ``drop`` its id in training
        from every language, or ``allow`` it. The default is that of ``missing``; a manifest's ids are never dropped.
    copies
        What to do where two cells that are trained on have the same training items: ``refuse`` the data, or ``allow``
        it, each cell having adapters of its own. Cells that are only tested on are always allowed, with a warning.
    manifest
        Folder that holds ``<task>.csv`` with the header ``split,id``; a relative path starts at the project's folder.
    """

    train: Counts = 0
    test: Counts = 0
    seed: int = 42
    missing: Literal["refuse", "drop"] | None = None
    differing: Literal["refuse", "drop", "allow"] | None = None
    overlap: Literal["refuse", "drop", "allow"] | None = None
    copies: Literal["refuse", "allow"] | None = None
    manifest: str | None = None

    def __post_init__(self) -> None:
        if self.manifest and (self.train or self.test):
            raise ValueError("a manifest names the items; give it alone, or train and test to draw them")

    def count(self, split: Literal["train", "test"], task: str) -> int:
        """Return how many items of a task a split has; 0 is all."""
        counts = self.train if split == "train" else self.test
        return counts if isinstance(counts, int) else counts.get(task, counts.get("default", 0))
