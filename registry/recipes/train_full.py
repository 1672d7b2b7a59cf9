"""Training every weight of a base model, as the published ablation does, one model at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from registry.errors import Refused
from registry.recipes.maker import Held, Maker, Order

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from registry.lora.cost import Size
    from registry.lora.full import FullWeights
    from registry.lora.training_state import Training

__all__ = ["TrainFull"]


class TrainFull(Maker["FullWeights"]):
    """Whole models. They share no passes and take the base model's place, so each is made alone."""

    registers: ClassVar[bool] = False
    sentence: ClassVar[str] = "Full fine-tune of **{model}** on **{source}**"

    def check(self) -> None:
        """Refuse quantised base models, most of whose weights do not move."""
        if self.study.quantization is not None:
            raise Refused(
                f"recipe.method: full trains every weight, and with quantization: {self.study.quantization} most have "
                "none that moves; set quantization: null, or recipe.method: lora"
            )

    def summary(self) -> str:
        """Say that nothing is frozen."""
        return "every weight"

    def parameters(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """Leave out what concerns adapters."""
        return {name: value for name, value in recipe.items() if name != "lora"}

    def trained(self, model: PreTrainedModel) -> int:
        """Return all of them."""
        return sum(weight.numel() for weight in model.parameters())

    def bytes_per_parameter(self) -> int:
        """Return those of the precision that the base model is held in."""
        return {"fp32": 4, "bf16": 2, "fp16": 2}[self.recipe.precision]

    def training_flop(self, size: Size, trained: int, *, tokens: int, predictions: int) -> float:
        """Every weight takes 2 per token forward and 4 backward."""
        return 3 * self.forward_flop(size, trained, tokens=tokens, predictions=predictions)

    def require_memory(self, model: PreTrainedModel, base: str, *, device: str) -> None:
        """Refuse a base model whose gradients and optimiser state do not fit."""
        from registry.models.memory import require_full_memory

        require_full_memory(model, base, device=device, placement=self.study.placement)

    def make(
        self, held: Held, orders: Sequence[Order], progress: Callable[[float], None]
    ) -> Sequence[Training | FloatingPointError]:
        """Train one after another."""
        return [self._train(held, order, progress) for order in orders]

    def _train(self, held: Held, order: Order, progress: Callable[[float], None]) -> Training:
        from registry.lora.train import train_full

        self.require_memory(held.model, held.base.name, device=held.device)
        return train_full(
            held.model,
            order.examples,
            self.recipe,
            seed=order.seed,
            tokens_per_batch=self.study.tokens_of_a_pass(held.device),
            gradient_checkpointing=self.study.gradient_checkpointing,
            progress=progress,
        )

    def save(self, held: Held, made: FullWeights, folder: Path) -> None:
        """Write a model's folder as ``save_pretrained`` does."""
        from registry.lora.full import save_full

        save_full(held.model, made, folder, tokenizer=held.tokenizer)

    def read(self, held: Held, folder: Path) -> FullWeights:
        """Read a model's folder."""
        from registry.lora.full import FullWeights
        from registry.models.loading import dtype_of, load_base

        saved = replace(held.base, location=str(folder), revision="sha256:")
        return FullWeights.of(load_base(saved, dtype=dtype_of(self.recipe.precision), device="cpu"))

    def put_on(self, model: PreTrainedModel, made: FullWeights) -> AbstractContextManager[PreTrainedModel]:
        """Put the weights in place of the base model's."""
        from registry.lora.full import replaced

        return replaced(model, made)
