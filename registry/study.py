"""A study: everything that decides its results, in one validated object.

Every default of the project stands here, once. A study file (see ``registry/studyfile.py``) overrides what it names.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PlainValidator, TypeAdapter
from pydantic.dataclasses import dataclass

from registry.policyspec import PromotionPolicy, check_aliases
from registry.tunespec import TuneSpec

__all__ = [
    "BaseSpec",
    "BenchmarkSpec",
    "FilesTask",
    "LoraSpec",
    "Placement",
    "Quantization",
    "Recipe",
    "SplitSpec",
    "Study",
]

#: Every dataclass here refuses keys it does not have.
_STRICT = ConfigDict(extra="forbid")

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=60)]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

#: Where a base's weights lie; see :class:`Study`.
Placement = Literal["one", "spread"]

#: Bits per weight of a base's projections, where fewer than its precision has; see :class:`Study`.
Quantization = Literal["8bit", "4bit"]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class LoraSpec:
    """Low-rank adaptation (arXiv 2106.09685): rank, scale ``alpha / rank``, dropout, and the projections adapted."""

    rank: Positive = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    dropout: Fraction = 0.0
    targets: tuple[Name, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def _lengths(given: object) -> int | dict[str, int]:
    """Check a length in tokens, or one for each task."""
    lengths = given.values() if isinstance(given, dict) else [given]
    if not all(type(length) is int and length > 0 for length in lengths) or given == {}:
        raise ValueError("tokens are a whole number above 0, such as 512, or one for each task, such as {task: 512}")
    if isinstance(given, dict) and not all(isinstance(task, str) for task in given):
        raise ValueError("tasks are named by texts: quote what YAML reads as something else")
    return given  # type: ignore[return-value]


#: A number of tokens, or one for each task.
Lengths = Annotated[int | dict[str, int], PlainValidator(_lengths)]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Recipe:
    """How one model is fine-tuned.

    Batch size, weight decay and clipping, of which "Donors and Recipients" says nothing, are Trainer's defaults.

    Attributes
    ----------
    method
        ``lora`` trains an adapter, ``full`` every weight of the base, ``lora`` here then having no meaning. See
        ``registry/lora/full.py``.
    learning_rate, weight_decay, warmup, clip
        AdamW, linear warm-up over the share ``warmup`` of all steps, then linear decay to zero; gradient norm clipped
        at ``clip``. Norms and biases do not decay.
    validation
        Share of the training items held out, by the fixed seed ``validation_seed``; the epoch with the lowest mean
        validation loss per supervised token is kept. 0 keeps the last epoch.
    max_length
        Tokens; longer texts lose their left side. One number, or one for each task; a study that trains on a
        task without its own is refused.
    loss
        ``as_prompted`` puts it where the task's prompt style says, ``whole_text`` on every token of every task's texts,
        the prompt's too.
    precision
        Of the base and of what is computed; what is trained is float32. fp16 scales the loss, see
        ``registry/lora/train.py``.
    """

    method: Literal["lora", "full"] = "lora"
    lora: LoraSpec = Field(default_factory=LoraSpec)
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    epochs: Positive = 3
    batch_size: Positive = 8
    warmup: Fraction = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Annotated[float, Field(gt=0)] = 1.0
    validation: Fraction = 0.1
    validation_seed: int = 42
    max_length: Lengths = 512
    loss: Literal["as_prompted", "whole_text"] = "as_prompted"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    def length(self, task: str) -> int:
        """Longest text of a task, in tokens."""
        return self.max_length[task] if isinstance(self.max_length, dict) else self.max_length

    def deciding(self, task: str, *, masked: bool) -> dict[str, Any]:
        """Return what of the recipe decides the result of training on a task.

        What leaves the result as it would be without stays out, so that a result recorded before there was the choice
        is found again.

        Parameters
        ----------
        masked
            Whether the task's prompt style leaves the prompt without a loss.
        """
        decides = asdict(self) | {"max_length": self.length(task)}
        if self.method == "full":
            del decides["lora"]
        else:
            del decides["method"]
        if self.loss == "as_prompted" or not masked:
            del decides["loss"]
        return decides


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class BaseSpec:
    """A base model: a built-in name, a hub id, or a local folder given as ``path``.

    ``family`` and ``size_b`` (billions of parameters) are looked up or read from the model where they are not given.
    """

    name: Annotated[str, Field(min_length=1, max_length=120)]
    path: str | None = None
    revision: str | None = None
    family: str | None = None
    size_b: Annotated[float, Field(gt=0)] | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
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
        A column's name, or a template that holds columns in braces: ``"{premise} {connective}"``.
    options
        Columns that hold one option each, or the one column that holds them all as a list.
    choices
        In place of ``options``: option texts that are the same for every item.
    answer, answer_is
        Column of the right option, and how it is told: the option's ``text``, its ``letter``, or its ``index`` from 0.
    words
        Texts put in the place of a column's values in questions and options: column → value → language → text.
    columns_from
        Columns whose values are read from one language's file, by id: column → language. For what translations share,
        such as a relation or a label, where some of the files have it wrong.
    prompt
        Prompt style; see ``registry/benchmarks/prompts.py``.
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

    def __post_init__(self) -> None:
        if bool(self.options) == bool(self.choices):
            raise ValueError("give either options (columns) or choices (fixed texts)")
        for file in (self.train, self.test):
            path = PurePath(file)
            if path.suffix not in (".jsonl", ".tsv", ".csv"):
                raise ValueError(f"{file!r} is no file of items: its name ends in .jsonl, .tsv or .csv")
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{file!r} leaves the benchmark's folder; name files below it")
            if set("{}") & set(file.replace("{language}", "")):
                raise ValueError(f"{file!r}: the only placeholder in a file's name is {{language}}")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
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
    """

    kind: Literal["demo", "files", "hub"] = "demo"
    path: str | None = None
    languages: tuple[Name, ...] = ()
    tasks: dict[Name, FilesTask] = Field(default_factory=dict)
    primer: str | None = None

    def __post_init__(self) -> None:
        if self.kind == "files" and not (self.path and self.languages and self.tasks):
            raise ValueError("a files benchmark needs path (its folder), languages and tasks")
        if self.kind == "demo" and (self.path or self.languages or self.tasks):
            raise ValueError("path, languages and tasks belong to a files benchmark; the demo grid has its own")
        if self.kind == "hub" and (self.languages or self.tasks):
            raise ValueError("a hub benchmark has its own languages and tasks; choose from them by the study's")
        if self.kind != "hub" and self.primer:
            raise ValueError("primer belongs to a hub benchmark; it stands before TruthfulQA's questions")
        twice = sorted({language for language in self.languages if self.languages.count(language) > 1})
        if twice:
            raise ValueError(f"languages named twice: {', '.join(twice)}")
        for name, task in self.tasks.items():
            self._check_languages(f"tasks.{name}", task)

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
    """Check the one form or the other; a union's findings would be told once for each."""
    return _counts.validate_python(value) if isinstance(value, dict) else _count.validate_python(value)


