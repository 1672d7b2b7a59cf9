"""List studies, the tasks of a study, known base models or registered adapters."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from entrypoints.command import CommandParser, run_command

if TYPE_CHECKING:  # slow to import, and --help does not need it
    from mlflow import MlflowClient

__all__ = ["KINDS", "command_line", "main"]

Table = tuple[Sequence[str], list[tuple[str, ...]]]


def command_line() -> CommandParser:
    """Return the parser of the parameters."""
    parser = CommandParser("list", __doc__, "studies")
    parser.add_argument("kind", choices=list(KINDS), help="what to list")
    parser.add_argument("study", nargs="?", default="", help="study of the tasks (demo) or adapters (all)")
    return parser


def main(words: list[str] | None = None) -> None:
    """Print the table."""
    given = command_line().parse_args(words)
    run_command(lambda: _list(given))


def _list(given: argparse.Namespace) -> int:
    head, rows = KINDS[given.kind](given.study)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in (head, *rows)]
    print("\n".join("  ".join(line).rstrip() for line in lines))
    return 0


def _studies(_: str) -> Table:
    """Return the studies that come with the project, and those that the store has records of."""
    from registry.config.files import load_studies, study_names

    recorded = set(_recorded_studies())
    rows: list[tuple[str, ...]] = []
    for name in study_names():
        variants = load_studies(name)
        own = {one.name for one in variants}
        label = f"{name} ({len(variants)} variants)" if len(variants) > 1 else name
        rows.append((label, "yes" if own & recorded else "no", variants[0].description))
        recorded -= own
    return ("study", "recorded", "description"), rows + [(name, "yes", "") for name in sorted(recorded)]


def _tasks(study: str) -> Table:
    from registry.benchmarks.kinds import load_benchmark
    from registry.config.files import load_studies

    study_file, *_ = load_studies(study or "demo")
    grid = load_benchmark(study_file.benchmark).select(study_file.tasks, study_file.languages)
    return ("task", "languages"), [(task, ", ".join(grid.languages)) for task in grid.tasks]


def _models(_: str) -> Table:
    from registry.models.base import BUILT_IN, KNOWN
    from registry.models.catalogue import PAPER

    def place(name: str) -> str:
        if name in BUILT_IN:
            return "built in"
        return "hub, after its licence was accepted" if PAPER[name].gated else "hub"

    rows: list[tuple[str, ...]] = [(name, family, f"{size:.3g}", place(name)) for name, (family, size) in KNOWN.items()]
    return ("base model", "family", "billion parameters", "from"), rows


def _adapters(study: str) -> Table:
    from registry.config.names import recorded_name
    from registry.tracking.names import Tag
    from registry.tracking.store import pages, quoted

    rows: list[tuple[str, ...]] = []
    if (client := _existing_store()) is not None:
        wanted = f"tags.{Tag.STUDY} = {quoted(recorded_name(study))}" if study else ""
        found = pages(lambda token: client.search_model_versions(wanted, max_results=1000, page_token=token))
        rows = [_adapter_row(version.name, str(version.version), version.tags) for version in found]
    return ("adapter", "base model", "source", "seed", "study"), sorted(rows)


def _adapter_row(name: str, version: str, tags: Mapping[str, str]) -> tuple[str, ...]:
    from registry.tracking.names import Tag

    source = f"{tags.get(Tag.SOURCE_TASK, '?')}/{tags.get(Tag.SOURCE_LANGUAGE, '?')}"
    return f"{name}/{version}", tags.get(Tag.BASE_MODEL, ""), source, tags.get(Tag.SEED, ""), tags.get(Tag.STUDY, "")


def _recorded_studies() -> Iterator[str]:
    """Yield the names of studies that the store has records of."""
    from registry.tracking.store import studies

    if (client := _existing_store()) is not None:
        yield from (name for name in studies(client).values() if name != "Default")


def _existing_store() -> MlflowClient | None:
    """Open the store; None where it has not been created yet."""
    from registry.tracking.store import open_store, sqlite_file, tracking_uri

    file = sqlite_file(tracking_uri())
    return None if file is not None and not file.exists() else open_store()


#: What can be listed.
KINDS: dict[str, Callable[[str], Table]] = {
    "studies": _studies,
    "tasks": _tasks,
    "models": _models,
    "adapters": _adapters,
}


if __name__ == "__main__":
    main()
