"""``make scaling``: the paper's grid on 1 to 512 GPUs, by the schedule that runs studies, in simulated time.

What a phase takes is the forecast of a dry run: operations by the catalogue of models, at the share of a GPU's rate
that is assumed there. No GPU was measured. Written are a table and a figure. Where the demo was recorded, its span is
told beside what the same simulation makes of the seconds that its phases took.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from registry.cells import Cell
from registry.config.files import load_study
from registry.paths import PROJECT
from registry.planning.estimate import RECORDING_SECONDS
from registry.planning.experiment import Job, Need
from registry.planning.forecast import GPU, GPU_RATE, UTILISATION, flop_of, sizes_of
from registry.planning.outline import Outline, outline
from registry.planning.plan import Step
from registry.runner.schedule import Costs, Schedule, Task
from registry.sources import Source
from registry.tracking.store import open_store, shown_uri, tracking_uri
from tests.bench.replayed import replay
from tests.bench.simulated import Outcome, Seconds, Simulation, even_share, lower_bound

__all__ = ["paper_seconds", "paper_tasks", "schedule_of"]

#: Assumed, not measured: reading weights of two bytes each, and starting a worker and laying out 17,600 questions.
LOAD_BYTES_PER_SECOND, LOAD_SECONDS = 1e9, 15.0
ADAPTERS_AT_ONCE = 8  # a study's own default on a GPU
GPUS = (1, 8, 64, 128, 256, 512)
SPREAD = 0.1  # of a phase's logarithm


def main() -> None:
    """Simulate, print the table, draw the figure."""
    options = _options()
    seen = outline(load_study(options.study))
    seconds, todo = paper_seconds(seen), paper_tasks(seen)
    _tell(seen, seconds, todo)
    print(f"{'GPUs':>5} {'makespan':>10} {'bound':>10} {'ratio':>6} {'if uneven':>12} {'loads':>6} {'GPU hours':>10}")
    rows = []
    for gpus in options.gpus:
        bound = lower_bound(todo, seconds, gpus)
        exact = _simulated(seen, seconds, todo, gpus)
        uneven = [_simulated(seen, seconds, todo, gpus, seed=seed, spread=SPREAD) for seed in range(options.seeds)]
        ratios = [_over_bound(found, seconds, todo, gpus) for found in uneven]
        span = f"{min(ratios):.2f}-{max(ratios):.2f}"
        rows.append((gpus, bound, exact.makespan))
        print(
            f"{gpus:>5} {_time(exact.makespan):>10} {_time(bound):>10} {exact.makespan / bound:>6.3f} {span:>12} "
            f"{exact.loads:>6} {gpus * exact.makespan / 3600:>10.1f}",
            flush=True,
        )
    _tell_recorded(options.recorded)
    if options.figure:
        _draw(seen, seconds, todo, rows, Path(options.figure))
        print(f"figure: {options.figure}")


def paper_tasks(seen: Outline) -> list[Task]:
    """Return every task of a study, in the order in which a plan has them, by names alone."""
    todo: list[Task] = []
    for spec in seen.study.models:
        todo.append((Job(spec.name, None, None, None, f"{spec.name} baseline"), Step.BASELINE))
        for seed in seen.study.seeds:
            todo += [(_job(spec.name, source, seed), Step.TRAIN_AND_EVALUATE) for source in seen.sources]
    return todo


def _job(model: str, source: Cell, seed: int) -> Job:
    name = f"{model} {source} {seed}"
    needs = (Need(f"{model} baseline"),)
    return Job(model, Source.of_cell(source), seed, f"train {name}", f"score {name}", needs)


def paper_seconds(seen: Outline) -> Seconds:
    """Return what each phase takes by the forecast of a dry run, on the GPU that it assumes."""
    rate = GPU_RATE[seen.study.recipe.precision] * UTILISATION
    load, train, score = {}, {}, {}
    for spec in seen.study.models:
        size = sizes_of(spec, seen.study)
        if size is None:
            raise SystemExit(f"the size of {spec.name} is not known here")
        training, scoring = flop_of(seen, size)
        load[spec.name] = LOAD_SECONDS + 2 * size.checkpoint / LOAD_BYTES_PER_SECOND
        train[spec.name], score[spec.name] = training / rate, scoring / rate
    return Seconds(load, train, score, RECORDING_SECONDS)


def schedule_of(seen: Outline, todo: Sequence[Task]) -> Schedule:
    """Return the schedule as a runner makes it: it knows the bases' sizes, not what the phases will take."""
    sizes = {spec.name: found.checkpoint / 1e9 for spec in seen.study.models if (found := sizes_of(spec, seen.study))}
    return Schedule(todo, costs=Costs.by_size(sizes), at_once=ADAPTERS_AT_ONCE)


