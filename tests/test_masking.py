"""Secrets: hidden wherever they stand in an address or a text, refused where MLflow would record them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from registry.masking import has_secret, mask, mask_uri
from registry.paths import PROJECT
from registry.tracking.names import Kind
from registry.tracking.runs import recorded
from registry.tracking.store import experiment_id

SECRET = "s3cr-et"

HELD = [
    f"postgresql://me:{SECRET}@db/mlflow",
    f"postgresql+psycopg://db/mlflow?user=me&password={SECRET}",
    f"postgresql://db/mlflow?sslmode=verify-full&sslpassword={SECRET}",
    f"postgresql://db/x?PassWord={SECRET}",
    f"postgresql://db/x?pass%77ord={SECRET}&connect_timeout=1",
    f"postgresql://me%3A{SECRET}@db/x",
    f"postgresql://me:p/{SECRET}@db/x",
    f"postgresql://me:p@{SECRET}@db/x",
    f"postgresql://me:a?{SECRET}@db/x",
    f"postgresql://:{SECRET}@db/x",
    f"mysql+pymysql://me:{SECRET}@db:3306/x?charset=utf8",
    f"mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BUID%3Dme%3BPWD%3D{SECRET}%3B",
    f"https://me:{SECRET}@tracking.example:5000/path?a=b",
    f"https://tracking.example/?access_token={SECRET}",
    f"https://tracking.example/#token={SECRET}",
    f"https://tracking.example/?next=postgresql%3A%2F%2Fme%3A{SECRET}%40db%2Fx",
    f"s3://bucket/x?secret_key={SECRET}",
    f"redis://:{SECRET}@cache:6379/0",
]
PLAIN = [
    "postgresql+psycopg://mlflow@localhost/mlflow",
    "postgresql://db:5432/mlflow?application_name=a@b",
    "postgresql://me@db/x?passfile=/home/me/.pgpass&sslkey=/home/me/key",
    "sqlite:////home/me@work/a:b/mlflow.db?timeout=60",
    "http://localhost:5000/users@x",
    "file:///a:b@c/d",
    "models:/demo-wide--kind--tr@champion",
    "reports/demo",
    "*/en",
]


@pytest.mark.parametrize("uri", HELD)
def test_no_secret_of_an_address_is_shown(uri: str) -> None:
    assert SECRET not in mask_uri(uri)
    assert mask_uri(uri).partition("://")[0] == uri.partition("://")[0]
    assert mask_uri(mask_uri(uri)) == mask_uri(uri)
    assert SECRET not in mask(f"cannot open '{uri}' ({uri}): no route")
    assert has_secret(uri)


@pytest.mark.parametrize("uri", PLAIN)
def test_an_address_without_a_secret_stays_as_it_is(uri: str) -> None:
    assert mask_uri(uri) == uri
    assert mask(f"see {uri}, please") == f"see {uri}, please"
    assert not has_secret(uri)


@pytest.mark.parametrize(
    "text",
    [
        f'connection to "host=db user=me password={SECRET} port=5432" failed',
        f"conninfo: password = '{SECRET}'",
        "Authorization: Bearer abcdefghijklmnopqrst" + SECRET,
        "the token hf_AbCdEfGhIjKlMnOpQrStUv is invalid",
        "https://hf_AbCdEfGhIjKlMnOpQrStUv@huggingface.co/me/x",
    ],
)
def test_no_secret_of_a_text_is_shown(text: str) -> None:
    assert SECRET not in mask(text)
    assert "AbCdEfGh" not in mask(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLFLOW_TRACKING_PASSWORD", SECRET),
        ("HF_TOKEN", SECRET),
        ("PGPASSWORD", SECRET),
        ("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@tracking.example"),
        ("MLFLOW_TRACKING_URI", "postgresql://me:s3cr%2Det@db/x"),
    ],
)
def test_secrets_of_the_environment_are_hidden_in_what_libraries_say(monkeypatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert mask(f"invalid port number: {SECRET}") == "invalid port number: ***"
    assert mask("password authentication failed for user me") == "password authentication failed for user me"
    assert mask(f"study {SECRET}", of_environment=False) == f"study {SECRET}"


def test_no_secret_is_recorded_and_names_stay_as_they_are(client, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "translate")
    held, shown = f"postgresql://me:{SECRET}@db/x", "postgresql://me:***@db/x"
    given = {"kind": Kind.STUDY, "name": "x", "tags": {"task": "translate", "from": held}, "params": {"at": held}}
    with recorded(client, experiment_id(client, "small"), description=f"of {held}", **given) as recording:
        recording.tags({"later": held})
    run = client.get_run(recording.run_id)
    assert (run.data.params["at"], run.data.tags["from"], run.data.tags["later"]) == (shown, shown, shown)
    assert run.data.tags["task"] == "translate"
    assert run.data.tags["mlflow.note.content"] == f"of {shown}"


def test_remedies_stay_readable() -> None:
    remedy = "export MLFLOW_TRACKING_USERNAME=<name> MLFLOW_TRACKING_PASSWORD=<password>"
    assert mask(remedy) == remedy


PROGRAM = """
import logging, threading
from entrypoints.command import run_command
from registry.errors import Refused
uri = "postgresql://db/x?password=" + "-".join(["s3cr", "et"])
def fail():
    raise {error}(f"cannot open {{uri}}")
def command():
    print("opened", uri)
    logging.warning("opened %s", uri)
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    fail()
run_command(command)
"""


@pytest.mark.parametrize(("error", "code"), [("Refused", 2), ("RuntimeError", 1)])
def test_nothing_that_a_command_prints_holds_a_secret(error: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(error=error)], cwd=PROJECT, capture_output=True, text=True
    )
    shown = "postgresql://db/x?password=***"
    assert SECRET not in done.stdout + done.stderr
    assert (done.returncode, done.stdout) == (code, f"opened {shown}\n")
    assert f"WARNING: opened {shown}\n" in done.stderr
    assert done.stderr.count(f"cannot open {shown}") == 2


def test_a_secret_among_the_parameters_of_mlflow_run_is_refused(command, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "a" * 32)
    for name, given in {
        "tune": ("--storage", f"postgresql://me:{SECRET}@db/tune"),
        "finetune": ("--model", "https://me:hf_AbCdEfGhIjKlMnOpQrStUv@huggingface.co/x"),
        "pull": ("--push", "hf_AbCdEfGhIjKlMnOpQrStUv/x"),
    }.items():
        code, output, errors = command(name, *given)
        assert (code, output) == (2, "")
        assert SECRET not in errors
        assert "hf_Ab" not in errors
        assert f"mlflow gc --run-ids {'a' * 32}" in errors
        assert "~/.pgpass" in errors
        assert errors.count("\n") <= 2
