"""A base model in memory that answers requests, each row with the adapter it names."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from registry.benchmarks.prompts import Prompt
from registry.config.study import CHAT_DATE
from registry.errors import Refused
from registry.lora.adapter import Adapter
from registry.lora.bank import merged
from registry.lora.chat import require_chat_template
from registry.lora.encoding import Continuations, encode_queries
from registry.lora.forward import input_device
from registry.lora.score import ScoringSet, loglikelihoods
from registry.lora.special_tokens import encode_texts
from registry.models.base import Base
from registry.serving.adapter_cache import AdapterCache, ServableAdapter
from registry.serving.requests import (
    ContinuationRow,
    PromptRow,
    QuestionRow,
    RequestRow,
    Settings,
    read_rows,
    read_settings,
)

__all__ = ["AdapterModel"]

_CHARACTERS = 64  # no token is longer; a text with more characters for every position need not be tokenized


class AdapterModel:
    """A base model with an adapter, which chooses options as the adapter's evaluation did.

    Parameters
    ----------
    model, tokenizer, base
        The base model, in the weight format of the adapter's training; or a whole model, with ``adapter`` None.
    prompt, chat, day
        How questions are put to the adapter; ``day`` is the current date of a chat template.
    name : str
        Registered model and version of the adapter, ``<model>/<version>``; empty where it is unknown.
    version : ModelVersion, optional
        That version, where the registry has it: the adapter is then served for as long as it does.
    cache : AdapterCache, optional
        Where a request finds other adapters of the base model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Prompt,
        base: Base,
        *,
        chat: bool = False,
        day: date = CHAT_DATE,
        adapter: Adapter | None = None,
        name: str = "",
        version: ModelVersion | None = None,
        cache: AdapterCache | None = None,
    ) -> None:
        self._model, self._tokenizer, self._base, self._cache = model, tokenizer, base, cache
        self._own = ServableAdapter(name, adapter, prompt, chat, day)
        self._in_cache = cache is not None and version is not None
        if cache is not None and version is not None:
            cache.add(self._own, version)
        self._active: Adapter | None = None
        self._stack = ExitStack()
        self._lock = threading.Lock()  # the scoring server calls from several threads; adapters are merged in turn

    def get_raw_model(self) -> PreTrainedModel:
        """Return the base model, for ``mlflow.pyfunc.PyFuncModel.get_raw_model``."""
        return self._model

    def predict(self, data: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Choose an option for each question, or continue each prompt.

        Parameters
        ----------
        data : DataFrame
            Columns ``question`` and ``options`` (lists of texts), or ``context`` and ``continuations``, or ``prompt``;
            and ``adapter``, where rows name one.
        params
            See :data:`registry.tracking.signature.DEFAULTS`.

        Returns
        -------
        DataFrame
            Of choices, columns ``choice`` (the option's text), ``probabilities`` (lists that sum to 1: the softmax of
            the options' log-likelihoods, divided by their lengths in characters where the prompt's headline is
            ``acc_norm``) and ``loglikelihoods`` (nats); of prompts, ``text``. And ``adapter``, the one that answered.

        Raises
        ------
        MlflowException
            INVALID_PARAMETER_VALUE, which the scoring server answers with HTTP 400, for what cannot be answered.
        """
        try:
            settings = read_settings(params)
            rows = read_rows(data, settings)
            with self._lock:
                answers = self._answers(rows, settings)
        except Refused as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        except FloatingPointError as error:
            raise MlflowException(str(error), error_code=INTERNAL_ERROR) from error
        return pd.DataFrame(answers, index=data.index)

    def _answers(self, rows: Sequence[RequestRow], settings: Settings) -> list[dict[str, object]]:
        """Answer rows adapter by adapter; all are found and all texts encoded before anything is computed."""
        adapters = {name: self._find(name) for name in dict.fromkeys(row.adapter for row in rows)}
        chats = {name: self._chat(one, settings) for name, one in adapters.items()}
        encoded = [
            self._encode(number, row, adapters[row.adapter], chats[row.adapter], settings)
            for number, row in enumerate(rows)
        ]
        answers: dict[int, dict[str, object]] = {}
        for name, one in adapters.items():
            self._activate(one.adapter)
            own = [number for number, row in enumerate(rows) if row.adapter == name]
            pairs = [(rows[number], encoded[number]) for number in own]
            found = self._answer_rows(pairs, one, settings)
            answers |= {number: {**answer, "adapter": one.name} for number, answer in zip(own, found, strict=True)}
        return [answers[number] for number in range(len(rows))]

    def _answer_rows(
        self, pairs: Sequence[tuple[RequestRow, Continuations]], adapter: ServableAdapter, settings: Settings
    ) -> list[dict[str, object]]:
        """Answer rows, all of one form, with the active adapter."""
        choices = [(row, tokens) for row, tokens in pairs if not isinstance(row, PromptRow)]
        if choices:
            return self._choose(choices, adapter.prompt)
        return [{"text": self._continue(tokens.context, settings)} for _, tokens in pairs]

    def _find(self, name: str) -> ServableAdapter:
        own = name in ("", self._own.name)
        if own and not self._in_cache:
            return self._own
        if self._cache is None:
            raise Refused(f"adapter: {name[:100]!r} cannot be applied to a full fine-tune, which is served here")
        return self._cache.find(self._own.name if own else name)

    def _chat(self, adapter: ServableAdapter, settings: Settings) -> bool:
        chat = adapter.chat if settings.chat_template is None else settings.chat_template
        if chat:
            require_chat_template(self._tokenizer, self._base.name)
        return chat

    def _activate(self, adapter: Adapter | None) -> None:
        """Merge an adapter into the base model; it stays merged until another is activated."""
        if adapter is self._active:
            return
        self._stack.close()
        self._active = None
        if adapter is not None:
            self._stack.enter_context(merged(self._model, adapter))
        self._active = adapter

    def _encode(
        self, number: int, row: RequestRow, adapter: ServableAdapter, chat: bool, settings: Settings
    ) -> Continuations:
        """Turn a row into tokens, and refuse what is too long for the base model."""
        try:
            if isinstance(row, PromptRow):
                return self._encode_prompt(row.prompt, chat, adapter.day, settings.max_new_tokens)
            return self._encode_choice(row, adapter, chat)
        except ValueError as error:
            raise Refused(f"row {number}: {error}") from None

    def _encode_choice(self, row: QuestionRow | ContinuationRow, adapter: ServableAdapter, chat: bool) -> Continuations:
        query = row.query(adapter.prompt)
        for text in (query.context, *query.continuations):
            self._require_characters(text)
        pair = (query.context, query.continuations)
        (encoded,) = encode_queries(self._tokenizer, [pair], chat=chat, day=adapter.day)
        self._require_positions(len(encoded.context) + max(map(len, encoded.options)) - 1, "shorten the question")
        return encoded

    def _encode_prompt(self, prompt: str, chat: bool, day: date, new: int) -> Continuations:
        self._require_characters(prompt)
        if chat:
            # The context is encoded as that of a question is; the option after it is not used.
            (encoded,) = encode_queries(self._tokenizer, [(prompt, (" .",))], chat=True, day=day)
            tokens = encoded.context
        else:
            tokens = tuple(encode_texts(self._tokenizer, [prompt])[0])
        self._require_positions(len(tokens) + new, "shorten the prompt or lower max_new_tokens")
        return Continuations(tokens, ())

    def _require_characters(self, text: str) -> None:
        if len(text) > _CHARACTERS * self._base.max_positions:
            most = self._base.max_positions
            raise Refused(f"a text of {len(text):,} characters; the base model takes {most:,} tokens")

    def _require_positions(self, tokens: int, remedy: str) -> None:
        if tokens > self._base.max_positions:
            raise Refused(f"{tokens:,} tokens, the base model takes {self._base.max_positions:,}: {remedy}")

    def _choose(
        self, pairs: Sequence[tuple[QuestionRow | ContinuationRow, Continuations]], prompt: Prompt
    ) -> list[dict[str, object]]:
        encoded = [tokens for _, tokens in pairs]
        questions = ScoringSet(encoded, tokens_per_batch=4096, max_length=self._base.max_positions)
        answers = []
        for (row, _), values in zip(pairs, loglikelihoods(self._model, questions), strict=True):
            normed = prompt.headline == "acc_norm"
            scores = values / np.asarray(row.query(prompt).lengths) if normed else values
            weights = np.exp(scores - scores.max())
            answers.append(
                {
                    "choice": row.options[int(np.argmax(scores))],
                    "probabilities": (weights / weights.sum()).tolist(),
                    "loglikelihoods": values.tolist(),
                }
            )
        return answers

    def _continue(self, tokens: Sequence[int], settings: Settings) -> str:
        """Continue a prompt until the base model ends it or ``max_new_tokens`` is reached."""
        inputs = torch.tensor([list(tokens)], device=input_device(self._model))
        config = copy.deepcopy(self._model.generation_config)
        sample = settings.temperature > 0
        # The sampling settings in the base model's own file are ignored: the request decides.
        config.update(
            do_sample=sample,
            temperature=settings.temperature if sample else None,
            top_k=0 if sample else None,
            top_p=1.0 if sample else None,
            repetition_penalty=1.0,
            max_new_tokens=settings.max_new_tokens,
            max_length=None,
            pad_token_id=self._padding(),
        )
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(settings.seed)
            mask = torch.ones_like(inputs)
            output = cast(Any, self._model).generate(inputs, attention_mask=mask, generation_config=config)
        return str(self._tokenizer.decode(output[0, inputs.shape[1] :], skip_special_tokens=True))

    def _padding(self) -> int:
        """Return a padding token; none is used for a single prompt, but ``generate`` requires one."""
        for token in (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0
