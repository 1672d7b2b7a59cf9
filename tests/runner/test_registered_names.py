"""Registered names that would be shared are refused before any work, within a study and against the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from mlflow import MlflowClient

from registry.cells import Cell
from registry.errors import Refused
from registry.planning.experiment import Job
from registry.planning.registered_names import require_distinct_names, require_free_names
from registry.runner.session import prospect, rehearse
from registry.sources import Source
from registry.tracking.names import Tag, registered_model

SOURCE = Cell("kind", "tr")


@pytest.mark.parametrize(
    ("models", "sources"),
    [
        (("own/er", "own-er"), [SOURCE]),
        (("own:er", "own/er"), [SOURCE]),
        (("Tiny", "tiny"), [SOURCE]),
        (("a", "a--kind"), [Cell("kind--x", "tr"), Cell("x", "tr")]),
        (("a",), [Cell("x--y", "z"), Cell("x", "y--z")]),
    ],
)
def test_adapters_of_one_study_that_would_share_a_name_are_refused(
    models: Sequence[str], sources: Sequence[Cell]
) -> None:
    with pytest.raises(Refused, match="would share the registered name"):
        require_distinct_names(models, sources)


def test_names_of_the_published_study_are_distinct() -> None:
    from registry.models.base import BUILT_IN, PAPER

    cells = [Cell(task, language) for task in ("arc_challenge", "truthfulqa_mc1") for language in ("en", "zh-Hant")]
    require_distinct_names([*BUILT_IN, *PAPER], cells)


def job(model: str) -> Job:
    return Job(model, Source.of_cell(SOURCE), 17, "f", "e")


@pytest.mark.parametrize(("there", "wanted"), [("own/er", "own-er"), ("own-er", "own/er"), ("Own-er", "own-er")])
@pytest.mark.parametrize("count", [1, 12])
def test_a_name_that_the_store_has_for_another_base_is_refused(
    client: MlflowClient, there: str, wanted: str, count: int
) -> None:
    tags = {Tag.BASE_MODEL: there, Tag.SOURCE_TASK: SOURCE.task, Tag.SOURCE_LANGUAGE: SOURCE.language}
    client.create_registered_model(registered_model(there, SOURCE), tags)
    others = [job(f"other-{number}") for number in range(count)]
    require_free_names(client, [*others, job(there)])
    with pytest.raises(Refused, match=f"holds adapters of {there}/kind/tr, and those of {wanted}/kind/tr"):
        require_free_names(client, [*others, job(wanted)])


def test_names_that_only_look_alike_are_free(client: MlflowClient) -> None:
    client.create_registered_model("tinyX--kind--tr", {Tag.BASE_MODEL: "tinyX"})
    client.create_registered_model("tiny--kind--tr")  # made by hand, without tags
    require_free_names(client, [job("tiny"), job("tiny_")])


def test_a_study_is_refused_before_work_and_in_the_dry_run(
    uri: str, client: MlflowClient, small_study: Callable, base: Path, make_base: Callable[[int], Path]
) -> None:
    tags = {Tag.BASE_MODEL: "ti/ny", Tag.SOURCE_TASK: "kind", Tag.SOURCE_LANGUAGE: "en"}
    client.create_registered_model("ti-ny--kind--en", tags)
    taken = small_study((f"{{name: tiny, path: {base}}}", f"{{name: ti-ny, path: {base}}}"))
    for refused in (prospect, rehearse):
        with pytest.raises(Refused, match="holds adapters of ti/ny/kind/en"):
            refused(taken, workers=1)
    both = f"{{name: a/b, path: {base}}}, {{name: a-b, path: {make_base(1)}}}"
    with pytest.raises(Refused, match="adapters of a/b on kind/en and of a-b on kind/en"):
        prospect(small_study((f"{{name: tiny, path: {base}}}", both)), workers=1)
