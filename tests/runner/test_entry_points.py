"""The front of the project: what a user types, and what is answered."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from entrypoints.commands import COMMANDS, ENTRY_POINTS, load_command
from entrypoints.mlproject import mlproject
from registry.lora import train
from registry.paths import PROJECT
from registry.tracking.names import Kind, Tag
from registry.tracking.store import experiment_id

DECLARED = yaml.safe_load((PROJECT / "MLproject").read_text(encoding="utf-8"))["entry_points"]


@pytest.fixture
def untouched(tmp_path: Path, monkeypatch) -> Path:
    """A store that is not there yet."""
    file = tmp_path / "nothing" / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    return file


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("finetune", "--task", "knd"), "no task 'knd'; nearest: kind"),
        (("finetune", "--language", "e"), "no language 'e'; nearest: en"),
        (("finetune", "--model", "tny"), "no model 'tny'; nearest: tiny"),
        (("finetune", "--model", "demo-dep"), "no model 'demo-dep'; nearest: demo-deep"),
        (("finetune", "--seed", "one"), "'one' is not a whole number"),
        (("finetune", "--data", "nowhere"), "uses the built-in grid and reads no folder"),
        (("evaluate", "--task", "pai"), "no task 'pai'; nearest: pair"),
        (("evaluate", "--base", "perhaps"), "'perhaps' is neither true nor false"),
        (("study", "--workers", "-2"), "workers=-2"),
        (("study", "--workers", "two"), "invalid int value: 'two'"),
        (("study", "--dry-run", "perhaps"), "'perhaps' is neither true nor false"),
        (("study", "--taks", "kind"), "error: there is no parameter 'taks'; "),
        (("finetune", "--sede", "17"), "error: there is no parameter 'sede'; nearest: seed\n"),
        (("finetune", "--lang", "tr"), "error: there is no parameter 'lang'; nearest: language\n"),
        (("study", "--gpus_per=1"), "error: there is no parameter 'gpus_per'; nearest: gpus_per_worker\n"),
        (("study", "kind"), "'kind' belongs to no parameter: write --name value"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_answered_before_any_work(command, study_file, untouched: Path, arguments, told: str) -> None:
    code, output, errors = command(*arguments, "--study", study_file())
    assert (code, output) == (2, "")
    assert told in errors
    assert "usage:" not in errors
    assert "Traceback" not in errors
    assert not untouched.exists()


@pytest.mark.parametrize("entry_point", ["finetune", "evaluate", "study"])
@pytest.mark.parametrize(
    ("study", "told"),
    [("demmo", "no study 'demmo'; nearest: demo"), ("nowhere.yaml", "no study file 'nowhere.yaml'")],
)
def test_a_study_that_is_not_there_is_answered(command, untouched: Path, entry_point: str, study: str, told: str):
    code, output, errors = command(entry_point, "--study", study)
    assert (code, output) == (2, "")
    assert told in errors
    assert not untouched.exists()


def test_a_data_folder_that_is_not_there_is_answered(command, untouched: Path, tmp_path: Path) -> None:
    code, _, errors = command("study", "--study", "xcopa", "--data", tmp_path / "nowhere")
    assert code == 2
    assert f"the data folder {tmp_path / 'nowhere'} is not there" in errors
    assert not untouched.exists()


def test_a_study_without_records_cannot_be_analysed(command, uri) -> None:
    code, _, errors = command("analyze", "--study", "smal")
    assert code == 2
    assert "smal" in errors
    assert "Traceback" not in errors


#: Of each entry point that takes a study, what else it is asked, and what it says of the small study once that was run.
ASKED = {
    "study": (("--dry-run",), "study 'small': 1 bases x 4 sources"),
    "finetune": ((), "already registered: models:/tiny--kind--en/1"),
    "evaluate": ((), "already evaluated: tiny kind/en seed 17"),
    "recommend": (("--want", "kind/tr", "--output", "{folder}"), "tiny: wanted kind/tr"),
    "pull": (("--best-for", "kind/tr", "--overwrite", "--output", "{folder}/pulled"), ": models:/tiny--"),
    "promote": (("--model", "tiny", "--task", "kind", "--language", "en", "--dry-run"), "champion: "),
}
#: Those that take seconds.
ASKED_SLOWLY = {
    "doctor": (("--digests", "false"), "study small"),
    "tune": (("--trials", "1", "--output", "{folder}/tuned"), "in experiment 'small'"),
    "analyze": (("--corrected", "false", "--mixed-models", "false", "--output", "{folder}/report"), "'small' of"),
}


def assert_takes(command, entry_point: str, given: str, folder: Path) -> str:
    arguments, told = (ASKED | ASKED_SLOWLY)[entry_point]
    code, output, errors = command(entry_point, "--study", given, *(part.format(folder=folder) for part in arguments))
    assert code == 0 or entry_point in ("promote", "doctor"), (output, errors)
    assert told in output, (output, errors)
    return errors


@pytest.mark.parametrize("entry_point", ASKED)
def test_an_entry_point_takes_the_path_or_the_name_of_a_study(
    command, finished, study_file, tmp_path: Path, monkeypatch, entry_point: str
) -> None:
    """The path of a file; the name beside that file; and the name alone, from a folder without it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", finished.uri)
    file = study_file(("recipe:", "promotion: {champion: {protect: [kind/en], min_gain: 90}}\nrecipe:"))
    beside = file.rename(file.with_name("first-try.yaml")).parent
    for folder, given in ((tmp_path, str(beside / "first-try.yaml")), (beside, "first-try.yaml"), (beside, "small")):
        monkeypatch.chdir(folder)
        assert "is taken as run" not in assert_takes(command, entry_point, given, tmp_path)
    monkeypatch.chdir(tmp_path)
    if entry_point == "promote":  # the study that was run has no policy
        assert "promotion" in command("promote", "--study", "small", "--model", "tiny", "--dry-run")[2]
    else:
        assert_takes(command, entry_point, "small", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("given", ["path", "name"])
@pytest.mark.parametrize("entry_point", ASKED_SLOWLY)
def test_another_entry_point_takes_the_path_or_the_name_of_a_study(
    command, few_records, rerun, study_file, tmp_path: Path, monkeypatch, entry_point: str, given: str
) -> None:
    rerun(few_records)
    monkeypatch.chdir(tmp_path)
    assert_takes(command, entry_point, str(study_file()) if given == "path" else "small", tmp_path)


def test_doctor_counts_a_study_that_there_is_not(command, untouched: Path) -> None:
    code, output, errors = command("doctor", "--study", "dmo")
    assert (code, errors) == (1, "")
    assert "  wrong  there is no study 'dmo'; nearest: demo\n" in output
    assert "no study is named" not in output
    assert output.splitlines()[-1].endswith((" thing is wrong", " things are wrong"))


def test_the_committed_mlproject_is_what_the_parsers_say() -> None:
    assert (PROJECT / "MLproject").read_text(encoding="utf-8") == mlproject(), "run `make mlproject`"


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_the_command_of_mlproject_passes_every_default_on(entry_point: str) -> None:
    parser, declared = load_command(entry_point).command_line(), DECLARED[entry_point]["parameters"]
    filled = {name: shlex.quote(str(parameter["default"])) for name, parameter in declared.items()}
    python, module_flag, module, *arguments = shlex.split(DECLARED[entry_point]["command"].format(**filled))
    assert (python, module_flag, module) == ("python", "-m", f"entrypoints.{ENTRY_POINTS[entry_point]}")
    assert vars(parser.parse_args(arguments)) == vars(parser.parse_args([]))


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_names_may_be_spelt_as_mlproject_has_them(entry_point: str) -> None:
    parser = load_command(entry_point).command_line()
    for name, parameter in DECLARED[entry_point]["parameters"].items():
        value = str(parameter["default"])
        for words in ([f"--{name}", value], [f"--{name}={value}"]):
            assert vars(parser.parse_args(words)) == vars(parser.parse_args([]))


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_help_explains_every_parameter_and_shows_a_command(entry_point: str) -> None:
    parser = load_command(entry_point).command_line()
    assert all(action.help for action in parser.parameters)
    text = " ".join(parser.format_help().split())
    for action in parser.parameters:
        assert f"--{action.dest.replace('_', '-')}" in text
    assert f"example: mlflow run . -e {entry_point} --env-manager local" in text


HELP = """
import sys
from entrypoints.commands import COMMANDS, load_command
for name in COMMANDS:
    try:
        load_command(name).main(["--help"])
    except SystemExit as end:
        assert end.code == 0
heavy = {"torch", "transformers", "mlflow", "pandas", "pydantic"} & set(sys.modules)
assert not heavy, heavy
"""


def test_help_waits_for_no_heavy_library() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage:") == len(COMMANDS)


MISTAKEN = """
import importlib, sys
sys.argv[:] = sys.argv[1:]
try:
    importlib.import_module("entrypoints.tune").main()
except SystemExit as end:
    assert end.code == 2
heavy = {"torch", "transformers", "mlflow", "optuna"} & set(sys.modules)
assert not heavy, heavy
"""


def test_a_search_that_cannot_be_is_answered_at_once(study_file, untouched: Path) -> None:
    for words, told in {
        ("--trials", "0"): "error: tune.trials: input should be greater than 0 (got 0)\n",
        ("--objective", "transfr"): "error: there is no objective 'transfr'; nearest: transfer\n",
    }.items():
        command = [sys.executable, "-c", MISTAKEN, "tune", "--study", str(study_file()), *words]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, told)


