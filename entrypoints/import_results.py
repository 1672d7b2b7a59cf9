"""Make a study of results that were measured elsewhere: the published table, or lm-evaluation-harness folders."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from entrypoints.command import parser, require_output, run_command, where_to_look


def main() -> None:
    """Parse, read and check, record, say what to run next."""
    arguments = parser(__doc__, "mlflow run . -e import --env-manager local -P source=cells.csv -P study=published")
    arguments.add_argument(
        "--source",
        default="",
        help="CSV file in the published study's columns; or manifest (YAML, CSV) of folders that lm_eval wrote, or a "
        "folder that holds it as manifest.yaml",
    )
    arguments.add_argument("--study", default="", help="name it gets, its experiment's; empty takes the source's own")
    arguments.add_argument("--format", default="auto", help="published, lm_eval, or auto: told by the file's name")
    arguments.add_argument(
        "--families", default="", help="families of models that are not known: model=family, separated by commas"
    )
    arguments.add_argument("--output", default="", help="folder for the frame as Parquet; empty writes none")
    given = arguments.parse_args()

    def import_results() -> int:
        from entrypoints.caller import pasted
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
        print(pasted(f"next:    mlflow run . -e analyze --env-manager local -P study={study}"))
        annotate_launch(client, launch, f"Import run `{run_id}`.")
        return 0

    run_command(import_results)


if __name__ == "__main__":
    main()
