"""What a way of making adapters has to offer; ``recipe.method`` of a study file names one.

Adding one is a module with a subclass of :class:`Maker`, or of one that exists, and a line in :data:`MAKERS`. Planning
asks a maker what its adapters cost, the runner has it make and save them, and nothing else depends on the method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

if TYPE_CHECKING:  # these bring torch, which a plan with nothing to do does not need
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from registry.config.study import Recipe, Study
    from registry.lora.cost import Size, Usage
    from registry.lora.encoding import Example
    from registry.lora.training_state import Training
    from registry.models.base import Base
    from registry.models.projections import MatchedModules

__all__ = ["MAKERS", "Held", "Maker", "Order", "maker_of"]

#: Makers by the name that ``recipe.method`` gives them: module and class.
MAKERS = {
    "lora": "registry.recipes.train_lora:TrainLora",
    "full": "registry.recipes.train_full:TrainFull",
}

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Held:
    """A base model in memory, with its tokenizer, on a device such as ``cpu`` or ``cuda:0``."""

    base: Base
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: str


@dataclass(frozen=True, slots=True)
class Order:
    """An adapter to be made.

    Attributes
    ----------
    examples
        Its encoded training texts.
    checkpoint
        File that keeps the finished epochs of a long training.
    """

    examples: Sequence[Example]
    seed: int
    checkpoint: Path


class Maker(ABC, Generic[Made]):
    """A way of making adapters on a base model, for one study.

    What it makes (``Made``) is whatever :meth:`read` returns and :meth:`put_on` takes.
    """

    #: Whether what it makes is registered as a model version; a whole model is recorded with its run alone.
    registers: ClassVar[bool] = True
    #: What its result is in descriptions, in Markdown, with ``{model}`` and ``{source}``.
    sentence: ClassVar[str]

    def __init__(self, study: Study) -> None:
        self.study = study

    @property
    def recipe(self) -> Recipe:
        """The study's hyper-parameters."""
        return self.study.recipe

    # --- what a plan asks

    def check(self) -> None:  # most have nothing to refuse
        """Refuse a study that cannot be carried out in this way.

        Raises
        ------
        Refused
            With the remedy.
        """

    @abstractmethod
    def summary(self) -> str:
        """Say in a few words how much is trained, such as ``LoRA rank 8, alpha 16``."""

    @abstractmethod
    def parameters(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of a recipe, as plain data, has a meaning here; it is recorded, and decides the result."""

    def matched(self, model: PreTrainedModel, base: str) -> MatchedModules | None:
        """Return the layers that an adapter goes on; None where it has none."""
        return None

    def at_once(self, *, on_gpu: bool) -> int:
        """Return how many adapters of a base model are made together."""
        return 1

    @abstractmethod
    def trained(self, model: PreTrainedModel) -> int:
        """Return the parameters of what is made on a base model, which may be without weights."""

    @abstractmethod
    def bytes_per_parameter(self) -> int:
        """Return what each of them takes in the store."""

    @abstractmethod
    def training_flop(self, size: Size, trained: int, *, tokens: int, predictions: int) -> float:
        """Return the floating-point operations of training on so many tokens, forward and backward."""

    def forward_flop(self, size: Size, trained: int, *, tokens: int, predictions: int) -> float:
        """Return those of a pass without gradients, as over held-out texts."""
        return 2.0 * (size.body * tokens + size.head * predictions)

    def require_memory(self, model: PreTrainedModel, base: str, *, device: str) -> None:
        """Refuse a base model on which making an adapter takes more memory than is free beside the weights."""

    # --- what the runner asks

    @abstractmethod
    def make(
        self, held: Held, orders: Sequence[Order], progress: Callable[[float], None]
    ) -> Sequence[Training | FloatingPointError]:
        """Make adapters on a base model, which is left as it was; an error stands for one that could not be made."""

    @abstractmethod
    def save(self, held: Held, made: Made, folder: Path) -> None:
        """Write what was made into a folder."""

    @abstractmethod
    def read(self, held: Held, folder: Path) -> Made:
        """Read it back."""

    @abstractmethod
    def put_on(self, model: PreTrainedModel, made: Made) -> AbstractContextManager[PreTrainedModel]:
        """Have the base model in memory be what it was made into, for a while."""

    def usages(self, held: Held, training: Training) -> dict[str, Usage]:
        """Return what the phases of a training took: ``train`` and, if there was one, ``validation``."""
        from registry.lora.cost import Size, Usage, peak_memory_gb

        size, trained, memory = Size.of(held.model), training.adapter.parameters, peak_memory_gb(held.device)
        flop = self.training_flop(size, trained, tokens=training.tokens, predictions=training.predictions)
        found = {"train": Usage(training.seconds, training.tokens, flop, memory)}
        if tokens := training.validation_tokens:
            flop = self.forward_flop(size, trained, tokens=tokens, predictions=training.validation_predictions)
            found["validation"] = Usage(training.validation_seconds, tokens, flop, memory)
        return found


def maker_of(study: Study) -> Maker[Any]:
    """Return the maker that a study's ``recipe.method`` names."""
    module, _, name = MAKERS[study.recipe.method].partition(":")
    found: type[Maker[Any]] = getattr(import_module(module), name)
    return found(study)
