"""Who does what next: checked without processes, in worlds by hand and by chance."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.cells import Cell
from registry.config.files import load_study
from registry.planning.experiment import Job, Need
from registry.planning.outline import outline
from registry.planning.plan import Step
from registry.runner.schedule import Costs, Schedule, Task
from registry.runner.worker import reports
from registry.sources import Source
from tests.bench.scaling import paper_seconds, paper_tasks, schedule_of
from tests.bench.simulated import Seconds, Simulation, lower_bound


def baseline(base: str) -> Task:
    return Job(base, None, None, None, f"{base} baseline"), Step.BASELINE


def adapter(base: str, number: int, step: Step = Step.TRAIN_AND_EVALUATE) -> Task:
    name = f"{base} {number}"
    source, needs = Source.of_cell(Cell("kind", "en")), (Need(f"{base} baseline"),)
    return Job(base, source, number, f"train {name}", f"score {name}", needs), step


def base_of(name: str, adapters: int, step: Step = Step.TRAIN_AND_EVALUATE) -> list[Task]:
    return [baseline(name), *(adapter(name, number, step) for number in range(adapters))]


def schedule(todo: list[Task], *, workers: int = 1, at_once: int = 1, load: float = 0.1, **sizes: float) -> Schedule:
    scores = {job.model: sizes.get(job.model, 1.0) for job, _ in todo}
    costs = Costs({name: load * score for name, score in scores.items()}, dict.fromkeys(scores, 0.1), scores)
    made = Schedule(todo, costs=costs, at_once=at_once)
    for worker in range(workers):
        made.join(worker)
    return made


def finish(made: Schedule, worker: int) -> None:
    for job, _ in made.tasks(worker):
        made.done(worker, job)


def test_one_worker_does_base_after_base_each_with_its_baseline_first() -> None:
    todo = [*base_of("a", 3), *base_of("b", 2)]
    made, order = schedule(todo, at_once=2), []
    while made.unfinished:
        order.append(made.next(0))
        finish(made, 0)
    assert order == [[todo[0]], todo[1:3], [todo[3]], [todo[4]], todo[5:7]]


def test_what_is_trained_waits_for_the_baseline_and_what_is_not_does_not() -> None:
    trained, fresh = adapter("a", 1, Step.EVALUATE), adapter("a", 2)
    made = schedule([baseline("a"), trained, fresh], workers=3)
    assert made.next(0) == [baseline("a")]
    assert made.next(1) == [fresh]
    assert made.next(2) == []
    finish(made, 0)
    assert made.next(2) == [trained]


def test_an_idle_worker_helps_the_base_that_has_the_most_left_if_loading_it_pays() -> None:
    todo = [*base_of("a", 9), *base_of("b", 2), *base_of("c", 1)]
    made = schedule(todo, workers=3)
    assert [made.next(worker)[0][0].model for worker in range(3)] == ["a", "b", "c"]
    for _ in range(2):
        finish(made, 2)
        taken = made.next(2)
    assert taken[0][0].model == "a"
    dear = schedule(todo, workers=3, load=20.0)
    for worker in range(3):
        dear.next(worker)
    for _ in range(2):
        finish(dear, 2)
        taken = dear.next(2)
    assert taken == [], "its holder would have done all of it by then"


def test_groups_shrink_so_that_no_worker_is_left_without() -> None:
    made = schedule(base_of("a", 16), workers=4, at_once=8)
    made.next(0)
    sizes = []
    while made.unfinished:
        for worker in made.idle:
            sizes.append(len(made.next(worker)))
        for worker in range(4):
            finish(made, worker)
    assert sum(sizes) == 16
    assert max(sizes[:3]) == 1, "16 for 4 workers: none has 8 of them"
    assert len(schedule(base_of("a", 40)[1:], workers=2, at_once=8).next(0)) == 8


def test_without_its_baseline_a_base_has_nothing_left_but_training() -> None:
    only = adapter("a", 5, Step.TRAIN)
    made = schedule([*base_of("a", 2), only, *base_of("b", 1)], workers=2)
    assert made.next(0) == [baseline("a")]
    made.failed(0, baseline("a")[0], "out of memory")
    assert [failure.reason for failure in made.failures] == [
        "out of memory",
        *["a baseline failed, which it needs"] * 2,
    ]
    assert made.next(0) == [only]
    assert made.next(1) == [baseline("b")]


def test_what_is_made_from_other_adapters_waits_for_them_and_fails_with_them() -> None:
    one, two = adapter("a", 1), adapter("a", 2)
    parents = tuple(Need(str(job.finetune), for_making=True) for job, _ in (one, two))
    mixed = Job("a", one[0].source, 3, "make mixed", "score mixed", (*parents, *one[0].needs)), Step.TRAIN_AND_EVALUATE
    grandchild = replace(mixed[0], finetune="make child", needs=(Need("make mixed", for_making=True),)), Step.TRAIN
    todo = [grandchild, mixed, one, two]
    made = schedule(todo, workers=2)
    assert [made.next(0), made.next(1)] == [[one], [two]]
    finish(made, 0)
    assert made.next(0) == []
    finish(made, 1)
    assert made.next(0) == [mixed]
    assert made.next(1) == []
    finish(made, 0)
    assert made.next(1) == [grandchild]
    broken = schedule(todo, workers=1)
    assert broken.next(0) == [one]
    broken.failed(0, one[0], "out of memory")
    assert [failure.job for failure in broken.failures] == [one[0], mixed[0], grandchild[0]]
    assert broken.left == [two]


def test_a_job_whose_worker_died_is_given_to_another_once_and_alone() -> None:
    todo = base_of("a", 6)
    made = schedule(todo[1:], workers=1, at_once=3)
    assert made.next(0) == todo[1:4]
    made.done(0, todo[1][0])
    assert made.leave(0, "exit code -9") == todo[2:4]
    made.join(1)
    assert made.next(1) == [todo[2]]
    assert made.leave(1, "exit code -9") == []
    assert [(failure.job, failure.reason) for failure in made.failures] == [
        (todo[2][0], "its worker died 2 times, last exit code -9")
    ]
    made.join(2)
    assert made.next(2) == [todo[3]]
    finish(made, 2)
    assert made.next(2) == todo[4:7], "those that were never with a dead worker come together again"


def test_what_other_runners_hold_is_left_alone_until_it_is_open() -> None:
    todo = base_of("a", 2)
    made = schedule(todo, workers=1)
    assert made.next(0) == [baseline("a")]
    made.held(0, baseline("a")[0])
    closed = {baseline("a")[0]}
    assert made.next(0, lambda job: job not in closed) == [todo[1]], "another runner scores the baseline"
    made.unmeasured(0, todo[1][0])
    assert (todo[1][0], Step.EVALUATE) in made.left
    assert made.next(0) == [baseline("a")]
    finish(made, 0)
    assert made.next(0) == [todo[2]]


def test_an_adapter_without_any_baseline_fails_in_the_end() -> None:
    made = schedule([adapter("a", 1)])
    for _ in range(2):
        assert made.next(0)
        made.unmeasured(0, adapter("a", 1)[0])
    assert not made.unfinished
    assert "no finished baseline" in made.failures[0].reason


def test_a_worker_is_not_given_more_before_it_is_done() -> None:
    made = schedule(base_of("a", 2))
    made.next(0)
    with pytest.raises(ValueError, match="worker 0 has tasks already"):
        made.next(0)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Task], Seconds, dict[str, float], int, int]:
    """Tasks of some bases in every state, what they take, what the schedule thinks of it, workers, at once."""
    names = "abcde"[: draw(st.integers(1, 5))]
    todo: list[Task] = []
    steps = st.sampled_from([Step.TRAIN_AND_EVALUATE] * 3 + [Step.EVALUATE, Step.TRAIN])
    for name in names:
        todo += [baseline(name)] if draw(st.booleans()) else []
        todo += [adapter(name, number, draw(steps)) for number in range(draw(st.integers(1, 15)))]
    span = st.floats(0.1, 30.0)
    load, train, score = ({name: draw(span) for name in names} for _ in range(3))
    sizes = {name: draw(st.floats(0.01, 10.0)) for name in names}
    return todo, Seconds(load, train, score, 0.1), sizes, draw(st.integers(1, 20)), draw(st.integers(1, 8))


@settings(max_examples=200, deadline=None)
@given(world=worlds(), deaths=st.sampled_from([0.0, 0.0, 0.05, 0.3]), seed=st.integers(0, 2**16))
def test_in_any_world_everything_is_done_or_failed_exactly_once(world, deaths: float, seed: int) -> None:
    todo, seconds, sizes, workers, at_once = world
    made = Schedule(todo, costs=Costs.by_size(sizes), at_once=at_once)
    found = Simulation(made, seconds, workers, spread=0.2, deaths=deaths, seed=seed).run()
    failed = [failure.job for failure in made.failures]
    assert Counter([*found.done, *failed]) == Counter(job for job, _ in todo)
    assert deaths or not failed
    at = {job: number for number, job in enumerate(found.done)}
    for job, step in todo:
        first = baseline(job.model)
        if step not in (Step.TRAIN, Step.BASELINE) and job in at and first in todo:
            assert at[first[0]] < at[job], "nothing is measured before its baseline"


def test_the_bound_by_hand() -> None:
    """Three tasks of 6 s on two workers, after 2 s of loading: one worker does two, 14 s; shared evenly it is 11."""
    todo = [adapter("a", number) for number in range(3)]
    seconds = Seconds({"a": 2.0}, {"a": 2.0}, {"a": 4.0}, 0.0)
    assert lower_bound(todo, seconds, 3) == pytest.approx(8)
    assert lower_bound(todo, seconds, 2) == pytest.approx(14, rel=2e-3)
    found = Simulation(schedule(todo), seconds, 2).run()
    assert (found.makespan, found.loads, found.busy) == (14, 2, 18)


@settings(max_examples=100, deadline=None)
@given(world=worlds())
def test_in_any_world_no_time_is_lost_but_for_the_longest_tasks(world) -> None:
    """List scheduling's bound: the work and loads done, shared evenly, and then what any one worker may still have."""
    todo, seconds, _, workers, _ = world
    made = Schedule(todo, costs=Costs(seconds.load, seconds.train, seconds.score))
    found = Simulation(made, seconds, workers).run()
    longest = max(seconds.load[job.model] + seconds.of((job, step)) for job, step in todo)
    assert found.makespan <= (found.busy + found.loading) / workers + 3 * longest
    assert found.makespan >= lower_bound(todo, seconds, workers) - 1e-3