def _simulated(
    seen: Outline, seconds: Seconds, todo: Sequence[Task], gpus: int, *, seed: int = 0, spread: float = 0.0
) -> Outcome:
    return Simulation(schedule_of(seen, todo), seconds, gpus, spread=spread, seed=seed).run()


def _over_bound(found: Outcome, seconds: Seconds, todo: Sequence[Task], gpus: int) -> float:
    """Makespan over what the phases, as they came out, take if shared evenly, or over the longest task alone."""
    return found.makespan / max(even_share(todo, seconds, gpus, found.busy), found.longest)


def _tell(seen: Outline, seconds: Seconds, todo: Sequence[Task]) -> None:
    baselines = sum(step is Step.BASELINE for _, step in todo)
    gpu = f"one {GPU}, assumed: {UTILISATION:.0%} of {GPU_RATE[seen.study.recipe.precision] / 1e12:g} TFLOP/s"
    print(f"study {seen.study.name}: {len(todo) - baselines} fine-tunes, {baselines} baselines; {gpu}")
    print(f"{'base':<36}{'load s':>8}{'train s':>9}{'score s':>9}")
    for spec in seen.study.models:
        name = spec.name
        print(f"{name:<36}{seconds.load[name]:>8.1f}{seconds.train[name]:>9.1f}{seconds.score[name]:>9.1f}")
    longest = max(seconds.load[task[0].model] + seconds.of(task) for task in todo)
    print(f"in all {sum(map(seconds.of, todo)) / 3600:.1f} GPU hours without loading; longest chain {_time(longest)}")


def _tell_recorded(uri: str) -> None:
    """Hold the simulation against the demo, if a store has it whole: the same work, with the seconds it took there."""
    client = open_store(uri)
    experiment = client.get_experiment_by_name("demo")
    found = replay(client, experiment.experiment_id) if experiment else None
    if found is None:
        print(f"the demo is not recorded whole, by one command, in {shown_uri(uri)}: `make demo`, then again")
        return
    print(
        f"the demo took {found.span:.1f} s on {found.workers} workers; simulated with the seconds of its phases "
        f"{found.simulated(found.workers).makespan:.1f} s; a phase's logarithm spread by {found.spread:.2f}"
    )


def _time(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"


def _draw(
    seen: Outline, seconds: Seconds, todo: Sequence[Task], rows: Sequence[tuple[int, float, float]], path: Path
) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    between = sorted({*(gpus for gpus, _, _ in rows), *(2**power for power in range(10))})
    bounds = [lower_bound(todo, seconds, gpus) / 3600 for gpus in between]
    spans = [_simulated(seen, seconds, todo, gpus).makespan / 3600 for gpus in between]
    with rc_context({"svg.hashsalt": "scaling", "font.size": 9}):
        figure = Figure(figsize=(5.5, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.plot(between, bounds, color="0.6", label="lower bound")
        axes.plot(between, spans, "o", markersize=4, color="#1f5a8a", label="simulated")
        axes.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="hours")
        axes.set_xticks(between, [str(gpus) for gpus in between])
        axes.minorticks_off()
        axes.set_yticks([0.1, 0.3, 1, 3, 10, 30], ["0.1", "0.3", "1", "3", "10", "30"])
        worst = max(span / bound for bound, span in zip(bounds, spans, strict=True))
        axes.set_title(f"{seen.study.name}: {len(todo)} tasks; at most {worst:.2f} times the lower bound")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench.scaling", description=__doc__)
    parser.add_argument("--study", default="paper", help="study with bases of the catalogue (paper)")
    parser.add_argument("--gpus", type=int, nargs="+", default=GPUS, help=f"numbers of GPUs {GPUS}")
    parser.add_argument("--seeds", type=int, default=3, help="simulations with uneven phases for each (3)")
    parser.add_argument("--recorded", default=tracking_uri(), help="store that has the demo (the project's)")
    parser.add_argument("--figure", default=str(PROJECT / "docs/images/scaling.svg"), help="empty draws none")
    return parser.parse_args()


if __name__ == "__main__":
    main()
