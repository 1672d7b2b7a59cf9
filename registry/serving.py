"""A registered adapter as an MLflow pyfunc: questions and options in, the chosen option and its probabilities out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from registry.benchmarks.items import Item
from registry.benchmarks.prompts import Prompt
from registry.lora.adapter import load_adapter
from registry.lora.score import ScoringSet, loglikelihoods
from registry.lora.tokens import encode_queries
from registry.models import Base, load_base, load_tokenizer, resolve_base
from registry.refusal import Refused
from registry.study import BaseSpec

__all__ = ["AdapterModel"]


class AdapterModel:
    """A base with an adapter merged in, choosing options as the adapter's evaluation did."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Prompt,
        base: Base,
        *,
        chat: bool = False,
    ) -> None:
        self._model, self._tokenizer, self._prompt, self._base, self._chat = model, tokenizer, prompt, base, chat

    def predict(self, data: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Choose an option for each question.

        Parameters
        ----------
        data : DataFrame
            Columns ``question`` (text) and ``options`` (list of texts).

        Returns
        -------
        DataFrame
            Columns ``choice`` (the option's text) and ``probabilities`` (list, one per option, summing to 1): the
            softmax of the options' log-likelihoods, divided by their lengths in characters where the prompt's headline
            is ``acc_norm``.
        """
        items = [_item(number, row.question, row.options) for number, row in enumerate(data.itertuples(index=False))]
        queries = [self._prompt.query(item) for item in items]
        pairs = [(query.context, query.continuations) for query in queries]
        encoded = encode_queries(self._tokenizer, pairs, chat=self._chat)
        questions = ScoringSet(encoded, tokens_per_batch=4096, max_length=self._base.max_positions)
        probabilities = []
        for query, values in zip(queries, loglikelihoods(self._model, questions), strict=True):
            if self._prompt.headline == "acc_norm":
                values = values / np.asarray(query.lengths)
            weights = np.exp(values - values.max())
            probabilities.append((weights / weights.sum()).tolist())
        choices = [item.options[int(np.argmax(row))] for item, row in zip(items, probabilities, strict=True)]
        return pd.DataFrame({"choice": choices, "probabilities": probabilities}, index=data.index)


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> AdapterModel:
    """Load an adapter's folder; called by MLflow.

    Parameters
    ----------
    model_config
        ``base_path``: folder of the base model, for a base that is neither built in nor on the hub.

    Raises
    ------
    Refused
        If the base here is not the one the adapter was trained on.
    """
    told = yaml.safe_load((Path(path) / "MLmodel").read_text(encoding="utf-8"))["metadata"]
    wanted = told["base"]
    folder = (model_config or {}).get("base_path") or None
    hub_revision = None if wanted["revision"].startswith("sha256:") else wanted["revision"]
    try:
        base = resolve_base(BaseSpec(name=wanted["name"], path=folder, revision=hub_revision))
    except Refused as error:
        raise Refused(f"{error}; a base in a folder is named by model_config={{'base_path': folder}}") from None
    if base.revision != wanted["revision"]:
        raise Refused(
            f"the base {base.name!r} here is {base.revision}; this adapter was trained on {wanted['revision']}"
        )
    model = load_base(base, dtype=torch.float32, device="cpu")
    whole = load_adapter(model, Path(path)).merge_and_unload()
    chat = told.get("chat_template", False)  # adapters registered before there was the choice were scored plain
    return AdapterModel(whole, load_tokenizer(base), Prompt(**told["prompt"]), base, chat=chat)


def _item(number: int, question: object, options: object) -> Item:
    if not isinstance(options, Sequence | np.ndarray) or isinstance(options, str):
        raise ValueError(f"row {number}: options must be a list of texts, not {type(options).__name__}")
    return Item(str(number), str(question), tuple(map(str, options)), answer=0)
