"""Rank the adapters of a base model, and sources not trained yet, by expected gain and risk of harm."""

from __future__ import annotations

import argparse
from pathlib import Path

from entrypoints.command import STUDY, CommandParser, require_output, run_command, split_names


def command_line() -> CommandParser:
    """Return the parser of the parameters."""
    parser = CommandParser("recommend", __doc__, "-P study=demo -P model=demo-wide -P want=kind/tr")
    parser.add_argument("--study", default="demo", help=STUDY)
    parser.add_argument("--model", default="", help="base model; may be omitted if the study has only one")
    parser.add_argument(
        "--want", default="", help="targets task/language to gain on, separated by commas; * is all tasks or languages"
    )
    parser.add_argument("--protect", default="", help="targets that must not be harmed, in the same form")
    parser.add_argument(
        "--vectors", default="", help="CSV file of typological vectors, as for analyze; empty: URIEL's if installed"
    )
    parser.add_argument("--rows", default=20, type=int, help="rows to print; the file has all")
    parser.add_argument("--output", default="", help="folder for recommend.csv; empty: reports/<study>")
    return parser


def main(words: list[str] | None = None) -> None:
    """Parse, read the study, rank, write the table."""
    given = command_line().parse_args(words)
    run_command(lambda: _recommend(given))


def _recommend(given: argparse.Namespace) -> int:
    from analysis.reading.cache import cache_root
    from analysis.reading.study import StudyStore
    from analysis.recommend.recorded import recommend_recorded
    from registry.config.names import recorded_name
    from registry.tracking.runs import annotate_launch, launching_run
    from registry.tracking.store import open_store

    launch, study = launching_run(), recorded_name(given.study)
    output = Path(given.output or Path("reports") / study)
    require_output(output)
    client = open_store()
    found = recommend_recorded(
        StudyStore(client, study, cache_root()),
        model=given.model,
        want=split_names(given.want),
        protect=split_names(given.protect),
        vectors=Path(given.vectors) if given.vectors else None,
    )
    print(f"{found.model}: wanted {', '.join(map(str, found.want))}")
    print(found.text(given.rows))
    files = found.write(output)
    print(f"files: {', '.join(map(str, files))}")
    annotate_launch(client, launch, f"Recommended for {', '.join(map(str, found.want))}: `{files[0]}`.")
    return 0


if __name__ == "__main__":
    main()
