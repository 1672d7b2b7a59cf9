"""A study: everything that decides its results, in one validated object.

Every default is defined once: here, or for the sections ``benchmark`` and ``split`` in ``data.py``, for ``tune`` in
``tuning.py``, for ``promotion`` in ``promotion.py``. A study file (see ``files.py``) overrides what it names.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator
from pydantic.dataclasses import dataclass

from registry.config.data import BenchmarkSpec, SplitSpec
from registry.config.promotion import PromotionPolicy, check_aliases
from registry.config.tuning import TuneSpec
from registry.config.types import STRICT, Fraction, Name, Placement, Positive, Quantization

__all__ = ["ALL_LINEAR", "CHAT_DATE", "BaseSpec", "LoraSpec", "Recipe", "Study"]

#: What a chat template takes for today where a study does not say: what Llama-3's own writes if there is no clock.
CHAT_DATE = date(2024, 7, 26)

#: Targets of an adapter on every linear layer but the LM head.
ALL_LINEAR = ("all-linear",)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoraSpec:
    """Low-rank adaptation (arXiv 2106.09685): rank, scale ``alpha / rank``, dropout, and the projections adapted.

    ``targets`` are names of linear layers, or how their names end; ``[all-linear]`` is all but the LM head. Experts
    that a base keeps in one tensor are no linear layers, and no adapter here goes on them.
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
Lengths = Annotated[int | dict[str, int], PlainValidator(_lengths)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
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


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BaseSpec:
    """A base model: a built-in name, a hub id, or a local folder given as ``path``.

    ``family`` and ``size_b`` (billions of parameters) are looked up or read from the model where they are not given.
    """

    name: Annotated[str, Field(min_length=1, max_length=120)]
    path: str | None = None
    revision: str | None = None
    family: str | None = None
    size_b: Annotated[float, Field(gt=0)] | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Study:
    """One transfer study: models × source cells × seeds, each adapter scored on every target cell.

    ``tasks`` and ``languages`` choose from what the benchmark offers; empty takes all. ``sources`` narrows the cells
    that are trained on (``task/language``), never the targets. ``chat_template`` puts every scored question into the
    base's chat template, as the user's turn that the options answer; training texts stay plain. Templates that write
    today's date write ``chat_template_date``, so that a prompt is the same on any day.

    Three settings decide speed and memory, not results (beyond rounding): ``tokens_per_batch``, the most tokens that go
    through a base at once, halved where memory does not suffice (by default 2,048 on a CPU, 32,768 on a GPU);
    ``adapters_at_once``, how many adapters of one base train together (by default 1 on a CPU, 8 on a GPU, where a small
    base is bound by launches); ``gradient_checkpointing``, whether activations are computed twice instead of kept.

    ``placement`` is ``one``, the whole base on the worker's device, or ``spread``: accelerate places its layers over
    all devices of the machine, and holds in the machine's memory what does not fit on them; results are the same up to
    rounding. ``quantization`` loads the base's projections in 8 or 4 bits by bitsandbytes (LLM.int8(), arXiv
    2208.07339; NF4, arXiv 2305.14314), the adapters staying in float32; it decides results.

    ``tune`` says how the entry point ``tune`` searches for a recipe; see :class:`registry.config.tuning.TuneSpec`.
    ``promotion`` says, for each alias, what an adapter must show to carry it; see
    :class:`registry.config.promotion.PromotionPolicy`.
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

    def resolved(self) -> dict[str, Any]:
        """Return the study with every default filled in, as plain data."""
        return asdict(self)
