"""Microbatches through a base that several trainings share, in parts that fit into memory."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from registry.lora.bank import Bank, draw_seed
from registry.lora.batches import examples_batch
from registry.lora.encoding import Example, input_tokens, supervised_tokens
from registry.lora.forward import Batching, Forward, input_device
from registry.lora.full import Whole
from registry.lora.shared_prefixes import side_of
from registry.lora.training_state import TrainingState
from registry.models.memory import is_out_of_memory

__all__ = ["Microbatches"]

_log = logging.getLogger(__name__)


@dataclass
class Microbatches:
    """Forward and backward passes of several adapters' texts, or a whole base's, in parts that fit into memory."""

    base: PreTrainedModel
    bank: Bank | Whole
    forward: Forward
    batching: Batching
    budget: int | None

    def step(self, states: Sequence[TrainingState], groups: Sequence[Sequence[Example]]) -> list[float]:
        """Leave in every adapter's parameters the gradient of its mean loss; return the losses."""
        numbers = [state.number for state in states]
        seeds = [draw_seed(state.seed, len(state.log.losses)) for state in states]
        counts = [supervised_tokens(group) for group in groups]
        while True:
            try:
                sums = torch.zeros(len(groups), dtype=torch.float64)
                for places, parts in self._parts(groups):
                    totals = self._sums([numbers[place] for place in places], parts, [seeds[place] for place in places])
                    means = totals / torch.tensor([counts[place] for place in places], device=totals.device)
                    _total(means, [states[place] for place in places]).backward()
                    sums[places] += means.detach().double().cpu()
                return sums.tolist()
            except (torch.OutOfMemoryError, RuntimeError) as error:
                self._halve(error, groups)
            for number in numbers:
                for parameter in self.bank.parameters[number]:
                    parameter.grad = None
            gc.collect()
            if input_device(self.base).type == "cuda":
                torch.cuda.empty_cache()

    def losses(self, numbers: Sequence[int], groups: Sequence[Sequence[Example]], batch_size: int) -> list[float]:
        """Mean loss of each adapter on its own texts, ``batch_size`` at a time."""
        sums = torch.zeros(len(groups), dtype=torch.float64)
        with torch.inference_mode():
            for start in range(0, max(map(len, groups)), batch_size):
                taken = [group[start : start + batch_size] for group in groups]
                here = [place for place, group in enumerate(taken) if group]
                for places, parts in self._parts([taken[place] for place in here]):
                    among = [here[place] for place in places]
                    sums[among] += self._sums([numbers[place] for place in among], parts, None).double().cpu()
        return (sums / torch.tensor([supervised_tokens(group) for group in groups])).tolist()

    def _sums(self, numbers: list[int], groups: list[Sequence[Example]], seeds: list[int] | None) -> Tensor:
        """Summed loss of each adapter over its texts."""
        device = input_device(self.base)
        batch, labels, counts = examples_batch(groups, flat=self.batching.flat)
        self.bank.use(numbers, counts, seeds=seeds, tokens=batch.tokens.numel())
        logits = self.forward(batch.to(device))
        losses = torch.nn.functional.cross_entropy(logits.float(), labels.to(logits.device), reduction="none")
        return torch.stack([part.sum() for part in losses.split(counts)])

    def _parts(self, groups: Sequence[Sequence[Example]]) -> Iterator[tuple[list[int], list[Sequence[Example]]]]:
        """Divide every adapter's texts into parts that together keep to the budget; yield places and parts.

        A part holds texts of one side of the model's switches; without padding it holds one text.
        """
        sides = sorted({self._side(example) for group in groups for example in group})
        for side in sides:
            here = [[example for example in group if self._side(example) == side] for group in groups]
            yield from self._within_budget(here)

    def _within_budget(
        self, groups: Sequence[Sequence[Example]]
    ) -> Iterator[tuple[list[int], list[Sequence[Example]]]]:
        tokens = len(groups) * max(input_tokens(group) for group in groups)
        most = max(map(len, groups))
        count = 1 if self.budget is None else math.ceil(tokens / self.budget)
        count = min(count, most) if self.batching.padded else most
        divided = [np.array_split(np.arange(len(group)), count) for group in groups]
        for number in range(count):
            places = [place for place, parts in enumerate(divided) if len(parts[number])]
            yield places, [[groups[place][i] for i in divided[place][number]] for place in places]

    def _side(self, example: Example) -> int:
        return side_of(len(example.tokens) - 1, self.batching.switches)

    def _halve(self, error: RuntimeError, groups: Sequence[Sequence[Example]]) -> None:
        whole = len(groups) * max(input_tokens(group) for group in groups)
        budget = min(self.budget or whole, whole) // 2
        smallest = len(groups) * max(len(example.tokens) - 1 for group in groups for example in group)
        if not is_out_of_memory(error) or budget < smallest // 2:
            raise error
        error.__traceback__ = None  # its frames hold what did not fit
        self.budget = max(1, budget)
        _log.warning("out of memory: training goes on with %d tokens at once", self.budget)


def _total(means: Tensor, states: Sequence[TrainingState]) -> Tensor:
    """Return what the backward pass starts from: the sum of the states' mean losses, each scaled as it says."""
    if not states[0].scales:
        return means.sum()
    return torch.stack([state.scaled(mean) for state, mean in zip(states, means, strict=True)]).sum()
