"""Training LoRA adapters (arXiv 2106.09685), several at once on one frozen base model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from registry.recipes.maker import Held, Maker, Order
from registry.recipes.targets import match_targets

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from registry.lora.adapter import Adapter
    from registry.lora.cost import Size
    from registry.lora.training_state import Training
    from registry.models.projections import MatchedModules

__all__ = ["TrainLora"]


class TrainLora(Maker["Adapter"]):
    """LoRA adapters, as PEFT makes and reads them."""

    sentence: ClassVar[str] = "LoRA adapter of **{model}** fine-tuned on **{source}**"

    def summary(self) -> str:
        """Say rank and alpha."""
        return f"LoRA rank {self.recipe.lora.rank}, alpha {self.recipe.lora.alpha:g}"

    def parameters(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """Return everything."""
        return dict(recipe)

    def matched(self, model: PreTrainedModel, base: str) -> MatchedModules | None:
        """Return the layers that an adapter goes on; ones that the study names and the base lacks are refused."""
        return match_targets(model, self.recipe.lora, base)

    def at_once(self, *, on_gpu: bool) -> int:
        """As the study says, else 8 on a GPU, where a small base is bound by launches, and 1 on a CPU."""
        return self.study.adapters_at_once or (8 if on_gpu else 1)

    def trained(self, model: PreTrainedModel) -> int:
        """Return the parameters of both factors of every layer."""
        from registry.models.projections import adapter_parameters

        return adapter_parameters(model, self.recipe.lora)

    def bytes_per_parameter(self) -> int:
        """Return 4: adapters are float32."""
        return 4

    def training_flop(self, size: Size, trained: int, *, tokens: int, predictions: int) -> float:
        """Frozen weights take 2 per weight and token forward and 2 backward, an adapter's 2 and 4."""
        return (4.0 * size.body + 6.0 * trained) * tokens + 4.0 * size.head * predictions

    def forward_flop(self, size: Size, trained: int, *, tokens: int, predictions: int) -> float:
        """The adapter's products come on top of the base model's."""
        return super().forward_flop(size, trained, tokens=tokens, predictions=predictions) + 2.0 * trained * tokens

    def make(
        self, held: Held, orders: Sequence[Order], progress: Callable[[float], None]
    ) -> Sequence[Training | FloatingPointError]:
        """Train them together."""
        from registry.lora.adapter import fresh_adapter
        from registry.lora.train import Assignment, train_adapters

        assignments = [
            Assignment(
                fresh_adapter(held.model, self.recipe.lora, seed=order.seed),
                order.examples,
                order.seed,
                order.checkpoint,
            )
            for order in orders
        ]
        return train_adapters(
            held.model,
            assignments,
            self.recipe,
            tokens_per_batch=self.study.tokens_of_a_pass(held.device),
            gradient_checkpointing=self.study.gradient_checkpointing,
            progress=progress,
        )

    def save(self, held: Held, made: Adapter, folder: Path) -> None:
        """Write PEFT's two files."""
        from registry.lora.adapter import save_adapter

        save_adapter(made, folder, base_reference=held.base.reference, base_revision=held.base.hub_revision)

    def read(self, held: Held, folder: Path) -> Adapter:
        """Read PEFT's two files."""
        from registry.lora.adapter import read_adapter

        return read_adapter(folder)

    def put_on(self, model: PreTrainedModel, made: Adapter) -> AbstractContextManager[PreTrainedModel]:
        """Merge it in memory, where the base model's weights allow it."""
        from registry.lora.bank import merged

        return merged(model, made)