def test_a_dry_run_says_what_would_be_done_and_records_nothing(command, records, study_file, tmp_path: Path) -> None:
    for _ in range(2):  # the second time into a folder that is there
        code, output, _ = command("study", "--study", study_file(), "--dry-run", "true", "--output", tmp_path / "plan")
        assert code == 0
    assert "1 bases x 4 sources x 2 seeds = 8 fine-tunes, scored on 4 targets" in output
    assert "to do         8 fine-tunes, 9 evaluations" in output
    assert "expected" in output
    assert sorted(path.name for path in (tmp_path / "plan" / "manifest").iterdir()) == ["kind.csv", "pair.csv"]
    assert records.client.get_experiment_by_name(records.study.name) is None
    assert records.client.search_registered_models() == []
    assert not records.folder.exists()


def test_a_dry_run_makes_no_store(command, study_file, untouched: Path) -> None:
    code, output, _ = command("study", "--study", study_file(), "--dry-run", "true")
    assert code == 0
    assert "to do         8 fine-tunes, 9 evaluations" in output
    assert not untouched.parent.exists()


def test_a_dry_run_leaves_the_runs_of_dead_processes_to_the_study(command, records, study_file) -> None:
    tags = {Tag.KIND: Kind.FINETUNE, Tag.HEARTBEAT: "0", Tag.WORKER: "another-machine:1-1"}
    dead = records.client.create_run(experiment_id(records.client, records.study.name), tags=tags).info.run_id
    assert command("study", "--study", study_file(), "--dry-run", "true")[0] == 0
    assert records.client.get_run(dead).info.status == "RUNNING"


