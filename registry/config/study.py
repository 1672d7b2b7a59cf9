"""A study: everything that decides its results, in one validated object.

Every default is defined once: here, or for the sections ``benchmark`` and ``split`` in ``data.py``, for ``tune`` in
``tuning.py``, for ``promotion`` in ``promotion.py``. A study file (see ``files.py``) overrides what it names.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PlainValidator
from pydantic.dataclasses import dataclass

from registry.config.data import BenchmarkSpec, SplitSpec
from registry.config.promotion import PromotionPolicy, check_aliases
from registry.config.tuning import TuneSpec
from registry.config.types import STRICT, Fraction, Name, Placement, Positive, Quantization, one_of
from registry.recipes.maker import MAKERS

__all__ = ["ALL_LINEAR", "CHAT_DATE", "BaseSpec", "LoraSpec", "Recipe", "Study"]

#: What a chat template takes for today where a study does not say: what Llama-3's own writes if there is no clock.
CHAT_DATE = date(2024, 7, 26)

if TYPE_CHECKING:
    Method = str
else:
    #: A way of making adapters; see ``registry/recipes/maker.py``.
    Method = one_of(MAKERS)

#: Targets of an adapter on every linear layer but the LM head.
ALL_LINEAR = ("all-linear",)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoraSpec:
    """Low-rank adaptation (arXiv 2106.09685).

    Attributes
    ----------
    rank
        Rank of the two matrices that are trained beside each adapted layer.
    alpha
        The adapter's product is scaled by ``alpha / rank``.
    dropout
        Share of an adapted layer's inputs that is set to zero in training.
    targets
        The linear layers adapted: their names, or the ends of their names. ``[all-linear]`` adapts every linear layer
        except the LM head. Experts that a base model keeps in one tensor are not linear layers and are never adapted.
    """

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
Lengths = Annotated[
    int | dict[str, int], PlainValidator(_lengths, json_schema_input_type=Positive | dict[str, Positive])
]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Recipe:
    """How one model is fine-tuned.

    "Donors and Recipients" does not state batch size, weight decay and clipping; their defaults are Trainer's.

    Attributes
    ----------
    method
        ``lora`` trains an adapter; ``full`` trains every weight of the base model and ignores ``lora``.
    lora
        Settings of the adapter.
    learning_rate
        Peak learning rate of AdamW. It decays linearly to zero after the warm-up.
    epochs
        Passes over the training items.
    batch_size
        Training texts per optimiser step.
    warmup
        Share of all steps in which the learning rate grows linearly from zero.
    weight_decay
        Weight decay of AdamW. Norms and biases do not decay.
    clip
        Largest norm of the gradient; a larger one is scaled down.
    validation
        Share of the training items that is held out. The epoch with the lowest mean validation loss per supervised
        token is kept. 0 keeps the last epoch.
    validation_seed
        Seed that chooses the held-out items.
    max_length
        Longest training text in tokens; longer texts lose their left side. One number, or a mapping of tasks to
        numbers, which must then name every task that is trained on.
    loss
        ``as_prompted`` computes the loss where the task's prompt style says; ``whole_text`` on every token of every
        text, including the prompt.
    precision
        Number format of the base model and of the computation. Trained weights are float32. ``fp16`` scales the loss.
    """

    method: Method = "lora"
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
        if self.method == "lora":
            del decides["method"]
        if self.loss == "as_prompted" or not masked:
            del decides["loss"]
        return decides


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BaseSpec:
    """A base model. A study file may write the name alone: ``models: [demo-wide]``.

    Attributes
    ----------
    name
        A built-in name (``demo-wide``, ``demo-deep``), a hub id, or any name if ``path`` is given.
    path
        Folder that holds the model, as ``save_pretrained`` writes it.
    revision
        Commit, tag or branch on the hub; by default the newest commit, which is recorded.
    family
        Family for the analyses by family, such as ``llama``; by default looked up or read from the model.
    size_b
        Billions of parameters; by default looked up or counted.
    """

    name: Annotated[str, Field(min_length=1, max_length=120)]
    path: str | None = None
    revision: str | None = None
    family: str | None = None
    size_b: Annotated[float, Field(gt=0)] | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Study:
    """A transfer study: models × source cells × seeds, each adapter scored on every target cell.

    ``tokens_per_batch``, ``adapters_at_once``, ``gradient_checkpointing`` and ``placement`` decide speed and memory.
    They change results by no more than rounding.

    Attributes
    ----------
    name
        Name under which the study is recorded; it is the name of the MLflow experiment.
    description
        Free text, shown in the report and in MLflow.
    protocol
        Name of the recipe, for telling variants apart in records; by default the study's name.
    benchmark
        Where the items come from. ``benchmark: demo`` is short for ``benchmark: {kind: demo}``.
    models
        The base models, each by name or as a mapping.
    tasks
        Tasks used, of those that the benchmark has; empty for all.
    languages
        Languages used, of those that the benchmark has; empty for all.
    sources
        Cells ``task/language`` that adapters are trained on; empty for all. Targets are always all cells.
    seeds
        Seeds of training. Every base model and source cell gets one adapter per seed.
    split
        How many items each cell has, and which.
    recipe
        How one adapter is trained.
    chat_template
        Whether scored questions are put into the base model's chat template, as the user's turn that the options
        answer. Training texts stay plain.
    chat_template_date
        Date that a chat template writes where it would write today's, so that a prompt is the same on every day.
    placement
        ``one`` keeps the whole base model on the worker's device. ``spread`` lets accelerate place its layers on all
        devices of the machine, and in the machine's memory what does not fit there.
    quantization
        Loads the base model's projections in 8 or 4 bits by bitsandbytes (LLM.int8(), arXiv 2208.07339; NF4, arXiv
        2305.14314); adapters stay in float32. It changes results.
    tokens_per_batch
        Most tokens that pass through a base model at once; halved when memory does not suffice. By default 2,048 on a
        CPU and 32,768 on a GPU.
    adapters_at_once
        How many adapters of one base model are trained together, with the same result as training each alone. By
        default 1 on a CPU and 8 on a GPU.
    gradient_checkpointing
        Whether activations are computed twice instead of being kept.
    trust_remote_code
        Whether code from a model's repository may run.
    tune
        How the entry point ``tune`` searches for a recipe.
    promotion
        For each alias, what an adapter must show to carry it. The policy ``best`` holds for every alias
        ``best-<task>-<language>``.
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
    chat_template_date: date = CHAT_DATE
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

    def tokens_of_a_pass(self, device: str) -> int:
        """Return the most tokens that go through a base model at once on a device such as ``cpu``."""
        return self.tokens_per_batch or (2048 if device == "cpu" else 32768)

    def resolved(self) -> dict[str, Any]:
        """Return the study with every default filled in, as plain data."""
        return asdict(self)