@pytest.mark.parametrize(("gpus", "ratio"), [(1, 1.001), (8, 1.02), (64, 1.1), (512, 1.1)])
def test_the_papers_grid_ends_within_a_tenth_of_what_is_possible(gpus: int, ratio: float) -> None:
    seen = outline(load_study("paper"))
    seconds, todo = paper_seconds(seen), paper_tasks(seen)
    assert len(todo) == 1188 + 9
    found = Simulation(schedule_of(seen, todo), seconds, gpus).run()
    assert len(found.done) == len(todo)
    assert found.makespan <= ratio * lower_bound(todo, seconds, gpus)


class Talking:
    """A resident that tells of each thousandth of a phase, and then is done."""

    def do(self, tasks: list[Task], progress: Callable[[str, float], None]) -> Iterator[tuple[Job, None]]:
        for job, _ in tasks:
            for phase in ("train", "score"):
                for share in range(1000):
                    progress(phase, share / 1000)
            yield job, None


def test_who_listens_hears_of_each_phase_and_not_of_each_step(monkeypatch) -> None:
    seconds = count(0.0, 0.01)
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    heard: list[tuple[str, float]] = []
    task = adapter("a", 1)
    done = list(reports(Talking(), [task], lambda phase, share: heard.append((phase, share))))
    assert done == [("done", task[0])]
    assert [heard[at] for at in (0, 20)] == [("train", 0.0), ("score", 0.0)]
    assert len(heard) == 40  # of 2,000, half a second apart
