"""The console script: commands with the parameters of MLproject, lists, and a shell's completion."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from entrypoints import donors
from entrypoints.commands import COMMANDS
from registry.paths import PROJECT


@pytest.fixture
def call(command, monkeypatch, capsys):
    """Call ``donors``; returns exit code, output and errors. The fixture ``command`` undoes what a command sets."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["donors", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            donors.main()
        except SystemExit as ended:
            code = ended.code
        return (code, *capsys.readouterr())

    return run


def test_the_study_may_follow_the_command_and_a_flag_needs_no_value(call, study_file, uri) -> None:
    file = study_file()
    shown = {call("study", *words) for words in ([file, "--dry-run"], ["--study", file, "--dry_run", "true"])}
    ((code, output, _),) = shown
    assert code == 0
    assert output.startswith("study 'small': 1 bases x 4 sources x 2 seeds = 8 fine-tunes")


def test_what_is_imported_may_follow_the_command(call, tmp_path) -> None:
    code, _, errors = call("import", tmp_path / "cells.csv")
    assert code == 2
    assert f"source='{tmp_path}/cells.csv' is not there" in errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stduy"], "error: there is no command 'stduy'; nearest: study\n"),
        (["study", "demo", "--wrokers", "2"], "error: there is no parameter 'wrokers'; nearest: workers\n"),
        (["finetune", "demmo"], "error: study: there is no study 'demmo'; nearest: demo\n"),
        (["list", "adaptors"], "error: argument kind: invalid choice: 'adaptors'"),
    ],
)
def test_a_mistake_is_one_line(call, uri, words: list[str], message: str) -> None:
    code, output, errors = call(*words)
    assert (code, output) == (2, "")
    assert message in errors


def test_help_lists_every_command_at_once() -> None:
    times = []
    for _ in range(3):
        start = time.monotonic()
        command = [sys.executable, "-m", "entrypoints.donors", "--help"]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
        times.append(time.monotonic() - start)
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert listed == list(COMMANDS)
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert min(times) < 0.5


def test_lists_are_tables(call, finished, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", finished.uri)
    code, output, errors = call("list", "studies")
    assert (code, errors) == (0, "")
    rows = {line.split()[0]: line for line in output.splitlines()}
    assert {"study", "demo", "paper", "small"} <= set(rows)
    assert rows["small"].split() == ["small", "yes"]
    assert rows["demo"].split()[1] == "no"
    assert call("list", "tasks", "demo")[1].splitlines()[1] == "kind       en, de, es, fr, it, pt, tr, id"
    assert "Qwen/Qwen2.5-7B-Instruct          Qwen2.5    7                   hub" in call("list", "models")[1]
    head, *adapters = call("list", "adapters", "small")[1].splitlines()
    assert head.split() == ["adapter", "base", "model", "source", "seed", "study"]
    assert len(adapters) == 8
    assert adapters[0].split() == ["tiny--kind--en/1", "tiny", "kind/en", "17", "small"]
    assert call("list", "adapters", "demo")[1].splitlines() == ["adapter  base model  source  seed  study"]


def test_lists_make_no_store(call, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert call("list", "adapters")[0] == call("list", "studies")[0] == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["st"], ["study"]),
        (["study", "--wo"], ["--workers"]),
        (["study", "xc"], ["xcopa"]),
        (["list", "mo"], ["models"]),
        (["completion", ""], ["bash", "zsh"]),
    ],
)
def test_bash_completes(call, tmp_path, words: list[str], expected: list[str]) -> None:
    code, script, _ = call("completion", "bash")
    assert code == 0
    asked = f"COMP_WORDS=(donors {' '.join(word or repr(word) for word in words)}); COMP_CWORD={len(words)}; _donors"
    done = subprocess.run(
        ["bash", "-c", f'{script}\n{asked}\nprintf "%s\\n" "${{COMPREPLY[@]}}"'],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == expected


def test_zsh_gets_the_same_words(call) -> None:
    script = call("completion", "zsh")[1]
    assert f"compadd -- {' '.join(COMMANDS)}" in script
    assert '    study) words_of="--study --data --workers --dry-run' in script
    assert script.rstrip().endswith("compdef _donors donors")
