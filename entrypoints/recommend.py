"""Rank the adapters of a base, and sources not yet trained, by expected gain and by risk of harm."""

from __future__ import annotations

from pathlib import Path

from entrypoints.command import STUDY, listed, parser, require_output, run_command


def main() -> None:
    """Parse, read the study, rank, write the table."""
    example = "mlflow run . -e recommend --env-manager local -P study=demo -P model=demo-wide -P want=kind/tr"
    arguments = parser(__doc__, example)
    arguments.add_argument("--study", default="demo", help=STUDY)
    arguments.add_argument("--model", default="", help="base; may be left out where the study has one")
    arguments.add_argument(
        "--want", default="", help="targets task/language to gain on, by commas; * for all tasks or languages"
    )
    arguments.add_argument("--protect", default="", help="targets that are not to be harmed, written likewise")
    arguments.add_argument(
        "--vectors", default="", help="CSV of typological vectors, as for analyze; empty takes URIEL's if installed"
    )
    arguments.add_argument("--rows", default=20, type=int, help="rows to show; the file has all")
    arguments.add_argument("--output", default="", help="folder for recommend.csv; empty takes reports/<study>")
    given = arguments.parse_args()

    def recommend() -> int:
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
            want=listed(given.want),
            protect=listed(given.protect),
            vectors=Path(given.vectors) if given.vectors else None,
        )
        print(f"{found.model}: wanted {', '.join(map(str, found.want))}")
        print(found.text(given.rows))
        files = found.write(output)
        print(f"files: {', '.join(map(str, files))}")
        annotate_launch(client, launch, f"Recommended for {', '.join(map(str, found.want))}: `{files[0]}`.")
        return 0

    run_command(recommend)


if __name__ == "__main__":
    main()