def test_a_fine_tune_says_where_the_adapter_is_and_an_evaluation_what_it_changed(
    command, records, study_file, tmp_path: Path
) -> None:
    chosen = ("--study", study_file(), "--task", "pair", "--language", "tr", "--seed", "42")
    code, _, errors = command("evaluate", *chosen)
    assert code == 2
    assert "no adapter of tiny pair/tr seed 42 is registered" in errors
    for said in ("registered: models:/tiny--pair--tr/1", "already registered: models:/tiny--pair--tr/1"):
        code, output, _ = command("finetune", *chosen, "--output", tmp_path / "adapters")
        assert (code, output.splitlines()[0]) == (0, said)
    assert (tmp_path / "adapters" / "tiny--pair--tr" / "1" / "adapter_model.safetensors").is_file()
    code, output, _ = command("evaluate", *chosen, "--output", tmp_path / "scores")
    assert code == 0
    assert output.startswith("evaluated: tiny pair/tr seed 42\n")
    assert [line.split()[0] for line in output.splitlines()[1:5]] == ["MT-ML", "MT-CL", "CT-ML", "CT-CL"]
    assert (tmp_path / "scores" / "scores.csv").is_file()
    code, output, _ = command("evaluate", *chosen, "--base", "true")
    assert (code, output.splitlines()[0]) == (0, "already evaluated: tiny baseline")


