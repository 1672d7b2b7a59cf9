"""``make bench-growth``: what twice the items, twice the adapters and twice the training texts cost.

Cost should grow in proportion and memory not at all. Each amount runs in a process of its own, so that none profits
from memory another has left behind; seconds are of scoring or training alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.children import Children
from tests.bench.settings import Settings, add_common_options, common_options

_MIB = 2**20


def main() -> None:
    """Run the benchmark."""
    options = _options()
    common = common_options(options)
    small = Settings(**common, questions=options.items, examples=options.examples, epochs=1)
    large = dataclasses.replace(small, questions=2 * options.items, examples=2 * options.examples)
    with tempfile.TemporaryDirectory(prefix="bench-growth-") as name:
        sides = {label: _prepared(Path(name) / label, made) for label, made in (("once", small), ("twice", large))}
        scored, adapters, trained = _rounds(sides, options.rounds)
    print(f"\n{small.unit} on {small.device}, {small.shape} model in {small.dtype}, medians (each round);")
    print("peak memory over the loaded base")
    _report("items scored", options.items, scored)
    _report("adapters scored", 2, adapters)
    _report("texts trained on", options.examples, trained)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench.growth", description=__doc__)
    add_common_options(parser)
    parser.add_argument("--items", type=int, default=400, help="questions scored, and then twice as many (400)")
    parser.add_argument("--examples", type=int, default=64, help="texts trained on, and then twice as many (64)")
    return parser.parse_args()


def _prepared(folder: Path, settings: Settings) -> Children:
    folder.mkdir()
    settings.write(folder)
    children = Children(folder, settings.device)
    children.work("prepare", f"{folder.name}: model, tokenizer and texts")
    return children


def _rounds(sides: dict[str, Children], rounds: int) -> list[dict[str, list[dict[str, Any]]]]:
    """Return what each amount cost in each round: of items, of adapters, of training texts."""
    found: list[dict[str, list[dict[str, Any]]]] = [{label: [] for label in sides} for _ in range(3)]
    for number in range(1, rounds + 1):
        for times, (label, children) in enumerate(sides.items(), start=1):
            at = f"round {number} of {rounds}, {label}"
            found[0][label].append(children.work("score_several", f"{at} the items", "1"))
            found[1][label].append(sides["once"].work("score_several", f"{at} the adapters", str(2 * times)))
            found[2][label].append(children.work("train", f"{at} the texts"))
    return found


def _report(what: str, amount: int, found: dict[str, list[dict[str, Any]]]) -> None:
    seconds, memory = (
        [median(float(one[part]) for one in side) for side in found.values()] for part in ("seconds", "memory")
    )
    each = ", ".join(f"{one['seconds']:.2f}" for side in found.values() for one in side)
    print(f"  {what:<18}{amount:5} {seconds[0]:7.2f} {memory[0] / _MIB:6.0f} MiB   ({each})")
    print(f"  {'':<18}{2 * amount:5} {seconds[1]:7.2f} {memory[1] / _MIB:6.0f} MiB")
    time, space = seconds[1] / seconds[0], memory[1] / memory[0]
    print(f"{what}: twice as many take {time:.2f}x the time, {space:.2f}x the memory")


if __name__ == "__main__":
    main()
