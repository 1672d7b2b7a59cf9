"""MLflow's own scoring server on a registered adapter: the evaluation's choices over HTTP, and bad requests."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from registry.cells import Cell
from registry.config.study import Study
from registry.planning.experiment import prepare
from registry.runner.single import evaluate_one, finetune_one, narrowed
from tests.mlflow_process import MlflowProcess

pytestmark = pytest.mark.slow

SOURCE = Cell("pair", "tr")


@dataclass(frozen=True)
class Served:
    """A server, and the outcomes that the adapter's evaluation recorded for a hundred items."""

    address: str
    study: Study
    recorded: pd.DataFrame

    def post(self, body: object) -> tuple[int, Any]:
        """Return status and answer; ``body`` is sent as it is where it is bytes."""
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.address, sent, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read().decode()
            return error.code, json.loads(text) if text.startswith("{") else text


@pytest.fixture(scope="module")
def served(new_store, small_study, base, tmp_path_factory) -> Iterator[Served]:
    study = small_study(("test: 16", "test: 100"), ("epochs: 1", "epochs: 2"))
    with pytest.MonkeyPatch.context() as patch:
        uri = new_store()
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        finetune_one(narrowed(study, task="kind", language="en", seed=17))
        chosen = narrowed(study, task="pair", language="tr", seed=42)
        finetune_one(chosen)
        files = evaluate_one(chosen).download(str(tmp_path_factory.mktemp("evaluation")))
        MlflowClient().set_registered_model_alias("tiny--pair--tr", "champion", "1")
        outcomes = pd.read_parquet(files / "outcomes.parquet")
        own = outcomes[(outcomes.task == SOURCE.task) & (outcomes.language == SOURCE.language)]
        arguments = ["models", "serve", "-m", "models:/tiny--pair--tr@champion", "--env-manager", "local"]
        config = {"SERVING_MODEL_CONFIG": json.dumps({"base_path": str(base)})}
        log = tmp_path_factory.mktemp("server") / "log"
        with MlflowProcess(arguments, log, ping="ping", environment=config) as server:
            yield Served(f"{server.address}/invocations", study, own)
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


def questions(served: Served) -> list[dict[str, Any]]:
    items = prepare(served.study).items.test(SOURCE)
    return [{"question": item.question, "options": list(item.options)} for item in items]


def test_a_hundred_items_are_answered_as_the_evaluation_answered_them(served: Served) -> None:
    asked = questions(served)
    assert len(asked) == 100
    status, answer = served.post({"dataframe_records": asked})
    assert status == 200
    chosen = served.recorded[served.recorded.chosen_norm].option.tolist()
    assert len(set(chosen)) > 1
    assert [one["choice"] for one in answer["predictions"]] == [
        question["options"][option] for question, option in zip(asked, chosen, strict=True)
    ]
    found = np.concatenate([one["loglikelihoods"] for one in answer["predictions"]])
    np.testing.assert_allclose(found, served.recorded.loglikelihood, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda rows: {"inputs": rows},
        lambda rows: {"instances": rows},
        lambda rows: {"dataframe_split": {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}},
    ],
    ids=["inputs", "instances", "split"],
)
def test_every_form_of_mlflows_requests_is_read_alike(served: Served, wrap: Callable[[list[Any]], Any]) -> None:
    rows = questions(served)[:3]
    status, answer = served.post(wrap(rows))
    assert (status, answer) == served.post({"dataframe_records": rows})
    assert status == 200


def test_a_request_names_another_adapter_of_the_base(served: Served) -> None:
    rows = questions(served)[:1] * 2
    rows[1] = rows[1] | {"adapter": "tiny--kind--en/1"}
    status, answer = served.post({"dataframe_records": rows})
    own, other = answer["predictions"]
    assert (status, own["adapter"], other["adapter"]) == (200, "tiny--pair--tr/1", "tiny--kind--en/1")
    assert own["loglikelihoods"] != other["loglikelihoods"]


def test_a_prompt_is_continued(served: Served) -> None:
    status, answer = served.post(
        {"dataframe_records": [{"prompt": "cat"}], "params": {"max_new_tokens": 5, "temperature": 1.0, "seed": 3}}
    )
    assert status == 200
    assert answer["predictions"][0]["text"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"dataframe_records": [{"question": "a?", "options": []}]}, "a choice needs at least two"),
        (
            {"dataframe_records": [{"question": 5, "options": ["x", "y"]}]},
            "row 0: question: input should be a valid string (got 5)",
        ),
        (
            {"dataframe_records": [{"question": "a?", "options": ["x", None]}]},
            "row 0: options[1]: input should be a valid string (got None)",
        ),
        (
            {"dataframe_records": [{"question": "a?", "options": {"x": 1}}]},
            "row 0: options: a list is needed, such as [a, b]",
        ),
        (
            {"dataframe_records": [{"question": "cat " * 999, "options": ["x", "y"]}]},
            "the base model takes 256: shorten the question",
        ),
        ({"dataframe_records": [{"prompt": "a"}], "params": {"adapter": "no--such--one/1"}}, "there is no adapter"),
        ({"dataframe_records": [{"prompt": "a"}], "params": {"temperature": "hot"}}, "temperature"),
        ({"dataframe_records": [{"prompt": "a"}], "params": [1]}, "Parameters must be a dictionary"),
        ({"dataframe_records": []}, "1 to 1,000 rows, not 0"),
        ({"dataframe_records": "x"}, "must be a list of records"),
        ({"inputs": [1, 2]}, "rows"),
        ([], "must be a JSON dictionary"),
        (b"no json", "valid JSON"),
        (b'{"dataframe_records": [{"prompt": "\\ud800"}]}', "surrogates"),
        (b'{"dataframe_records": [{"question": "a", "options": ["x", "\\udfff"]}]}', "surrogate"),
        (b"\xff\xfe", "valid JSON"),
    ],
    ids=str,
)
def test_a_bad_request_is_answered_with_400_and_the_reason(served: Served, body: object, reason: str) -> None:
    status, answer = served.post(body)
    assert status == 400
    assert reason in answer["message"]


def test_a_request_that_mlflow_itself_cannot_read_leaves_the_server_running(served: Served) -> None:
    served.post(b"[" * 100_000)
    status, _ = served.post({"dataframe_records": questions(served)[:1]})
    assert status == 200
