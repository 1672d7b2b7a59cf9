"""The reference scorer: the ``lm_eval`` command on local tasks."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.settings import Settings

if TYPE_CHECKING:
    from tests.bench.items import Question

__all__ = ["Sample", "harness_command", "read_samples", "write_tasks"]

_TASK = """\
task: bench_{style}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: multiple_choice
doc_to_text: context
doc_to_choice: options
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the harness found for one question."""

    loglikelihoods: list[float]
    acc: float
    acc_norm: float


def write_tasks(questions: Sequence[Question], folder: Path) -> None:
    """Write one task per style, with its rows."""
    folder.mkdir()
    for style in dict.fromkeys(question.style for question in questions):
        rows = folder / f"{style}.jsonl"
        with rows.open("w", encoding="utf-8") as file:
            for question in (question for question in questions if question.style == style):
                row = {"context": question.context, "options": question.options, "answer": question.answer}
                file.write(json.dumps(row) + "\n")
        (folder / f"{style}.yaml").write_text(_TASK.format(style=style, rows=rows), encoding="utf-8")


def harness_command(
    model: Path, tasks: Path, output: Path, settings: Settings, *, limit: int | None = None
) -> list[str]:
    """Return the command that scores a model on all tasks.

    Raises
    ------
    SystemExit
        If the command is not installed beside this Python.
    """
    program = Path(sys.executable).parent / "lm_eval"
    if not program.exists():
        raise SystemExit(f"{program} is absent: pip install 'lm_eval[hf]' into this environment")
    command = [str(program), "--model", "hf", "--model_args", f"pretrained={model},dtype={settings.dtype}"]
    command += ["--tasks", ",".join(f"bench_{file.stem}" for file in sorted(tasks.glob("*.yaml")))]
    command += ["--include_path", str(tasks), "--batch_size", str(settings.harness_batch), "--device", settings.device]
    command += ["--log_samples", "--output_path", str(output), "--apply_chat_template"]
    return command + ([] if limit is None else ["--limit", str(limit)])


def read_samples(output: Path, styles: Sequence[str]) -> list[Sample]:
    """Read what the command logged, question by question in the order they were written."""
    samples = []
    for style in styles:
        (file,) = output.rglob(f"samples_bench_{style}_*.jsonl")
        with file.open(encoding="utf-8") as lines:
            rows = sorted((json.loads(line) for line in lines), key=lambda row: int(row["doc_id"]))
        for row in rows:
            values = [float(response[0]) for response in row["filtered_resps"]]
            samples.append(Sample(values, row["acc"], row["acc_norm"]))
    return samples
