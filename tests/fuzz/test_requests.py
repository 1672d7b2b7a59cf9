"""Whatever is posted to a served adapter, it answers, or says with a client's error what was wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc import PyFuncModel, add_to_model
from mlflow.pyfunc.scoring_server import infer_and_parse_data, init

from registry.benchmarks.prompts import PROMPTS
from registry.models.base import Base
from registry.serving import AdapterModel
from registry.tracking.signature import SIGNATURE
from tests.fuzz.conftest import tried
from tests.fuzz.hostile import NAMES, VALUES, bent, broken

WHOLE: dict[str, Any] = {
    "dataframe_records": [{"question": "Which?", "options": ["a", "b"]}, {"question": "What?", "options": ["c", "d"]}],
    "params": {"adapter": "", "chat_template": "", "max_new_tokens": 2, "temperature": 0.0, "seed": 1},
}
OTHERS: list[dict[str, Any]] = [
    {"dataframe_records": [{"context": "A b", "continuations": [" c", " d"]}]},
    {"dataframe_records": [{"prompt": "A b"}], "params": {"max_new_tokens": 2}},
    {"dataframe_split": {"columns": ["question", "options"], "data": [["Q", ["a", "b"]]]}},
    {"inputs": [{"question": "Q", "options": ["a", "b"]}]},
    {"instances": [{"question": "Q", "options": ["a", "b"]}]},
]


@pytest.fixture(scope="module")
def served(make_llama, tokenizer) -> TestClient:
    """An untouched base behind MLflow's scoring server."""
    base = Base("tiny", "tiny", "tiny", "sha256:0", "llama", 0.001, 256)
    meta = Model(signature=SIGNATURE)
    add_to_model(meta, loader_module="registry.serving")
    model = AdapterModel(make_llama(), tokenizer, next(iter(PROMPTS.values())), base)
    return TestClient(init(PyFuncModel(model_meta=meta, model_impl=model)), raise_server_exceptions=False)


def post(served: TestClient, body: bytes, kind: str = "application/json") -> int:
    answer = served.post("/invocations", content=body, headers={"content-type": kind})
    if answer.status_code == 500 and _stops_mlflow(body):
        return 500
    assert answer.status_code in (200, 400, 415, 422), (answer.status_code, answer.text[:2000])
    assert answer.text.strip()
    if answer.status_code == 400:
        assert "Traceback" not in answer.json()["message"]
    return answer.status_code


def _stops_mlflow(body: bytes) -> bool:
    """Whether MLflow's own reading of a body breaks off before the model is asked, which we cannot mend."""
    try:
        infer_and_parse_data(json.loads(body), SIGNATURE.inputs)
    except MlflowException:
        return False
    except (RecursionError, ValueError, TypeError):
        return True
    return False


@pytest.mark.parametrize("whole", [WHOLE, *OTHERS[:3]], ids=lambda whole: str(whole)[:40])
def test_the_whole_requests_are_answered(served: TestClient, whole: dict[str, Any]) -> None:
    assert post(served, json.dumps(whole).encode()) == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"\0", b"\xff", b"[]", b"{}", b"null", b"[" * 20_000, b'{"dataframe_records": ' + b"[" * 5000, b"1e999",
     b'{"dataframe_records": []}', b'{"dataframe_records": [{}]}', b'{"dataframe_records": [[]]}',
     b'{"dataframe_split": {"columns": ["question"], "data": [[1, 2]]}}', b'{"dataframe_records": {"a": 1}}',
     b'{"dataframe_records": [{"prompt": "\\ud800"}]}', b'{"dataframe_records": [{"question": "q", "options": "ab"}]}',
     b'{"inputs": {"question": ["a", "b"], "options": [["a", "b"]]}}',
     b'{"dataframe_records": [{"prompt": "a"}], "params": {"seed": ' + b"9" * 5000 + b"}}",
     b'{"dataframe_records": [{"prompt": "a"}], "params": {"max_new_tokens": 1e30}}',
     b'{"dataframe_records": [{"prompt": "a"}], "params": {"temperature": NaN}}',
     b'{"dataframe_records": [{"prompt": "a"}], "params": []}'],
    ids=lambda body: body[:60].decode("ascii", "replace"),
)  # fmt: skip
def test_known_to_be_broken(served: TestClient, body: bytes) -> None:
    post(served, body)


@st.composite
def bodies(draw: Any) -> tuple[bytes, str]:
    """A body and its media type."""
    whole = draw(st.sampled_from([WHOLE, *OTHERS]))
    kind = draw(st.sampled_from(["application/json"] * 8 + ["text/csv", "text/html", "application/x-pickle", "%"]))
    if draw(st.integers(0, 3)) == 0:
        return draw(broken(json.dumps(whole).encode())), kind
    if draw(st.integers(0, 3)) == 0:
        column = draw(st.sampled_from(["question", "options", "context", "continuations", "prompt", "adapter"]) | NAMES)
        changed: Any = {"dataframe_records": [{"prompt": "a"} | {column: draw(VALUES)}]}
    else:
        changed = draw(bent(whole))
    return json.dumps(changed, default=str).encode("utf-8", "replace"), kind


@tried(30)
@given(body=bodies())
def test_a_hostile_body(served: TestClient, body: tuple[bytes, str]) -> None:
    post(served, *body)


@pytest.mark.slow
@tried(300)
@given(body=bodies())
def test_many_hostile_bodies(served: TestClient, body: tuple[bytes, str]) -> None:
    post(served, *body)
