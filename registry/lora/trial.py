"""Finding out how a base may be given its batches, by trying it before anything is scored or trained.

What a model makes of one sequence alone, read as transformers reads it, is the measure. Architectures differ in what
they take from a sequence's neighbours: layers that mix all tokens of a row, positions counted through the row,
frequencies chosen by a batch's longest input, padding that is not masked. So each way of laying batches out is tried on
random tokens, the fastest first, and the first that changes nothing is taken.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from registry.errors import Refused
from registry.lora.attention import Unsupported
from registry.lora.batches import Batch, scoring_batch
from registry.lora.encoding import Continuations
from registry.lora.forward import Batching, compute_prefix, input_device, reading
from registry.lora.shared_prefixes import Row, question_rows, split
from registry.models.architecture import brief, has_position_table, longest_input, rope_switches
from registry.models.memory import is_out_of_memory

__all__ = ["batching_of"]

_log = logging.getLogger(__name__)

#: Largest relative difference of logits that rounding explains; a lost context is far above.
_ROUNDING = {torch.float32: 3e-4, torch.float64: 1e-6}
_HALF_ROUNDING = 0.05

#: Ways to lay batches out, the fastest first, and what is said of a base that needs one of them.
_LADDER = {
    Batching(flat=True, shared=True, padded=True): "",
    Batching(flat=True, shared=False, padded=True): "computes what questions share anew for each of them",
    Batching(flat=False, shared=False, padded=True): "runs one option per row, several times slower",
    Batching(flat=False, shared=False, padded=False): "runs one option at a time, many times slower",
}
#: Kinds of layers that flat attention computes, and those besides whose padding changes nothing. Others choose what
#: tokens see by what else is there (an index over all keys, compressed blocks), which short trials would not show.
_FLAT_KINDS = {"full_attention", "sliding_attention"}
_PADDED_KINDS = _FLAT_KINDS | {
    *("chunked_attention", "linear_attention", "conv", "hybrid", "hybrid_sliding", "moe", "mlp", "dense", "sparse")
}
_LONG = 192  # tokens of the longest sequence that is tried
_FAR = 2**17  # positions that are tried reach up to here, or to the model's longest input
_FAILURES = (Unsupported, TypeError, ValueError, AttributeError, IndexError, KeyError, RuntimeError, AssertionError)

_known: WeakKeyDictionary[PreTrainedModel, Batching] = WeakKeyDictionary()


def batching_of(model: PreTrainedModel) -> Batching:
    """Return how batches may be laid out for a model; tried once for each model in memory, and said if it is slow.

    Raises
    ------
    Refused
        If the model does not predict each token from those before it alone, gives other logits each time, or cannot be
        run on token ids.
    """
    if model not in _known:
        with torch.inference_mode(), _evaluating(model):
            _known[model] = _find(model)
    return _known[model]


def _find(model: PreTrainedModel) -> Batching:
    trial = _Trial(model)
    trial.require_causal()
    trial.require_longest()
    switches, reason = rope_switches(model.config), ""
    for batching, consequence in _LADDER.items():
        found = trial.obstacle(replace(batching, switches=switches))
        if found is None:
            if consequence:
                _log.warning("%s %s: %s", model.config.model_type, consequence, reason)
            return replace(batching, switches=switches)
        reason = reason or found
    raise Refused(f"the base {model.config.model_type} cannot be scored: {reason}")


class _Trial:
    """Random sequences, what a model makes of each alone, and what it makes of them in batches."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._generator = torch.Generator().manual_seed(0)
        self._tokens = _plain_tokens(model)
        self._longest = longest_input(model)
        shared = self._draw(5)
        self._queries = [
            Continuations(self._draw(min(self._longest or _LONG, _LONG) - 4), (self._draw(3), self._draw(3))),
            Continuations(shared + self._draw(5), (self._draw(3), self._draw(3))),
            Continuations(self._draw(4), (self._draw(2), self._draw(4))),
            Continuations(shared + self._draw(2), (self._draw(2), self._draw(2))),
        ]
        self._alone: list[Tensor] = []

    def require_causal(self) -> None:
        """Refuse a model that sees what is to be predicted, or whose logits are drawn."""
        kind, half = self.model.config.model_type, min(self._longest or _LONG, _LONG) // 2
        tokens = self._draw(2 * half)
        changed = tokens[:half] + self._draw(half)
        try:
            first, again, other = (self._plain(sequence) for sequence in (tokens, tokens, changed))
            self._alone = [
                self._plain(query.context + option[:-1])[len(query.context) - 1 :]
                for query in self._queries
                for option in query.options
            ]
        except _FAILURES as error:
            if is_out_of_memory(error):
                raise
            raise Refused(f"the base {kind} cannot be run on token ids alone: {brief(error)}") from error
        if not bool(torch.isfinite(first).all()):
            raise Refused(f"the base {kind} computes logits that are not numbers; fp16 overflows above 65,504")
        if self._differ(again, first):
            raise Refused(f"the base {kind} gives other logits each time, so scores would be random")
        if self._differ(other[:half], first[:half]):
            raise Refused(
                f"the base {kind} sees the tokens that it is to predict, so it is no causal language model as "
                "configured (is_decoder: true in config.json makes a decoder of an encoder)"
            )

    def require_longest(self) -> None:
        """Refuse a model whose learned position embeddings end before its longest input."""
        if self._longest is None or self._longest > 2**13 or not has_position_table(self.model):
            return
        try:
            self._plain(self._draw(self._longest))
        except IndexError as error:
            raise Refused(
                f"the base {self.model.config.model_type} cannot read the {self._longest:,} tokens that its "
                "configuration states: its position embeddings end before; lower max_position_embeddings in config.json"
            ) from error

    def obstacle(self, batching: Batching) -> str | None:
        """Return why batches laid out so are not computed right, None if they are."""
        if batching.padded:
            supported = _FLAT_KINDS if batching.flat else _PADDED_KINDS
            kinds = set(getattr(self.model.config.get_text_config(), "layer_types", None) or ()) - supported
            if kinds:
                return f"it has layers of kind {', '.join(sorted(kinds))}"
        try:
            found, windowed = self._in_batches(batching)
            if batching.flat and not windowed and _windows(self.model):
                return "it limits how far back tokens see in a way of its own"
            far = self._far_apart(batching) if batching.flat else None
        except _FAILURES as error:
            if is_out_of_memory(error):
                raise
            return str(error) if isinstance(error, Unsupported) else brief(error)
        for one, other in zip(found, self._alone, strict=True):
            if difference := self._differ(one, other):
                return f"its logits differ by {100 * difference:.2g} % from those of a sequence alone"
        return far

    def _in_batches(self, batching: Batching) -> tuple[list[Tensor], bool]:
        """Compute the logits behind each option's tokens in batches; and whether sliding windows were heard of."""
        rows = question_rows(
            self._queries,
            max_length=_LONG,
            siblings=batching.flat,
            worth=1 if batching.shared else float("inf"),
            switches=batching.switches,
        )
        found: dict[tuple[int, int], Tensor] = {}
        windowed = False
        with reading(self.model, batching) as forward:
            for part in split(rows, 10**6) if batching.padded else [[row] for row in rows]:
                batch = scoring_batch(part, flat=batching.flat).to(self._device)
                if part[0].prefix:
                    assert batch.batch.layout is not None
                    batch.batch.layout.prefix = compute_prefix(forward, part[0].prefix, self._device)
                logits = forward(batch.batch).float()[batch.predictor].cpu()
                ends = [*batch.starts.tolist(), len(logits)]
                for sequence, (start, end) in zip(batch.sequences, pairwise(ends), strict=True):
                    found[sequence] = logits[start:end]
                windowed |= batch.batch.layout is not None and batch.batch.layout.windowed
        return [found[sequence] for sequence in sorted(found)], windowed

    def _far_apart(self, batching: Batching) -> str | None:
        """Say how sequences at the beginning and at the end of the longest input change each other in one flat batch.

        Sequences on different sides of a switch are never in one batch; there both are put at the end.
        """
        limit = min(self._longest or _FAR, _FAR)
        starts = (limit - 24 if batching.switches else 0, limit - 8)
        if limit <= 64 or any(starts[0] + 8 <= switch < limit for switch in batching.switches):
            return None
        sequences = [self._draw(8) for _ in starts]
        alone = [self._plain(sequence, start=start) for sequence, start in zip(sequences, starts, strict=True)]
        batch = scoring_batch([Row(number, (), tokens, ((0, (0,)),)) for number, tokens in enumerate(sequences)]).batch
        positions = torch.cat([torch.arange(start, start + 8) for start in starts])[None]
        with reading(self.model, batching) as forward:
            found = forward(replace(batch, positions=positions).to(self._device)).float().cpu()
        if any(self._differ(one[None], other[-1:]) for one, other in zip(found, alone, strict=True)):
            return "its logits differ with the longest input of a batch"
        return None

    def _plain(self, tokens: Sequence[int], *, start: int = 0) -> Tensor:
        """Compute the logits of one sequence as transformers does, (tokens, vocabulary), in float32."""
        sequence = torch.arange(len(tokens))[None]
        batch = Batch(torch.tensor([tokens]), sequence, sequence[0]).to(self._device)
        if start:
            given = {"input_ids": batch.tokens, "position_ids": batch.positions + start, "use_cache": False}
            logits: Tensor = self.model(**given).logits
            return logits[0].float().cpu()
        with reading(self.model, Batching(flat=False, shared=False, padded=False)) as forward:
            return forward(batch).float().cpu()

    def _differ(self, one: Tensor, other: Tensor) -> float:
        """Return the relative difference of logits where it is more than rounding, else 0."""
        if one.shape != other.shape:
            return 1.0
        if not one.numel():
            return 0.0
        scale = (other - other.mean(dim=-1, keepdim=True)).norm().clamp(min=1e-12)
        difference = float((one - other).norm() / scale)
        within = difference <= _ROUNDING.get(self.model.dtype, _HALF_ROUNDING)  # not-a-number is not
        return 0.0 if within else difference

    def _draw(self, count: int) -> tuple[int, ...]:
        places = torch.randint(len(self._tokens), (count,), generator=self._generator)
        return tuple(self._tokens[places].tolist())

    @property
    def _device(self) -> torch.device:
        return input_device(self.model)


def _plain_tokens(model: PreTrainedModel) -> Tensor:
    """Return the token ids that stand for text: not for images, padding, beginnings or ends."""
    configs = {id(config): config for config in (model.config, model.config.get_text_config())}.values()
    special = {
        number
        for config in configs
        for name, value in config.to_dict().items()
        if name.endswith(("token_id", "token_index", "token_ids"))
        for number in (value if isinstance(value, list) else [value])
        if isinstance(number, int)
    }
    tokens = torch.arange(model.config.get_text_config().vocab_size)
    return tokens[~torch.isin(tokens, torch.tensor(sorted(special), dtype=torch.long))]


def _windows(model: PreTrainedModel) -> bool:
    """Whether a configuration speaks of windows that would not be noticed on short sequences."""
    text = model.config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if kinds:
        return "sliding_attention" in kinds
    return any(
        "window" in name and "layers" not in name and isinstance(value, int) and value > 1
        for name, value in text.to_dict().items()
    )


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
