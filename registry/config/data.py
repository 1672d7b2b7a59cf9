"""Where a study's items come from and how many of them it takes: the ``benchmark`` and ``split`` of a study file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PlainValidator, TypeAdapter
from pydantic.dataclasses import dataclass

from registry.benchmarks.kinds import KINDS
from registry.config.types import STRICT, Headline, Name, Quoting, one_of

if TYPE_CHECKING:
    KindName = str
else:
    #: A kind of benchmark; see ``registry/benchmarks/kinds.py``.
    KindName = one_of(KINDS)

__all__ = ["BenchmarkSpec", "FilesTask", "SplitSpec"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FilesTask:
    """How the rows of a table become items.

    Attributes
    ----------
    train, test
        File of the split, relative to the benchmark's folder, with ``{language}`` in place of the language. Its name
        ends in ``.jsonl``, ``.tsv`` or ``.csv``.
    id
        Column that holds an item's id, the same in every language.
    question
        A column's name, or a template with columns in braces, which may name operations:
        ``"{premise|drop_last} {connective}"``. Operations: ``strip``, ``lower``, ``lower_first``, ``upper_first``,
        ``drop_last``, ``drop_punctuation``.
    options
        Columns or templates that hold one option each, such as ``["{choice1|lower_first}", "{choice2|lower_first}"]``,
        or one column that holds all options as a list.
    choices
        Option texts that are the same for every item, in place of ``options``.
    answer
        Column of the right option, or a template.
    answer_is
        How the answer is given: the option's ``text``, its ``letter``, or its ``index`` from 0.
    words
        Texts that replace a column's values in questions and options: column → value → language → text. Operations of
        a template are applied to them.
    columns_from
        Columns whose values are read from one language's file, by id: column → language. For values that translations
        share, such as a label, if some files have them wrong.
    prompt
        Prompt style: ``text``, ``letter`` or ``continuation``, or that of a published data set: ``arc``, ``hellaswag``,
        ``mmlu``, ``truthfulqa``. See ``registry/benchmarks/prompts.py``.
    headline
        Which accuracy is the task's score; by default the prompt style's own.
    quoting
        How quotes in a ``.tsv`` or ``.csv`` file are read. ``none``: as text. ``minimal``: as pandas and spreadsheets
        write them, around fields that hold a separator, a quote or a line break, quotes inside doubled. By default CSV
        is ``minimal``, and for TSV its own fields decide.
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

    def check_languages(self, where: str, languages: Sequence[str]) -> None:
        """Raise ValueError if a language has no file or word of its own."""
        for file in (self.train, self.test):
            if len(languages) > 1 and "{language}" not in file:
                raise ValueError(f"{where}: {file!r} names no language; put {{language}} where the files differ")
        for column, values in self.words.items():
            for value, texts in values.items():
                lacking = [language for language in languages if language not in texts]
                if lacking:
                    raise ValueError(f"{where}.words.{column}.{value} has no text for: {', '.join(lacking)}")


_headline: TypeAdapter[Headline] = TypeAdapter(Headline)
_headlines: TypeAdapter[dict[str, Headline]] = TypeAdapter(dict[Name, Headline])


def _validated_headlines(value: object) -> Headline | dict[str, Headline]:
    """Check the one form or the other; a union would report its findings once for each."""
    return _headlines.validate_python(value) if isinstance(value, dict) else _headline.validate_python(value)


#: A headline accuracy, or one for each task.
Headlines = Annotated[
    Headline | dict[str, Headline],
    PlainValidator(_validated_headlines, json_schema_input_type=Headline | dict[str, Headline]),
]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BenchmarkSpec:
    """Where items come from: the built-in ``demo`` grid; the ``hub``; or ``files``: a folder and how its columns map.

    ``hub`` is the grid of the published study: ``arc_challenge``, ``global_mmlu``, ``hellaswag`` and ``truthfulqa`` in
    eleven languages, downloaded at pinned commits; the study's tasks and languages say which of them.

    Attributes
    ----------
    kind
        Which benchmark.
    path
        For ``files``, the folder of the data. For ``hub``, a folder that holds the data sets as ``<owner>/<name>`` and
        is read in place of the hub. A relative path starts at the project's folder.
    languages
        For ``files``: the languages.
    tasks
        For ``files``: how the tables of each task become items.
    primer
        For ``hub``: text file with the text that stands before every question of TruthfulQA; by default it is taken
        from the installed lm-evaluation-harness.
    headline
        For ``demo`` and ``hub``: ``acc`` or ``acc_norm`` as the score of every task, or a mapping of tasks to one of
        them; by default the prompt style's own. A task of ``files`` has its own ``headline``.
    options
        Of kinds that are added to ``registry/benchmarks/kinds.py``: what such a kind needs besides.
    """

    kind: KindName = "demo"
    path: str | None = None
    languages: tuple[Name, ...] = ()
    tasks: dict[Name, FilesTask] = Field(default_factory=dict)
    primer: str | None = None
    headline: Headlines | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind != "hub" and self.primer:
            raise ValueError("primer belongs to a hub benchmark; it stands before TruthfulQA's questions")
        if self.kind in ("demo", "files", "hub") and self.options:
            raise ValueError(f"options belong to other kinds of benchmarks; {self.kind} has none")
        KINDS[self.kind].check(self)

    def headlines(self, tasks: Iterable[str]) -> dict[str, Headline]:
        """Return the headline accuracy of each task for which the study chooses one."""
        if self.kind == "files":
            return {name: task.headline for name, task in self.tasks.items() if task.headline}
        if self.headline is None or isinstance(self.headline, dict):
            return dict(self.headline or {})
        return dict.fromkeys(tasks, self.headline)


_Count = Annotated[int, Field(ge=0)]
_count: TypeAdapter[int] = TypeAdapter(_Count)
_counts: TypeAdapter[dict[str, int]] = TypeAdapter(dict[Name, _Count])


def _validated_counts(value: object) -> int | dict[str, int]:
    """Check the one form or the other; a union would report its findings once for each."""
    return _counts.validate_python(value) if isinstance(value, dict) else _count.validate_python(value)


#: A number of items, or one for each task.
Counts = Annotated[
    int | dict[str, int], PlainValidator(_validated_counts, json_schema_input_type=_Count | dict[str, _Count])
]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SplitSpec:
    """How many items per cell; drawn by ``seed`` from the ids that every language has, or read from ``manifest``.

    Attributes
    ----------
    train, test
        Items per cell, 0 for all; or a mapping of tasks to numbers, in which ``default`` counts for all other tasks.
    seed
        Seed of the draw.
    missing
        If a language lacks some ids: ``refuse`` the data, or ``drop`` these ids from every language. By default ids
        are dropped from the hub's data sets, which no user can correct, and other data are refused.
    differing
        If translations of an id have another answer or number of options: ``refuse``, ``drop`` these ids from every
        language, or ``allow`` them. The default is that of ``missing``, except where a data set numbers its rows
        instead of naming them (TruthfulQA on the hub): these are allowed, with a warning.
    overlap
        If a question is both in training and in test: ``refuse`` the data, ``drop`` its id in training from every
        language, or ``allow`` it. The default is that of ``missing``; a manifest's ids are never dropped.
    copies
        If two source cells have the same training items: ``refuse`` the data, or ``allow`` it and train an adapter on
        each. The default is to refuse. Copied test items are always allowed, with a warning.
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