#: A number of items, or one for each task.
Counts = Annotated[int | dict[str, int], PlainValidator(_validated_counts)]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
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
    manifest
        Folder that holds ``<task>.csv`` with the header ``split,id``; a relative path starts at the project's folder.
    """

    train: Counts = 0
    test: Counts = 0
    seed: int = 42
    missing: Literal["refuse", "drop"] | None = None
    differing: Literal["refuse", "drop", "allow"] | None = None
    overlap: Literal["refuse", "drop", "allow"] | None = None
    manifest: str | None = None

    def __post_init__(self) -> None:
        if self.manifest and (self.train or self.test):
            raise ValueError("a manifest names the items; give it alone, or train and test to draw them")

    def count(self, split: Literal["train", "test"], task: str) -> int:
        """Return how many items of a task a split has; 0 is all."""
        counts = self.train if split == "train" else self.test
        return counts if isinstance(counts, int) else counts.get(task, counts.get("default", 0))


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Study:
    """One transfer study: models × source cells × seeds, each adapter scored on every target cell.

    ``tasks`` and ``languages`` choose from what the benchmark offers; empty takes all. ``sources`` narrows the cells
    that are trained on (``task/language``), never the targets. ``chat_template`` puts every scored question into the
    base's chat template, as the user's turn that the options answer; training texts stay plain.

    Three settings decide speed and memory, not results (beyond rounding): ``tokens_per_batch``, the most tokens that go
    through a base at once, halved where memory does not suffice (by default 2,048 on a CPU, 32,768 on a GPU);
    ``adapters_at_once``, how many adapters of one base train together (by default 1 on a CPU, 8 on a GPU, where a small
    base is bound by launches); ``gradient_checkpointing``, whether activations are computed twice instead of kept.

    ``placement`` is ``one``, the whole base on the worker's device, or ``spread``: accelerate places its layers over
    all devices of the machine, and holds in the machine's memory what does not fit on them; results are the same up to
    rounding. ``quantization`` loads the base's projections in 8 or 4 bits by bitsandbytes (LLM.int8(), arXiv
    2208.07339; NF4, arXiv 2305.14314), the adapters staying in float32; it decides results.

    ``tune`` says how the entry point ``tune`` searches for a recipe; see :class:`registry.tunespec.TuneSpec`.
    ``promotion`` says, for each alias, what an adapter must show to carry it; see
    :class:`registry.policyspec.PromotionPolicy`.
    """

    name: Name
    description: str = ""
    protocol: Name | None = None
    benchmark: BenchmarkSpec = Field(default_factory=BenchmarkSpec)
    models: Annotated[tuple[BaseSpec, ...], Field(min_length=1)]
    tasks: tuple[Name, ...] = ()
    languages: tuple[Name, ...] = ()
    sources: tuple[str, ...] = ()
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (17, 42, 101)
    split: SplitSpec = Field(default_factory=SplitSpec)
    recipe: Recipe = Field(default_factory=Recipe)
    chat_template: bool = False
    placement: Placement = "one"
    quantization: Quantization | None = None
    tokens_per_batch: Positive | None = None
    adapters_at_once: Positive | None = None
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False
    tune: TuneSpec | None = None
    promotion: dict[str, PromotionPolicy] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        named = {"models": [spec.name for spec in self.models], "seeds": [str(seed) for seed in self.seeds]}
        for kind, names in named.items():
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{kind} named twice: {', '.join(twice)}")
        check_aliases(self.promotion)

    def resolved(self) -> dict[str, Any]:
        """Return the study with every default filled in, as plain data."""
        return asdict(self)