def test_a_study_with_a_job_that_fails_says_which_and_exits_with_1(command, few_records, monkeypatch, study_file):
    own = train.train_adapters

    def failing(model, examples, *rest, **fields):
        if not failed:
            failed.append(True)
            raise FloatingPointError("the loss is nan at step 3")
        return own(model, examples, *rest, **fields)

    failed: list[bool] = []
    monkeypatch.setattr(train, "train_adapters", failing)
    file = study_file(("seeds: [17, 42]", "seeds: [17]\nsources: [kind/en, pair/tr]"))
    code, output, errors = command("study", "--study", file, "--workers", "1")
    assert code == 1
    assert "failed: tiny kind/en seed 17: FloatingPointError: the loss is nan at step 3" in errors
    assert "study 'small': 2 jobs done, 1 failed" in output
    assert [run.info.run_name for run in few_records.runs(status="FAILED")] == ["finetune tiny kind/en seed 17"]
    code, output, _ = command("study", "--study", file, "--workers", "1")
    assert code == 0
    assert "study 'small': 1 jobs done, 0 failed" in output


def test_a_study_that_is_terminated_leaves_nothing_running_and_goes_on_later(
    command, few_records, monkeypatch, study_file
) -> None:
    own = train.train_adapters
    started: list[bool] = []

    def terminated(model, examples, *rest, **fields):
        started.append(True)
        if len(started) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return own(model, examples, *rest, **fields)

    monkeypatch.setattr(train, "train_adapters", terminated)
    file = study_file(("seeds: [17, 42]", "seeds: [17]\nsources: [kind/en, pair/tr]"))
    code, _, errors = command("study", "--study", file, "--workers", "1")
    assert code == 143
    assert "Traceback" not in errors
    assert not few_records.runs(status="RUNNING")
    assert sorted(run.info.run_name for run in few_records.runs(status="KILLED")) == [
        "finetune tiny pair/tr seed 17",
        "study small",
    ]
    code, output, _ = command("study", "--study", file, "--workers", "1")
    assert code == 0
    assert "there already 1 baseline, 1 finetune, 1 evaluate" in output
    few_records.assert_complete()


def test_mlflow_run_fine_tunes_and_its_own_run_points_at_the_adapter(records, study_file) -> None:
    parameters = {"study": study_file(), "task": "pair", "language": "tr", "seed": 42}
    here = Path(sys.executable).parent
    done = subprocess.run(
        [here / "mlflow", "run", ".", "-e", "finetune", "--env-manager", "local"]
        + [part for key, value in parameters.items() for part in ("-P", f"{key}={value}")],
        cwd=PROJECT,
        env=os.environ | {"PATH": f"{here}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "registered: models:/tiny--pair--tr/1" in done.stdout + done.stderr
    (tuned,) = records.runs()
    assert (tuned.data.tags[Tag.KIND], tuned.info.status) == (Kind.FINETUNE, "FINISHED")
    (launch,) = records.client.search_runs(["0"])
    assert (launch.data.tags[Tag.KIND], launch.info.status) == (Kind.LAUNCH, "FINISHED")
    assert tuned.info.run_id in launch.data.tags["mlflow.note.content"]
    assert "train/loss" not in launch.data.metrics
