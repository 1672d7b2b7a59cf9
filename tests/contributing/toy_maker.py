"""A toy maker: adapters that are drawn at random and not trained, a control for what training adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from registry.lora.adapter import Adapter, fresh_adapter
from registry.lora.training_state import Training
from registry.recipes.maker import Held, Order
from registry.recipes.train_lora import TrainLora


class DrawRandom(TrainLora):
    """Adapters with random weights, by their seed."""

    sentence = "Random adapter of **{model}**, not trained on **{source}**"

    def make(self, held: Held, orders: Sequence[Order], progress: Callable[[float], None]) -> list[Training]:
        """Draw one for each order."""
        return [self._draw(held, order) for order in orders]

    def _draw(self, held: Held, order: Order) -> Training:
        fresh = fresh_adapter(held.model, self.recipe.lora, seed=order.seed)
        generator = torch.Generator().manual_seed(order.seed)
        drawn = {name: (a, torch.randn(b.shape, generator=generator) / 8) for name, (a, b) in fresh.weights.items()}
        return Training(Adapter(fresh.spec, drawn))
