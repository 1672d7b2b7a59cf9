"""``make bench-training``: one adapter trained by Trainer on padded examples, and by this project's engine.

Counted is training alone, with its validation and the keeping of the best epoch: not imports, loading or encoding.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.children import Children
from tests.bench.settings import Settings, add_common_options, common_options

_LENGTHS = (256, 512)
_TOLERANCE = 1e-5  # nats
_MIB = 1024**2


def main() -> None:
    """Run the benchmark."""
    options = _options()
    settings = Settings(
        **common_options(options),
        examples=options.examples or (32 if options.device == "cpu" else 300),
        epochs=options.epochs,
        text_tokens=options.text_tokens,
    )
    with tempfile.TemporaryDirectory(prefix="bench-training-") as name:
        folder = Path(name)
        settings.write(folder)
        children = Children(folder, settings.device)
        children.work("prepare", "model, tokenizer and texts")
        rounds: list[dict[str, Any]] = []
        padded: dict[int, list[dict[str, Any]]] = {length: [] for length in _LENGTHS}
        for number in range(1, options.rounds + 1):
            for length in _LENGTHS:
                label = f"round {number} of {options.rounds}"
                rounds.append(children.work("train", f"{label}, ours"))
                padded[length].append(children.work("trainer", f"{label}, reference padded to {length}", str(length)))
                if number == 1:
                    _check_parity(rounds[-1], padded[length][-1], length, settings)
    _report(rounds, padded, settings)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench.training", description=__doc__)
    add_common_options(parser)
    parser.add_argument("--examples", type=int, help="training texts, a tenth of them held out (32; on a GPU 300)")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument(
        # The published study trains on about 70,000 tokens: 300 texts, three times over.
        "--text-tokens",
        type=int,
        default=80,
        help="mean length of a text, which decides what padding costs (80)",
    )
    return parser.parse_args()


def _check_parity(found: dict[str, Any], expected: dict[str, Any], length: int, settings: Settings) -> None:
    """Print how the two sides agree.

    Raises
    ------
    SystemExit
        If they do not, in float32.
    """
    difference = _largest(found["losses"], expected["losses"])
    print(
        f"parity, padded to {length}: {len(found['losses'])} steps, losses {found['losses'][0]:.3f} to "
        f"{found['losses'][-1]:.3f}, largest difference {difference:.1e}; of {len(found['validation'])} validation "
        f"losses {_largest(found['validation'], expected['validation']):.1e}",
        flush=True,
    )
    if not settings.exact:
        print(f"parity is not required in {settings.dtype}: run with --dtype float32 for it")
    elif difference > _TOLERANCE:
        raise SystemExit(f"no parity: losses may differ by {_TOLERANCE:.0e}")


def _largest(found: list[float], expected: list[float]) -> float:
    return max(abs(one - other) for one, other in zip(found, expected, strict=True))


def _report(rounds: list[dict[str, Any]], padded: dict[int, list[dict[str, Any]]], settings: Settings) -> None:
    first = rounds[0]
    print(
        f"\nworkload: {settings.examples} texts of at most {first['longest']} tokens, {settings.epochs} epochs, "
        f"{first['tokens']} tokens trained on without padding ({first['mean']:.0f} per text)"
    )
    print(f"{settings.unit} on {settings.device}, {settings.shape} model in {settings.dtype}, median (each round);")
    print("peak memory over the loaded model, median")
    sides = {f"reference, padded to {length}": runs for length, runs in padded.items()}
    for label, runs in {**sides, "ours": rounds}.items():
        each = ", ".join(f"{run['seconds']:.2f}" for run in runs)
        print(f"  {label:<28}{_median(runs, 'seconds'):8.2f}   ({each})   {_median(runs, 'memory') / _MIB:6.0f} MiB")
    share, rate = _median(rounds, "share"), _median(rounds, "rate")
    print(f"GEMM share: {100 * share:.0f} % of {rate / 1e9:.0f} GFLOP/s")
    print(f"memory: 1/{_median(padded[512], 'memory') / _median(rounds, 'memory'):.1f}")
    for length in _LENGTHS:
        print(f"training-{length}: {_median(padded[length], 'seconds') / _median(rounds, 'seconds'):.1f}x")


def _median(runs: list[dict[str, Any]], what: str) -> float:
    return median(float(run[what]) for run in runs)


if __name__ == "__main__":
    main()
