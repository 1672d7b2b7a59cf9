"""Import results measured elsewhere as a study.

They are the published table, or folders that lm-evaluation-harness wrote.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from entrypoints.caller import runnable_here
from entrypoints.command import CommandParser, require_output, run_command, where_to_look


def command_line() -> CommandParser:
    """Return the parser of the parameters."""
    parser = CommandParser("import", __doc__, "-P source=cells.csv -P study=published")
    parser.add_argument(
        "--source",
        default="",
        help="CSV file in the published study's columns; or manifest (YAML, CSV) of folders that lm_eval wrote, or a "
        "folder that contains it as manifest.yaml",
    )
    parser.add_argument("--study", default="", help="name of the study and its experiment; empty: the source's own")
    parser.add_argument("--format", default="auto", help="published, lm_eval, or auto: recognized by the file's name")
    parser.add_argument(
        "--families", default="", help="families of models that are not known: model=family, separated by commas"
    )
    parser.add_argument("--output", default="", help="folder for the frame as Parquet; empty: none is written")
    return parser


def main(words: list[str] | None = None) -> None:
    """Parse, read and check, record, print what to run next."""
    given = command_line().parse_args(words)
    run_command(lambda: _import(given))


def _import(given: argparse.Namespace) -> int:
    from registry.errors import Refused
    from registry.imports import read_families, read_source, record_import, study_name, write_frame

    if not given.source:
        raise Refused("source is missing: name the CSV file, or the manifest of lm_eval's folders, to import")
    if given.output:
        require_output(Path(given.output))
    source = Path(given.source).expanduser()
    study, families = study_name(given.study, source), read_families(given.families)
    with tempfile.TemporaryDirectory() as staging:
        imported = read_source(source, staging=Path(staging), form=given.format, families=families)
        from registry.tracking.runs import annotate_launch, launching_run
        from registry.tracking.store import open_store, shown_uri

        launch, client = launching_run(), open_store()
        run_id, reused = record_import(client, study, imported)
        if given.output:
            write_frame(imported, Path(given.output))
    print(f"{'already imported' if reused else 'imported'}: {imported.summary()}")
    if low := imported.below_chance():
        print(f"warning: {low}", file=sys.stderr)
    for note in imported.notes:
        print(f"note:    {note}")
    if given.output:
        print(f"files:   {given.output}")
    print(f"run:     {run_id} in experiment {study!r} of {shown_uri(client.tracking_uri)}")
    experiment = client.get_run(run_id).info.experiment_id
    print(f"look:    {where_to_look(shown_uri(client.tracking_uri), experiment)}")
    print(runnable_here(f"next:    mlflow run . -e analyze --env-manager local -P study={study}"))
    annotate_launch(client, launch, f"Import run `{run_id}`.")
    return 0


if __name__ == "__main__":
    main()
