"""A base in memory that answers requests, each row under the adapter it names."""

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
from registry.serving.requests import Continued, Question, Row, Settings, Written, read_rows, read_settings
from registry.serving.shelf import Served, Shelf

__all__ = ["AdapterModel"]

_CHARACTERS = 64  # no token of a text is longer; what has more of them for every position need not be tokenised


class AdapterModel:
    """A base with an adapter, choosing options as the adapter's evaluation did.

    Parameters
    ----------
    model, tokenizer, base
        The base, held as it was when the adapter was trained; or a whole model, with ``adapter`` None.
    prompt, chat, day
        How the adapter is asked; ``day`` is what a chat template takes for today.
    name : str
        Registered model and version of the adapter, ``<model>/<version>``; empty where it is unknown.
    version : ModelVersion, optional
        That version, where the registry has it: the adapter is then served for as long as it does.
    shelf : Shelf, optional
        Where a request finds other adapters of the base.
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
        shelf: Shelf | None = None,
    ) -> None:
        self._model, self._tokenizer, self._base, self._shelf = model, tokenizer, base, shelf
        self._own = Served(name, adapter, prompt, chat, day)
        self._followed = shelf is not None and version is not None
        if shelf is not None and version is not None:
            shelf.add(self._own, version)
        self._on: Adapter | None = None
        self._stack = ExitStack()
        self._lock = threading.Lock()  # the scoring server asks from several threads; adapters are put on in turn

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
            ``acc_norm``) and ``loglikelihoods`` (nats); of prompts, ``text``. And ``adapter``, who answered.

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

    def _answers(self, rows: Sequence[Row], settings: Settings) -> list[dict[str, object]]:
        """Answer rows adapter by adapter; every one is found and every text read before any is computed."""
        served = {name: self._find(name) for name in dict.fromkeys(row.adapter for row in rows)}
        chats = {name: self._chat(one, settings) for name, one in served.items()}
        read = {row.number: self._read(row, served[row.adapter], chats[row.adapter], settings) for row in rows}
        answers: dict[int, dict[str, object]] = {}
        for name, one in served.items():
            self._put_on(one.adapter)
            own = [row for row in rows if row.adapter == name]
            if isinstance(own[0].asked, Continued):
                found: list[dict[str, object]] = [
                    {"text": self._continued(read[row.number].context, settings)} for row in own
                ]
            else:
                found = self._chosen(own, [read[row.number] for row in own], one.prompt)
            answers |= {row.number: {**answer, "adapter": one.name} for row, answer in zip(own, found, strict=True)}
        return [answers[row.number] for row in rows]

    def _find(self, name: str) -> Served:
        own = name in ("", self._own.name)
        if own and not self._followed:
            return self._own
        if self._shelf is None:
            raise Refused(f"adapter: {name[:100]!r} cannot be put on a full fine-tune, which is served here")
        return self._shelf.find(self._own.name if own else name)

    def _chat(self, served: Served, settings: Settings) -> bool:
        chat = served.chat if settings.chat is None else settings.chat
        if chat:
            require_chat_template(self._tokenizer, self._base.name)
        return chat

    def _put_on(self, adapter: Adapter | None) -> None:
        """Have the base be what an adapter makes of it; it stays so until another is asked for."""
        if adapter is self._on:
            return
        self._stack.close()
        self._on = None
        if adapter is not None:
            self._stack.enter_context(merged(self._model, adapter))
        self._on = adapter

    def _read(self, row: Row, served: Served, chat: bool, settings: Settings) -> Continuations:
        """Turn a row into tokens, and refuse what the base has no room for."""
        try:
            if isinstance(row.asked, Continued):
                return self._read_prompt(row.asked.prompt, chat, served.day, settings.max_new_tokens)
            return self._read_choice(row.asked, served, chat)
        except ValueError as error:
            raise Refused(f"row {row.number}: {error}") from None

    def _read_choice(self, asked: Question | Written, served: Served, chat: bool) -> Continuations:
        written = asked.written(served.prompt)
        for text in (written.context, *written.continuations):
            self._require_characters(text)
        pair = (written.context, written.continuations)
        (encoded,) = encode_queries(self._tokenizer, [pair], chat=chat, day=served.day)
        self._require_room(len(encoded.context) + max(map(len, encoded.options)) - 1, "shorten the question")
        return encoded

    def _read_prompt(self, prompt: str, chat: bool, day: date, new: int) -> Continuations:
        self._require_characters(prompt)
        if chat:
            # The beginning is encoded as that of a question is; the option behind it is not used.
            (encoded,) = encode_queries(self._tokenizer, [(prompt, (" .",))], chat=True, day=day)
            tokens = encoded.context
        else:
            tokens = tuple(encode_texts(self._tokenizer, [prompt])[0])
        self._require_room(len(tokens) + new, "shorten the prompt or lower max_new_tokens")
        return Continuations(tokens, ())

    def _require_characters(self, text: str) -> None:
        if len(text) > _CHARACTERS * self._base.max_positions:
            raise Refused(f"a text of {len(text):,} characters; the base takes {self._base.max_positions:,} tokens")

    def _require_room(self, tokens: int, remedy: str) -> None:
        if tokens > self._base.max_positions:
            raise Refused(f"{tokens:,} tokens, the base takes {self._base.max_positions:,}: {remedy}")

    def _chosen(self, rows: Sequence[Row], read: Sequence[Continuations], prompt: Prompt) -> list[dict[str, object]]:
        questions = ScoringSet(read, tokens_per_batch=4096, max_length=self._base.max_positions)
        answers = []
        for row, values in zip(rows, loglikelihoods(self._model, questions), strict=True):
            assert not isinstance(row.asked, Continued)
            written = row.asked.written(prompt)
            judged = values / np.asarray(written.lengths) if prompt.headline == "acc_norm" else values
            weights = np.exp(judged - judged.max())
            answers.append(
                {
                    "choice": written.options[int(np.argmax(judged))],
                    "probabilities": (weights / weights.sum()).tolist(),
                    "loglikelihoods": values.tolist(),
                }
            )
        return answers

    def _continued(self, tokens: Sequence[int], settings: Settings) -> str:
        """Continue a prompt, token by token, until the base ends it or there are as many as asked for."""
        asked = torch.tensor([list(tokens)], device=input_device(self._model))
        how = copy.deepcopy(self._model.generation_config)
        drawn = settings.temperature > 0
        # What a base's own file says about drawing is left aside: the request decides.
        how.update(
            do_sample=drawn,
            temperature=settings.temperature if drawn else None,
            top_k=0 if drawn else None,
            top_p=1.0 if drawn else None,
            repetition_penalty=1.0,
            max_new_tokens=settings.max_new_tokens,
            max_length=None,
            pad_token_id=self._padding(),
        )
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(settings.seed)
            found = cast(Any, self._model).generate(asked, attention_mask=torch.ones_like(asked), generation_config=how)
        return str(self._tokenizer.decode(found[0, asked.shape[1] :], skip_special_tokens=True))

    def _padding(self) -> int:
        """Return a token to fill up with; nothing is, one prompt being continued at a time, but generate wants one."""
        for token in (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0
