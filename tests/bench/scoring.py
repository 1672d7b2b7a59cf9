"""``make bench-scoring``: one adapter on four cells, by the reference pipeline and by this project's scorer.

The reference merges the adapter to disk with PEFT and starts the ``lm_eval`` command; both processes count, start-up
included, since it pays both for every adapter. Ours counts what a process that stays does per adapter: attach, merge in
memory, score, restore.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.children import Children
from tests.bench.harness import Sample, harness_command, read_samples
from tests.bench.settings import Settings, add_common_options, common_options

_STYLES = ("arc", "hellaswag", "truthfulqa", "global_mmlu")
_TOLERANCE = 1e-4  # nats
#: Both sides sum in float32, whose steps at 500 nats are 3e-5: a random model gives an option about ten per token.
_RELATIVE = 1e-6


def main() -> None:
    """Run the benchmark."""
    options = _options()
    settings = Settings(
        **common_options(options),
        questions=options.items or (200 if options.device == "cpu" else 4000),
        harness_batch=options.batch_size or (16 if options.device == "cpu" else 64),
    )
    with tempfile.TemporaryDirectory(prefix="bench-scoring-") as name:
        folder = Path(name)
        settings.write(folder)
        children = Children(folder, settings.device)
        words = children.work("prepare", "model, tokenizer and questions")
        fixed = _reference(children, settings, "process start of the reference", limit=1)
        references, rounds = [], []
        for number in range(1, options.rounds + 1):
            references.append(_reference(children, settings, f"round {number} of {options.rounds}, reference"))
            rounds.append(children.work("score", f"round {number} of {options.rounds}, ours"))
            if number == 1:
                print(_workload(rounds[0], words["tokens_per_word"]), flush=True)
                _check_parity(rounds[0], read_samples(folder / "output", _STYLES), settings)
    _report(fixed, references, rounds, settings)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench.scoring", description=__doc__)
    add_common_options(parser)
    parser.add_argument("--items", type=int, help="questions, in four styles of equal share (200; on a GPU 4000)")
    # CPU seconds of the command on 120 questions: 67.0 and 67.9 one by one, 69.7 and 67.3 by 8, 66.6 by 16, 73.8 by 32.
    # Larger batches pad more, and one thread is busy with one sequence already. A GPU is not.
    parser.add_argument("--batch-size", type=int, help="of the lm_eval command (16, its fastest; on a GPU 64)")
    return parser.parse_args()


def _reference(children: Children, settings: Settings, label: str, *, limit: int | None = None) -> float:
    """Return what the reference pipeline costs for one adapter."""
    folder = children.folder
    shutil.rmtree(folder / "output", ignore_errors=True)
    merge = children.work("merge", f"{label}, merge to disk")["process"]
    command = harness_command(folder / "merged", folder / "tasks", folder / "output", settings, limit=limit)
    return float(merge) + children.run(command, f"{label}, lm_eval")


def _workload(found: dict[str, Any], tokens_per_word: float) -> str:
    return (
        f"workload: {len(found['acc'])} questions of {len(_STYLES)} styles, {found['sequences']} (question, option) "
        f"sequences\n"
        f"tokens: {found['single_tokens']} sequence by sequence, {found['tokens']} in our batches; "
        f"{tokens_per_word:.2f} per word"
    )


def _check_parity(found: dict[str, Any], expected: list[Sample], settings: Settings) -> None:
    """Print how the two sides agree.

    Raises
    ------
    SystemExit
        If they do not, in float32.
    """
    pairs = [
        (one, other)
        for row, sample in zip(found["loglikelihoods"], expected, strict=True)
        for one, other in zip(row, sample.loglikelihoods, strict=True)
    ]
    changed = {
        metric: sum(bool(getattr(sample, metric)) != mine for mine, sample in zip(found[metric], expected, strict=True))
        for metric in ("acc", "acc_norm")
    }
    print(
        f"parity: {len(pairs)} log-likelihoods of {max(pairs)[0]:.0f} to {min(pairs)[0]:.0f} nats, "
        f"largest difference {max(abs(one - other) for one, other in pairs):.1e}; "
        f"questions judged otherwise: acc {changed['acc']}, acc_norm {changed['acc_norm']}",
        flush=True,
    )
    within = all(abs(one - other) <= max(_TOLERANCE, _RELATIVE * abs(other)) for one, other in pairs)
    if not settings.exact:
        print(f"parity is not required in {settings.dtype}: run with --dtype float32 for it")
    elif not within or any(changed.values()):
        raise SystemExit(
            f"no parity: at most {_TOLERANCE:.0e} nats (of long options {_RELATIVE:.0e} of the sum) and no question "
            "judged otherwise are allowed"
        )


def _report(fixed: float, references: list[float], rounds: list[dict[str, Any]], settings: Settings) -> None:
    mine = [float(found["seconds"]) for found in rounds]
    load, encode = (median(found[part] for found in rounds) for part in ("load", "encode"))
    reference, ours = median(references), median(mine)
    print(f"\n{settings.unit} on {settings.device}, {settings.shape} model in {settings.dtype}, median (each round)")
    for label, value, each in (
        ("reference, one adapter", reference, references),
        ("ours, one adapter", ours, mine),
        ("ours, once per process: base loaded", load, [found["load"] for found in rounds]),
        ("ours, once per process: texts encoded", encode, [found["encode"] for found in rounds]),
    ):
        print(f"  {label:<40}{value:8.2f}   ({', '.join(f'{one:.2f}' for one in each)})")
    print(f"reference: {fixed:.1f} s of it ({fixed / reference:.0%}) are the start of its two processes")
    print(f"ratio without the reference's process start: {(reference - fixed) / ours:.1f}x")
    alone = reference / (ours + load + encode)
    print(f"ratio if our process scored one adapter only, base load and encoding included: {alone:.1f}x")
    rate, share = median(found["rate"] for found in rounds), median(found["share"] for found in rounds)
    print(f"GEMM share: {100 * share:.0f} % of {rate / 1e9:.0f} GFLOP/s")
    print(f"scoring: {reference / ours:.1f}x")


if __name__ == "__main__":
    main()
