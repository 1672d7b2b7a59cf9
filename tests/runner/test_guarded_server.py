"""The server that docs/server.md configures, started as it stands there: whom it refuses, and a study against it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client

from registry.paths import PROJECT
from registry.tracking.store import open_store
from tests.mlflow_process import MlflowProcess, free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="install Debian's openssl"),
]

GUIDE = (PROJECT / "docs" / "server.md").read_text(encoding="utf-8")
PASSWORD = "a password for ada"


def written(pattern: str) -> str:
    """Return what the guide has in a place."""
    (found,) = re.findall(pattern, GUIDE, re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Iterator[str]:
    """A PostgreSQL server with the guide's two databases; what stands in the guide's addresses for user and host."""
    pgserver = pytest.importorskip("pgserver", reason="install pgserver: pip install -e '.[test]'")
    server = pgserver.get_server(tmp_path_factory.mktemp("database") / "pg", cleanup_mode="delete")
    for name in ("mlflow", "mlflow_auth"):
        server.psql(f"CREATE DATABASE {name}")
    yield server.get_uri(database="{}").replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()


@pytest.fixture(scope="module")
def environment(database, tmp_path_factory) -> dict[str, str]:
    """The server's environment, made by the guide's commands in other folders and with another database address."""
    folder = tmp_path_factory.mktemp("etc")

    def here(text: str) -> str:
        for name in ("mlflow", "mlflow_auth"):
            text = re.sub(rf"postgresql\+psycopg://mlflow@localhost/{name}$", database.format(name), text, flags=re.M)
        return text.replace("/etc/mlflow", str(folder))

    (folder / "auth.ini").write_text(here(written(r"auth\.ini <<'END'\n(.*?)\nEND")), encoding="utf-8")
    lines = here(written(r"/etc/mlflow/environment <<END\n(.*?)\nEND"))
    script = f"cat <<END\n{lines}\nEND\n"
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def server(environment, tmp_path_factory) -> Iterator[MlflowProcess]:
    folder = tmp_path_factory.mktemp("srv")
    words = shlex.split(written(r"\$ mlflow (server --app-name.*?)```").replace("\\\n", ""))
    for option in ("--host", "--port"):
        del words[words.index(option) : words.index(option) + 2]
    words = [word.replace("/srv/mlflow", str(folder)) for word in words]
    port = free_port()
    words[words.index("--allowed-hosts") + 1] += f",127.0.0.1:{port}"
    with MlflowProcess([*words, "--workers", "1"], folder / "log", environment=environment, port=port) as started:
        yield started


@pytest.fixture
def as_admin(server, environment, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", environment["MLFLOW_AUTH_ADMIN_PASSWORD"])


def answer(address: str, **headers: str) -> int:
    try:
        with urlopen(Request(address, headers=headers), timeout=30) as found:
            return int(found.status)
    except HTTPError as error:
        return error.code


def test_strangers_and_foreign_names_are_refused(server) -> None:
    assert answer(f"{server.address}/api/2.0/mlflow/experiments/search?max_results=1") == 401
    assert answer(server.address, Host="10.evil.com") == 403
    assert answer(server.address, Host="10.0.0.1") == 403


def test_no_secret_stands_in_a_command_line_or_an_address(server, environment) -> None:
    secrets = [value for name, value in environment.items() if "PASSWORD" in name or "SECRET" in name]
    assert len(secrets) == 2
    assert all(len(secret) >= 24 for secret in secrets)
    assert not [address for address in environment.values() if re.search(r"//[^/@]+:[^/@]+@", address)]
    seen = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert not [secret for secret in secrets if secret in seen]


def test_a_study_by_a_user_is_complete_and_closed_to_others(
    server, as_admin, small_study, study_file, monkeypatch, finished
) -> None:
    users = get_app_client("basic-auth", server.address)
    for name in ("ada", "eve"):
        users.create_user(name, PASSWORD)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    few = ("seeds: [17, 42]", "seeds: [17]\nsources: [kind/en]")
    done = subprocess.run(
        [sys.executable, "-m", "entrypoints.study", "--study", str(study_file(few)), "--workers", "2"],
        cwd=PROJECT,
        env=os.environ | {"MLFLOW_TRACKING_URI": server.address},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    small = type(finished)(server.address, small_study(few))
    small.assert_complete()
    assert small.results().items() <= finished.results().items()
    experiment = open_store(server.address).get_experiment_by_name("small").experiment_id
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "eve")
    reader = open_store(server.address)
    for ask, what in ((reader.get_experiment, experiment), (reader.get_registered_model, "tiny--kind--en")):
        with pytest.raises(MlflowException, match="Permission denied"):
            ask(what)
    granted = written(r"```python\n(users\.grant.*?)```")
    for name, ours in {'"1"': f'"{experiment}"', '"demo-wide--kind--tr"': '"tiny--kind--en"'}.items():
        assert name in granted
        granted = granted.replace(name, ours)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")  # the owner
    exec(granted, {"users": users})
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "eve")
    assert reader.get_experiment(experiment).name == "small"
    assert reader.get_registered_model("tiny--kind--en").latest_versions
    with pytest.raises(MlflowException, match="Permission denied"):
        reader.set_experiment_tag(experiment, "note", "eve's")
    mlflow.set_tracking_uri(None)
